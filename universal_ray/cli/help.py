"""What `--help` says: an entry point's options, from the docstrings under their fields. Pure."""

import ast
import dataclasses
import functools
import inspect
import textwrap
from collections.abc import Mapping, Sequence
from enum import Enum
from itertools import pairwise
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

WIDTH = 100
Example = tuple[str, str]
"""Options as they are typed, and what they are for."""
FLAGS = [
    ("--help", "this text, with the values that the options beside it lead to"),
    ("--cfg job", "all values, as YAML"),
    ("-m", "a job for every combination of values with commas between, `-m KEY=1,2`: one after the "
     "other, past those that fail"),
]
OWN_CHOICES = "--config-dir DIR", "choices of your own: DIR/experiment/NAME.yaml and so on"


@dataclasses.dataclass(frozen=True)
class Option:
    """A field of a schema."""

    key: str
    """dotted"""
    kind: Any
    """its type, without None"""
    optional: bool
    """whether it may be null"""
    told: str
    """the docstring under it; empty where there is none"""

    @property
    def section(self) -> bool:
        return dataclasses.is_dataclass(self.kind)

    @property
    def choices(self) -> dict[str, str]:
        """Of an enumeration, each with what its docstring says."""
        if not (isinstance(self.kind, type) and issubclass(self.kind, Enum)):
            return {}
        told = documented(self.kind)
        return {each.value: told.get(each.name, "") for each in self.kind}


def documented(kind: type) -> dict[str, str]:
    """The docstrings under the fields of a dataclass or the members of an Enum, by name."""
    told = {}
    for each in reversed(kind.__mro__):
        if not (dataclasses.is_dataclass(each) or issubclass(each, Enum)) or each is Enum:
            continue
        (definition,) = ast.parse(textwrap.dedent(inspect.getsource(each))).body
        assert isinstance(definition, ast.ClassDef)
        for field, after in pairwise(definition.body):
            match field, after:
                case (
                    ast.AnnAssign(target=ast.Name(name)) | ast.Assign(targets=[ast.Name(name)]),
                    ast.Expr(ast.Constant(str(text))),
                ):
                    told[name] = " ".join(text.split())
    return told


@functools.cache
def options_of(schema: type) -> tuple[Option, ...]:
    """All that a schema has, a section before what is in it: its source is read once."""
    found = []
    told = documented(schema)
    for name, kind in get_type_hints(schema).items():
        optional = get_origin(kind) in (Union, UnionType)
        if optional:
            (kind,) = (each for each in get_args(kind) if each is not type(None))
        text = told.get(name, "")
        if not text and isinstance(kind, type) and issubclass(kind, Enum):
            text = inspect.getdoc(kind) or ""
        found.append(Option(name, kind, optional, text))
        if found[-1].section:
            found += [
                dataclasses.replace(each, key=f"{name}.{each.key}") for each in options_of(kind)
            ]
    return tuple(found)


def help_text(
    usage: str,
    about: str,
    examples: Sequence[Example],
    schema: type,
    values: Mapping[str, Any],
    choices: Mapping[str, Sequence[Path]],
) -> str:
    """`examples` are options with what they are for; `values` the plain ones of all options,
    nested; `choices` the files of each group.
    """
    chosen = "[GROUP=CHOICE ...] " if choices else ""
    lines = [*_wrapped(about, 0), "", f"usage: {usage} {chosen}[KEY=VALUE ...]", "", "Examples:"]
    for options, told in examples:
        lines += [f"  {usage} {options}".rstrip(), *_wrapped(told, 6)]
    if choices:
        lines += ["", "Groups of values, by choice:"]
    for group, paths in choices.items():
        for path in paths:
            lines += [f"  {group}={path.stem}", *_wrapped(_head(path), 6)]
    lines += ["", "Options, with the values they have here (a list: [a,b]; none: null):"]
    for option in options_of(schema):
        if option.section:
            lines += ["", *_wrapped(f"{option.key}: {option.told}" if option.told else "", 2)]
            continue
        lines += [f"  {option.key}={_shown(values, option.key)}", *_wrapped(option.told, 6)]
        if any(option.choices.values()):
            for name, told in option.choices.items():
                lines += _wrapped(f"{name}: {told}" if told else name, 6)
        elif option.choices:
            lines += _wrapped(f"one of {', '.join(option.choices)}", 6)
    lines += ["", "Flags:"]
    for flag, told in [*FLAGS, *([OWN_CHOICES] if choices else [])]:
        lines += [f"  {flag}", *_wrapped(told, 6)]
    return "\n".join(lines)


def _shown(values: Any, key: str) -> str:
    """The value of a dotted key as it would be typed; nothing where its section is null."""
    for name in key.split("."):
        if values is None:
            return ""
        values = values[name]
    return _typed(values)


def _typed(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{','.join(map(_typed, value))}]"
    return "null" if value is None else "" if value == "???" else str(value)


def _wrapped(text: str, indent: int) -> list[str]:
    return textwrap.wrap(
        text, WIDTH, initial_indent=" " * indent, subsequent_indent=" " * indent,
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip


def _head(path: Path) -> str:
    """The first sentence of the comment at the head of a group's file, and what it takes first."""
    lines = []
    for line in path.read_text().splitlines():
        if not line.startswith("#"):
            break
        if not line.startswith("# @"):  # which Hydra reads
            lines.append(line.removeprefix("#").strip())
    text, _, first = " ".join(lines).partition(" First, ")
    text = text.split(". ")[0]
    return f"{text.removesuffix('.')}. First, {first}" if first else text
