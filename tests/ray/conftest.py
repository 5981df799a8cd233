"""What tests of this folder share."""

import pytest
from ray import cloudpickle


@pytest.fixture
def by_value(request):
    """Workers get the classes of the test's module as they are: they cannot import it."""
    cloudpickle.register_pickle_by_value(request.module)
    yield
    cloudpickle.unregister_pickle_by_value(request.module)
