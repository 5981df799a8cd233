"""One option as it is typed: how Hydra is to read it, and whether its value can be.

Hydra's grammar gives signs such as `=`, `{` or `[` a meaning, and makes `1e3` a number. A value
that is text is what was typed: it is put in quotes where Hydra could read nothing, or another
thing. Where it could mean several values it is refused, with the quotes to type.
"""

import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, get_args, get_origin

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from universal_ray.cli.help import Option
from universal_ray.config.choice import choose
from universal_ray.errors import ConfigurationError

NAMES: dict[Any, str] = {
    int: "a whole number", float: "a number", bool: "true or false", str: "text", Any: "a value",
}  # fmt: skip
TRUTHS = {"yes", "no", "on", "off", "true", "false", "y", "n"}
OPENING, CLOSING = "([{", ")]}"


def spelt(option: str, known: Mapping[str, Option], several: bool = False) -> str:
    """The option, its value in quotes where it is text that Hydra would read as something else;
    `several`: commas are between values.
    """
    name, equals, value = option.partition("=")
    found = known.get(name.lstrip("+"))
    if not equals or found is None or element(found.kind) not in (str, Any):
        return option
    each = _spelt_text if found.kind is str else _spelt_list
    return f"{name}={','.join(map(each, _split(value) if several else [value]))}"


def element(kind: Any) -> Any:
    """The type of what is in a list; a type that is none itself."""
    return get_args(kind)[0] if get_origin(kind) is list else kind


def quoted(text: str) -> str:
    """In quotes of Hydra's, within which nothing but `${` has a meaning."""
    escaped = re.sub(r'(\\*)"', r'\1\1\\"', text)
    return '"' + re.sub(r"(\\+)$", r"\1\1", escaped) + '"'


def _spelt_text(value: str) -> str:
    """One text: in quotes unless Hydra reads text, or several values, or a structure."""
    try:
        read = parsed(f"x={value}").value()
    except HydraException:
        return quoted(value)
    number = isinstance(read, bool | int | float) and not re.fullmatch(r"\w+\(.*\)", value.strip())
    return quoted(value) if number else value


def _spelt_list(value: str) -> str:
    """A list of texts, each as `_spelt_text` would have it; anything else as it is."""
    inside = value.strip()
    if not (inside.startswith("[") and inside.endswith("]")) or not inside[1:-1].strip():
        return value
    parts = [part.strip() for part in _split(inside[1:-1])]
    return f"[{','.join(map(_spelt_text, parts))}]"


def _split(text: str) -> Iterator[str]:
    """At the commas that are in no quotes and no brackets; whole where these do not match."""
    parts, depth, quote = [""], 0, ""
    for sign in text:
        if quote:
            quote = "" if sign == quote else quote
        elif sign in "'\"":
            quote = sign
        elif sign in OPENING:
            depth += 1
        elif sign in CLOSING:
            depth -= 1
        elif sign == "," and depth == 0:
            parts.append("")
            continue
        parts[-1] += sign
    yield from parts if not quote and depth == 0 else [text]


def parsed(option: str) -> Override:
    """As Hydra reads it. Raises HydraException where it cannot."""
    (override,) = OverridesParser.create().parse_overrides([option])
    return override


def read(option: str, known: Mapping[str, Option]) -> Override:
    """As Hydra reads it. Raises ConfigurationError, with what to type, where it cannot."""
    try:
        return parsed(option)
    except HydraException as error:
        name, equals, _ = option.partition("=")
        found = known.get(name.lstrip("+~"))
        if not equals:
            advice = f"write {option}=VALUE"
        elif found is not None and not found.section:
            advice = f"give {wanted(found)}"
        else:
            advice = "write KEY=VALUE"
        raise ConfigurationError(f"{option} cannot be read: {advice}") from error


def check_value(value: Any, option: Option, typed: str) -> None:
    """Raise ConfigurationError where a value, as Hydra has read it, is none of an option's kind."""
    key, of = option.key, element(option.kind)
    listed = of is not option.kind
    if isinstance(value, str) and "${" in value:
        return  # what it stands for is seen when all is there
    if value is None:
        if not option.optional:
            raise ConfigurationError(f"{typed} takes its value away: give {wanted(option)}")
    elif listed and isinstance(value, list):
        for each in value:
            if isinstance(each, list | dict):
                raise ConfigurationError(f"{key} is {value}: give a list of single values")
            check_value(each, replace(option, kind=of, optional=False), f"{each} in {typed}")
    elif listed:
        raise ConfigurationError(f"{typed} is no list: write {key}=[{typed.partition('=')[2]}]")
    elif isinstance(value, list | dict) and of is str:
        literal = quoted(typed.partition("=")[2])
        raise ConfigurationError(
            f"{typed} gives a structure where {key} is text: to have these signs in it, write "
            + shlex.quote(f"{key}={literal}")
        )
    elif option.choices and value not in option.choices:
        raise ConfigurationError(
            f"{typed} is no choice of {key}: {choose(value, option.choices)}"
        )
    elif not option.choices and not _fits(value, of):
        whole = isinstance(value, float) and value.is_integer()
        advice = f"write {int(value)}" if of is int and whole else "give one"
        raise ConfigurationError(f"{typed} is not {NAMES[of]}: {advice}")


def check_once(override: Override, known: Mapping[str, Option]) -> None:
    """Raise ConfigurationError for several values, with the quotes that make them one text."""
    if not override.is_sweep_override():
        return
    line = str(override.input_line)
    key, _, value = line.partition("=")
    found, advice = known.get(override.key_or_group), "give one"
    if found is not None and found.kind is str:
        advice += f", or, with these signs in it, write {shlex.quote(f'{key}={quoted(value)}')}"
    elif found is not None and element(found.kind) is not found.kind:
        advice = f"write {shlex.quote(f'{key}=[{value}]')}"
    raise ConfigurationError(f"{line} gives several values: {advice}")


def wanted(option: Option) -> str:
    """What an option's value has to be, as the end of a sentence."""
    if option.section:
        return f"its options by themselves, as {option.key}.NAME=VALUE"
    if option.choices:
        return f"one of {', '.join(option.choices)}"
    of = element(option.kind)
    kind = NAMES[of] if of is option.kind else f"a list, as {option.key}=[VALUE,VALUE]"
    return f"{kind} or null" if option.optional else kind


def _fits(value: Any, kind: Any) -> bool:
    """As OmegaConf takes single values for a kind."""
    if isinstance(value, list | dict):
        return kind is Any
    if kind is bool:
        return isinstance(value, bool | int) or str(value).lower() in TRUTHS
    if kind in (str, Any):
        return True
    if isinstance(value, bool) or (kind is int and isinstance(value, float)):
        return False
    try:
        kind(value)
    except ValueError:
        return False
    return True
