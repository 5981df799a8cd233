"""Of the cases of a sweep, which `make test` tries."""

from collections.abc import Collection, Iterable
from typing import Any

import pytest


def tiers(cases: Iterable[Any], quick: Collection[Any]) -> list[Any]:
    """Cases for `parametrize`: those that are not among the quick ones are `thorough`.

    A case that is a tuple is one of several arguments.
    """
    thorough = pytest.mark.thorough
    return [
        case if case in quick else pytest.param(*_several(case), marks=thorough) for case in cases
    ]


def _several(case: Any) -> tuple[Any, ...]:
    return case if isinstance(case, tuple) else (case,)
