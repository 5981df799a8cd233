"""What a file that is read back must look like, and in words where it does not. Pure.

A shape is a type (`float` takes whole numbers too, no number may be infinite), a test, a tuple of
shapes of which one must fit, a list `[shape]` of any length or `[shape, shape, ...]` of that one, a
dictionary of the keys that must be there with their shapes, or `{str: shape}` for any keys.
"""

import json
import math
from collections.abc import Callable
from typing import Any

ABSENT = object()
"""Among a key's shapes: it may be missing."""


class MalformedError(ValueError):
    """A file does not hold what it must; the words are part of a sentence."""


def parse(data: bytes, shape: Any, load: Callable[[bytes], Any] = json.loads) -> Any:
    """The content of a file. Raises MalformedError unless `load` reads it and it has the shape."""
    try:
        value = load(data)
    except (ValueError, RecursionError) as error:
        raise MalformedError(str(error).split("\n")[0] or "nested too deeply") from error
    found = mistake(value, shape)
    if found is not None:
        raise MalformedError(found)
    return value


def moment(value: Any) -> bool:
    """Seconds since the epoch, before the year 5000."""
    return _of(value, float) and 0 <= value < 1e11


def mistake(value: Any, shape: Any, where: str = "") -> str | None:
    """The first place where a value differs from a shape, as words; None where it fits."""
    if value is ABSENT:
        optional = isinstance(shape, tuple) and ABSENT in shape
        return None if optional else f"{where} is missing"
    if isinstance(shape, tuple):
        found = [mistake(value, each, where) for each in shape if each is not ABSENT]
        return None if None in found else found[0]
    if isinstance(shape, dict):
        if not isinstance(value, dict):
            return f"{where or 'it'} is no mapping"
        if str in shape:
            named = [(str(key), each, shape[str]) for key, each in value.items()]
        else:
            named = [(key, value.get(key, ABSENT), inner) for key, inner in shape.items()]
        parts = (mistake(each, inner, f"{where}.{key}" if where else key)
                 for key, each, inner in named)
        return next(filter(None, parts), None)
    if isinstance(shape, list):
        if not isinstance(value, list) or len(shape) not in (1, len(value)):
            return f"{where or 'it'} is no list" + (f" of {len(shape)}" if len(shape) > 1 else "")
        inner = shape * len(value) if len(shape) == 1 else shape
        parts = (mistake(each, one, f"{where}[{index}]")
                 for index, (each, one) in enumerate(zip(value, inner, strict=True)))
        return next(filter(None, parts), None)
    if shape is None:
        return None if value is None else f"{where or 'it'} is not empty"
    fits = _of(value, shape) if isinstance(shape, type) else shape(value)
    return None if fits else f"{where or 'it'} is no {_called(shape)}"


def _of(value: Any, kind: type) -> bool:
    if kind in (int, float) and isinstance(value, bool):
        return False
    if kind is float:
        return isinstance(value, int | float) and math.isfinite(value)
    return isinstance(value, kind)


def _called(shape: Any) -> str:
    names: dict[Any, str] = {str: "text", int: "whole number", float: "number", dict: "mapping"}
    return names[shape] if shape in names else str(shape.__name__)
