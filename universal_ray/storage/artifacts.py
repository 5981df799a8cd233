"""What a run directory holds, by kind: what each is made from, and how its tensors are typed.

An *artifact* is a kind of stored work. It declares the configuration keys and the artifacts that it
depends on, and the version of the code that makes it. All else that has to do with being outdated
derives from that: the names of files, whether what lies there still stands, and the table of what a
change of each key makes anew.

What is stored of one artifact is a frozen dataclass of tensors, `put` and `get` as one file. Fields
are tensors, numbers, text or reasons by name; a field that may be missing says so by `| None`, and
by `lacking` where a reason must then be given; a dataclass in a field has its name in front of its
own (`rows.error`), tensors by name have theirs, all of `names` in the metadata of the field among
them. Anything else that is missing, or is there beside what is declared, raises.
"""

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import numpy as np
import torch
from torch import Tensor

from universal_ray.config.hashing import fingerprint
from universal_ray.config.site import as_fingerprinted
from universal_ray.errors import DamagedError
from universal_ray.storage import checked
from universal_ray.storage.store import Receipt, Store

_Stored = TypeVar("_Stored")

REASONS = dict[str, str]
"""The type of reasons by what is missing; their order stays."""


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """A kind of stored work."""

    name: str
    """for people: as the table of changes calls it"""
    version: int | str
    """raised when the same settings make something else, so that nothing older is taken for it"""
    depends_on: tuple["str | Artifact", ...]
    """configuration keys, and artifacts whose settings and versions decide it too"""
    chosen_by: tuple["Artifact", ...] = ()
    """artifacts that it is made from by what they hold: where that is the same, so is it"""
    grows_with: tuple[str, ...] = ()
    """keys that say what there is to make it of: it is made for what is new, and the rest stays"""

    @property
    def keys(self) -> tuple[str, ...]:
        """Its own configuration keys."""
        return tuple(each for each in self.depends_on if isinstance(each, str))

    @property
    def made_of(self) -> tuple["Artifact", ...]:
        return tuple(each for each in self.depends_on if isinstance(each, Artifact))

    def recipe(self, settled: Mapping[str, Any]) -> dict[str, Any]:
        """Versions and settings that decide what it holds, its own and of all it is made of.

        `settled`: plain values by configuration key, those known by content as their content.
        Raises KeyError for a key that is not settled.
        """
        settings = as_fingerprinted({key: settled[key] for key in self.keys})
        own = {self.name: [self.version, settings]}
        for each in self.made_of:
            own |= each.recipe(settled)
        return own

    def fingerprint(self, settled: Mapping[str, Any], *of: Any) -> str:
        """Of its recipe, and of what it is made of: models, tokens, checksums; JSON-able."""
        return fingerprint([self.recipe(settled), of])

    def decided_by(self, key: str) -> bool:
        """Whether a change of a key makes it anew, or more of it: its own, or of what makes it."""
        return key in (*self.keys, *self.grows_with) or any(
            each.decided_by(key) for each in self.made_of
        )

    def touched_by(self, key: str) -> bool:
        """Whether a change of a key may make it anew, directly or by what it is made from."""
        return key in (*self.keys, *self.grows_with) or any(
            each.touched_by(key) for each in (*self.made_of, *self.chosen_by)
        )


def put(store: Store, path: str, stored: Any) -> Receipt:
    """Write a dataclass of tensors as a piece of one file, and its marker.

    Raises KeyError where something is None and no reason says why.
    """
    unexplained = list(_unexplained(stored))
    if unexplained:
        raise KeyError(f"{path} would lack {', '.join(unexplained)}")
    return checked.put_tensors(store, path, tensors(stored))


def get(store: Store, path: str, kind: type[_Stored], marker: str | None = None) -> _Stored:
    """A dataclass of tensors, from a piece of one file or a file of `marker`.

    Raises DamagedError as `checked.read` does, and where the file holds other tensors than `kind`.
    """

    return checked.read(
        store, marker or checked.marker_of(path), path,
        lambda path, receipt: of(kind, store.get_tensors(path, receipt), f"{store.url}/{path}"),
    )  # fmt: skip


def lacking(*needs: str) -> dict[str, tuple[str, ...]]:
    """The metadata of an optional field made of what a model may lack: where that is None, the
    `not_measured` of its dataclass, reasons by what is missing, has one of `needs`.
    """
    return {"needs": needs}


