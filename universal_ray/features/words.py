"""Word lists: YAML files that declare features of the token, this project's own and the user's."""

import hashlib
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import yaml

from universal_ray.errors import ConfigurationError, MissingError
from universal_ray.features.features import IdFeature, by_stripped, by_text, by_word

OWN_LISTS = Path(__file__).parent / "words"

MATCHES: dict[str, Callable[[tuple[str, ...]], Any]] = {
    "word": lambda words: by_word(frozenset(words).__contains__),
    "case": lambda words: by_stripped(frozenset(words).__contains__),
    "starts": lambda words: by_word(lambda text: text.startswith(words)),
    "ends": lambda words: by_word(lambda text: text.endswith(words)),
    "exact": lambda words: by_text(frozenset(words).__contains__),
    "contains": lambda words: by_text(lambda text: any(word in text for word in words)),
}
"""How a token matches a list: stripped and lower-cased, it is one of the words (`word`), starts or
ends with one; stripped, case and all, it is one (`case`); as it stands, spaces and all, it is one
(`exact`) or contains one."""


def read_words(path: Path) -> tuple[IdFeature, ...]:
    """The features that one file declares. Raises ConfigurationError for anything unexpected."""
    path = Path(os.path.expanduser(path))
    _check_there(path)
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        line = str(error).splitlines()[0].rstrip(".")
        raise ConfigurationError(f"word list {path} is no YAML ({line}): mend it") from error
    if not isinstance(content, dict) or set(content) != {"family", "match", "features"}:
        raise ConfigurationError(
            f"word list {path} must hold `family`, `match` and `features`, and nothing else"
        )
    if str(content["match"]) not in MATCHES:
        raise ConfigurationError(
            f"`match` of {path} is {content['match']}: choose one of {', '.join(MATCHES)}"
        )
    if not isinstance(content["features"], dict):
        raise ConfigurationError(f"`features` of {path} must map each name to its words")
    found: list[IdFeature] = []
    for name, entry in content["features"].items():
        found += _features(path, str(content["family"]), content["match"], str(name), entry)
    return tuple(found)


def contents(paths: Iterable[str]) -> list[str]:
    """sha256 (hex) of every word list, those that come with this project first.

    Raises MissingError for a file that is not there.
    """
    found = []
    given = (Path(os.path.expanduser(path)) for path in paths)
    for path in [*sorted(OWN_LISTS.glob("*.yaml")), *given]:
        _check_there(path)
        found.append(hashlib.sha256(path.read_bytes()).hexdigest())
    return found


def own_words() -> tuple[IdFeature, ...]:
    """The features of every word list that comes with this project, in order of the file names."""
    return tuple(found for path in sorted(OWN_LISTS.glob("*.yaml")) for found in read_words(path))


def _features(path: Path, family: str, match: str, name: str, entry: Any) -> list[IdFeature]:
    """One feature of a list of words, or one for each word where the name has a place for it."""
    if not isinstance(entry, dict) or set(entry) != {"description", "words"}:
        raise ConfigurationError(f"{name} in {path} must hold `description` and `words` alone")
    if not isinstance(entry["description"], str):
        raise ConfigurationError(f"`description` of {name} in {path} must be text")
    words = entry["words"].split() if isinstance(entry["words"], str) else entry["words"]
    if not isinstance(words, list) or not words or not all(isinstance(word, str) for word in words):
        raise ConfigurationError(
            f"`words` of {name} in {path} must be text or a list of text: "
            "quote what YAML takes for a number or a truth value, as in 'no'"
        )
    groups = {name.replace("{}", word): [word] for word in words} if "{}" in name else {name: words}
    return [
        IdFeature(
            name=each,
            family=family,
            description=entry["description"].replace("{}", group[0]),
            members=MATCHES[match](tuple(group)),
        )
        for each, group in groups.items()
    ]


def _check_there(path: Path) -> None:
    if not path.is_file():
        raise MissingError(f"there is no word list {path}: check taxonomy.words")
