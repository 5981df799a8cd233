"""A small GPT-2, and a copy of it to be changed."""

import shutil
from pathlib import Path

import pytest
from helpers_models import make_gpt2


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory):
    return make_gpt2(tmp_path_factory.mktemp("gpt2"), seed=0, layers=3, width=16, context=24)


@pytest.fixture
def copy(gpt2, tmp_path):
    return Path(shutil.copytree(gpt2, tmp_path / "copy"))