def tensors(stored: Any) -> dict[str, Tensor]:
    """By name, as they are written; what is None is left out."""
    return {name: each.detach().cpu().contiguous() for name, each in named(stored).items()}


def named(stored: Any) -> dict[str, Tensor]:
    """The tensors of a dataclass by name, where they lie."""
    found: dict[str, Tensor] = {}
    hints = get_type_hints(type(stored))
    for each in fields(stored):
        value = getattr(stored, each.name)
        if isinstance(value, Tensor):
            found[each.name] = value
        elif isinstance(value, int | float):
            wide = torch.float64 if isinstance(value, float) else torch.int64
            found[each.name] = torch.tensor(value, dtype=wide)
        elif isinstance(value, str):
            found[each.name] = _text(value)
        elif hints[each.name] == REASONS:
            found[each.name] = _text(json.dumps(value))
        elif isinstance(value, Mapping):
            found |= {f"{each.name}.{name}": inner for name, inner in value.items()}
        elif value is not None:
            found |= {f"{each.name}.{name}": inner for name, inner in named(value).items()}
    return found


def _text(value: str) -> Tensor:
    return torch.from_numpy(np.frombuffer(value.encode(), dtype=np.uint8).copy())


def of(kind: type[_Stored], found: Mapping[str, Tensor], where: str) -> _Stored:
    """The dataclass that `tensors` took apart; `where` they lie, for people.

    Raises DamagedError where a tensor is missing that is not optional, or one is there that `kind`
    does not declare.
    """
    left = dict(found)
    missing = list(_missing(kind, left))
    if not missing:
        made: _Stored = _build(kind, left, "")
        missing = list(_unexplained(made))
        if not (missing or left):
            return made
    what = f"lacks {', '.join(missing)}" if missing else f"holds {', '.join(sorted(left))} too"
    raise DamagedError(f"{where} {what}: what made it makes it anew.")


def _build(kind: type[Any], left: dict[str, Tensor], before: str) -> Any:
    hints = get_type_hints(kind)
    return kind(**{each.name: _take(hints[each.name], left, before + each.name)
                   for each in fields(kind)})  # fmt: skip


def _take(hint: Any, left: dict[str, Tensor], name: str) -> Any:
    """The value of one field, its tensors taken out of `left`."""
    hint, _ = _required(hint)
    inside = [each for each in left if each.startswith(f"{name}.")]
    if is_dataclass(hint):
        return _build(hint, left, f"{name}.") if inside else None  # type: ignore[arg-type]
    if get_origin(hint) is dict and hint != REASONS:
        return {each.removeprefix(f"{name}."): left.pop(each) for each in inside}
    if name not in left:
        return None
    value = left.pop(name)
    if hint is str or hint == REASONS:
        text = value.numpy().tobytes().decode()
        return text if hint is str else json.loads(text)
    return hint(value.item()) if hint in (int, float, bool) else value


def _required(hint: Any) -> tuple[Any, bool]:
    """A type without `| None`, and whether it was without."""
    if isinstance(hint, UnionType) and type(None) in get_args(hint):
        (inner,) = (each for each in get_args(hint) if each is not type(None))
        return inner, False
    return hint, True


def _missing(kind: type[Any], there: Collection[str], before: str = "") -> Iterator[str]:
    """Names that `kind` declares, that must be there and are not."""
    hints = get_type_hints(kind)
    for each in fields(kind):
        name, (hint, required) = before + each.name, _required(hints[each.name])
        if is_dataclass(hint):
            if required or any(other.startswith(f"{name}.") for other in there):
                yield from _missing(hint, there, f"{name}.")  # type: ignore[arg-type]
        elif get_origin(hint) is dict and hint != REASONS:
            every = (f"{name}.{key}" for key in each.metadata.get("names", ()))
            yield from (key for key in every if key not in there)
        elif required and name not in there:
            yield name


def _unexplained(made: Any, before: str = "") -> Iterator[str]:
    """Names of what is None of `lacking` fields, where no reason says why."""
    for each in fields(made):
        value, needs = getattr(made, each.name), each.metadata.get("needs", ())
        if value is None and needs and not {*needs} & made.not_measured.keys():
            yield before + each.name
        elif is_dataclass(value):
            yield from _unexplained(value, f"{before}{each.name}.")
