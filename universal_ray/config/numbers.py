"""Numbers of a configuration that cannot be. Pure."""

import math
from collections.abc import Mapping
from typing import Any

from universal_ray.errors import ConfigurationError


def check_positive(values: Mapping[str, int | None]) -> None:
    """Raises ConfigurationError for a count that is below 1; None is no count yet."""
    for key, value in values.items():
        if value is not None and value < 1:
            raise ConfigurationError(f"{key} is {value}: give a number of at least 1")


def check_finite(value: Any, key: str = "") -> None:
    """Raises ConfigurationError for a number, however deep in dictionaries and lists, that is not
    finite or an integer beyond 64 bits; `key` is the dotted name of what is above it.
    """
    if isinstance(value, dict):
        for name, each in value.items():
            check_finite(each, f"{key}{name}.")
    elif isinstance(value, list):
        for each in value:
            check_finite(each, key)
    elif (isinstance(value, float) and not math.isfinite(value)) or (
        isinstance(value, int) and not -(2**63) <= value < 2**63
    ):
        raise ConfigurationError(f"{key.rstrip('.')} is {value}: give a number that is finite")
