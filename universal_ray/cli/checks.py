"""Options that are none, choices that are not there, values that cannot be: each in a sentence."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from hydra.core.override_parser.types import Glob, Override, OverrideType

from universal_ray.cli import grammar
from universal_ray.cli.help import Option, options_of
from universal_ray.config.choice import choose, nearest
from universal_ray.config.site import FORMER, FORMER_KEY, KEY
from universal_ray.errors import ConfigurationError


def check_options(
    options: Sequence[str],
    schema: type,
    choices: Mapping[str, Sequence[str]],
    several: bool = False,
) -> list[Override]:
    """Options as Hydra is to read them, each checked; one may have several values where that is
    said. `choices` are those of each group. Raises ConfigurationError.
    """
    known = {each.key: each for each in options_of(schema)}
    given = []
    for option in options:
        override = grammar.read(grammar.spelt(option, known, several), known)
        given.append(override)
        group = override.key_or_group
        if any(re.fullmatch("_.*_", part) for part in re.split("[./@:]", key_of(override))):
            raise ConfigurationError(
                f"{option} names a key of Hydra's machinery, which is no option: leave it out"
            )
        if not several:
            grammar.check_once(override, known)
        if group in choices and override.package is None:
            _check_choice(override, choices[group])
        elif not re.match("hydra[./]", group):
            _check_key(override, known, choices)
            for value in _values(override):
                _check_inside(value, key_of(override), str(override.input_line), known)
        elif override.is_add() or override.is_force_add():  # Hydra itself would take any
            raise ConfigurationError(
                f"{option} adds to Hydra's own keys and would do nothing: name one that it has, "
                "without +"
            )
    return given


def _values(override: Override) -> list[Any]:
    """Its value, or its values."""
    if not override.is_sweep_override():
        return [override.value()]
    if isinstance(override.value(), Glob):
        return []
    return [grammar.parsed(f"x={each}").value() for each in override.sweep_string_iterator()]


def _check_inside(value: Any, key: str, typed: str, known: Mapping[str, Option]) -> None:
    """Raise ConfigurationError for a value, or one in a section's, that cannot be."""
    option = known[key]
    if not option.section:
        grammar.check_value(value, option, typed)
    elif isinstance(value, dict):
        for name, each in value.items():
            if f"{key}.{name}" not in known:
                raise ConfigurationError(
                    f"{typed} names no option ({key}.{name}): {meant(f'{key}.{name}', known)}"
                )
            _check_inside(each, f"{key}.{name}", typed, known)
    elif value is not None or not option.optional:
        raise ConfigurationError(f"{typed} is no value of {key}: give {grammar.wanted(option)}")


def meant(key: str, keys: Iterable[str]) -> str:
    """The end of a sentence that refuses a key."""
    if key == FORMER_KEY:
        now = " or ".join(f"{KEY}={site} (for {value})" for site, value in FORMER.items())
        return f"write {now}"
    ends = {each.rsplit(".", 1)[-1]: each for each in reversed(list(keys))}
    near = nearest(key, keys) or ends.get(nearest(key.rsplit(".", 1)[-1], ends) or "")
    return f"did you mean {near}?" if near else "--help tells the options"


def key_of(override: Override) -> str:
    return override.get_key_element().lstrip("+~")


def _check_choice(override: Override, choices: Sequence[str]) -> None:
    """One choice of a group, or several, that are there."""
    group, option = override.key_or_group, str(override.input_line)
    if override.is_delete():
        raise ConfigurationError(f"{option} takes a group away: choose from {', '.join(choices)}")
    asked = [override.value()]
    if override.is_sweep_override() and not isinstance(override.value(), Glob):
        asked = list(override.sweep_string_iterator())
    for choice in asked:
        if choice not in choices and not isinstance(choice, Glob):
            raise ConfigurationError(
                f"{option} is no choice of {group}: {choose(choice, choices)}"
            )
    if not override.type == OverrideType.CHANGE:
        raise ConfigurationError(f"{option} adds a group: write {option.lstrip('+')}")


def _check_key(
    override: Override, known: Mapping[str, Option], groups: Iterable[str]
) -> None:
    """A key of the schema that is given a value."""
    key, option = key_of(override), str(override.input_line)
    if key not in known:
        raise ConfigurationError(f"{option} names no option ({key}): "
                                 f"{meant(key, [*known, *groups])}")
    if override.is_delete():
        raise ConfigurationError(
            f"{option} takes an option away: give {key} a value, or leave it out"
        )
    if override.is_add():
        raise ConfigurationError(f"{option} adds what is there: write {option.lstrip('+')}")
