"""What a summary holds beside what is said of it."""

import re
from collections.abc import Iterator
from typing import Any

Said = dict[str, tuple[str, str]]


def differences(summary: dict[str, Any], said: Said) -> tuple[set[str], set[str]]:
    """Places of a summary that nobody describes, and descriptions of what it has no place for.

    Where a whole part is null or empty, so may be all that is said to lie under it.
    """
    places = dict(_places(summary, ""))
    patterns = {key: re.compile(_pattern(key)) for key in said}
    empty = [place for place, value in places.items() if value in (None, [], {})]
    unsaid = {
        place for place in places
        if not any(pattern.fullmatch(place) for pattern in patterns.values())
        and not (place in empty and any(_under(key, place) for key in said))
    }
    unseen = {
        key for key, pattern in patterns.items()
        if not any(map(pattern.fullmatch, places)) and not any(_under(key, each) for each in empty)
    }
    return unsaid, unseen


def _places(value: Any, place: str) -> Iterator[tuple[str, Any]]:
    """Every leaf with its place; an empty list or mapping is one."""
    if isinstance(value, dict) and value:
        for key, each in value.items():
            yield from _places(each, f"{place}.{key}" if place else key)
    elif isinstance(value, list) and value:
        for each in value:
            yield from _places(each, f"{place}[]")
    else:
        yield place, value


def _pattern(key: str) -> str:
    """A regular expression of the places that a key describes."""
    return "".join(
        ".+?" if part.startswith("{") else re.escape(part)
        for part in re.split(r"(\{[^}]*\})", key)
    )


def _under(key: str, place: str) -> bool:
    """Whether what a key describes lies under a place."""
    parts = re.split(r"(?=\.)|(?=\[\])", key)
    return any(re.fullmatch(_pattern("".join(parts[:n])), place) for n in range(1, len(parts)))
