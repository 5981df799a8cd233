"""Paths of users that nobody is, and names that the hub can have none of."""

from collections.abc import Callable
from pathlib import Path

import pytest

from universal_ray.cli.options import Namespace, _folders
from universal_ray.corpus.documents import _matching
from universal_ray.corpus.rows import glance, open_corpus
from universal_ray.errors import MissingError, UniversalRayError
from universal_ray.features.words import contents, read_words
from universal_ray.models.latents import _located
from universal_ray.models.source import resolve

NOBODY = "~no-such-user/some/thing"


@pytest.mark.parametrize(
    "read",
    [
        resolve, _located, glance, open_corpus,
        lambda path: read_words(Path(path)), lambda path: contents([path]),
        lambda path: _folders(Namespace(config_dir=path)),
    ],
)  # fmt: skip
def test_a_home_that_nobody_has_is_a_path_that_is_not_there(read: Callable[[str], object]):
    with pytest.raises(UniversalRayError, match=NOBODY):
        read(NOBODY)
    assert _matching(NOBODY) == []


@pytest.mark.parametrize("name", ["a--b/c", "a/b..c", "a/b.git", f"a/{'b' * 100}", "-a/b"])
@pytest.mark.parametrize("read", [resolve, _located])
def test_a_name_that_the_hub_can_have_none_of_is_told_to_be_one(name, read):
    with pytest.raises(MissingError, match=r"no directory .*, and the hub can have no model .*\)"):
        read(name)
