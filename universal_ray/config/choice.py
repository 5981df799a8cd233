"""What a name that is none may have meant, for the one sentence that refuses it. Pure."""

import difflib
from collections.abc import Iterable


def nearest(given: str, names: Iterable[str]) -> str | None:
    """The name most like the one given, None where none is like it."""
    return next(iter(difflib.get_close_matches(given, list(names), n=1)), None)


def choose(given: object, choices: Iterable[str]) -> str:
    """The end of a sentence that refuses a choice: the nearest, and every one."""
    choices = list(choices)
    near, every = nearest(str(given), choices), ", ".join(choices)
    return f"did you mean {near} (of {every})?" if near else f"choose from {every}"
