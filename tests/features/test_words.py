"""Word lists of a user's own: read, refused with a sentence, and no trap of YAML missed."""

import os
from pathlib import Path

import pytest
from helpers_taxonomy import vocabulary_of

from universal_ray.errors import ConfigurationError, MissingError
from universal_ray.features.words import OWN_LISTS, own_words, read_words

COLOURS = """
family: colour
match: word
features:
  warm: {description: a warm colour, words: red orange}
  colour_{}: {description: "the colour {}", words: [blue, 'no']}
"""


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_a_list_declares_features(tmp_path):
    warm, blue, none = read_words(write(tmp_path / "colours.yaml", COLOURS))
    vocabulary = vocabulary_of(" Red", "orange", "blue", "no")
    assert warm.members(vocabulary).tolist() == [True, True, False, False]
    assert blue.members(vocabulary).tolist() == [False, False, True, False]
    assert (warm.family, warm.name, warm.description) == ("colour", "warm", "a warm colour")
    assert (blue.name, blue.description) == ("colour_blue", "the colour blue")
    assert none.name == "colour_no"


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("'no'", "no", "must be text or a list of text"),
        ("[blue, 'no']", "[]", "must be text or a list of text"),
        ("match: word", "match: regex", "choose one of word, case, starts, ends, exact, contains"),
        ("family: colour", "kin: colour", "must hold `family`, `match` and `features`"),
        ("words: red", "word: red", "must hold `description` and `words` alone"),
        ("features:", "features: [", "is no YAML"),
        ("family:", "family: \x01", "is no YAML"),
        ("features:", "features: " + "[" * 5_000, "is no YAML"),
        ("match: word", "match: [word]", "choose one of word"),
        ("a warm colour", "3", "`description` of warm .* must be text"),
    ],
)
def test_what_is_amiss_is_said(tmp_path, old, new, sentence):
    assert old in COLOURS
    path = write(tmp_path / "colours.yaml", COLOURS.replace(old, new))
    with pytest.raises(ConfigurationError, match=sentence) as raised:
        read_words(path)
    assert str(path) in str(raised.value) and "\n" not in str(raised.value)


def test_features_that_are_no_mapping_are_refused(tmp_path):
    path = write(tmp_path / "list.yaml", "family: a\nmatch: word\nfeatures: [b]")
    with pytest.raises(ConfigurationError, match="must map each name"):
        read_words(path)


def test_what_is_no_text_is_refused(tmp_path):
    path = tmp_path / "binary.yaml"
    path.write_bytes(b"\xff\xfe\xff")
    with pytest.raises(ConfigurationError, match="is no YAML"):
        read_words(path)


def test_a_missing_list_is_missing_and_a_folder_or_a_pipe_is_none(tmp_path):
    os.mkfifo(tmp_path / "pipe.yaml")
    for name in ("none.yaml", "pipe.yaml", "."):
        with pytest.raises(MissingError, match=r"there is no word list .*: check taxonomy\.words"):
            read_words(tmp_path / name)


def test_the_projects_own_lists_are_read_whole():
    assert len(list(OWN_LISTS.glob("*.yaml"))) == 10
    found = own_words()
    assert len({feature.name for feature in found}) == len(found)
    assert all(feature.description for feature in found)
    # A word that YAML took for a truth value would be refused; these are the ones it could take.
    vocabulary = vocabulary_of("no", "on", "OR", "y", "n")
    members = {f.name: f.members(vocabulary) for f in found if f.members(vocabulary).any()}
    assert {"negation", "state_code", "letter_y", "letter_n"} <= set(members)
