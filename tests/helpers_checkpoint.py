"""A model's directory, changed, and the sentence by which it is refused."""

import json
from pathlib import Path

import pytest

from universal_ray.errors import ModelError
from universal_ray.models.source import resolve


def configure(directory: Path, **changes) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def refused(directory: Path) -> str:
    """The sentence by which a model is refused, before any of it is loaded."""
    with pytest.raises(ModelError) as error:
        resolve(str(directory))
    text = str(error.value)
    assert "\n" not in text and text.endswith(".") and ". " not in text
    assert str(directory) in text
    return text
