"""The list: one typed column for every number that the tables have of a neuron, and for its
family, its roles, and how it stands to the neurons of other models.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from universal_ray.report.site.gather import NOTHING, Gathered, numbers, scattered

NUMBER, CODE, FLAGS, PLACE = "number", "code", "flags", "place"
"""What a column is: a float, NaN where not measured; a place in `labels`; a bit for each of
`labels`; the number of another neuron, NOTHING where none.
"""
UNMEASURED_CODE = 0
"""Of a code, what is not measured; labels count from one."""
FIRST = ("excess_corr", "mean_corr", "mean_baseline", "is_universal")
"""Numbers that the list shows without being asked."""
TABLES = ("neurons", "statistics", "taxonomy", "roles", "descriptions")
_KEYS = {"layer", "neuron"}
FEW = 256


@dataclass(frozen=True)
class Column:
    """Values of all neurons, in their order."""

    name: str
    kind: str
    values: np.ndarray
    description: str
    table: str
    unit: str = ""
    null: str = ""
    labels: Sequence[str] = field(default=())

    def about(self) -> dict[str, Any]:
        """What the page is told of it, beside the values."""
        told: dict[str, Any] = {
            "name": self.name, "kind": self.kind, "description": self.description,
            "table": self.table, "unit": self.unit, "null": self.null,
        }  # fmt: skip
        if self.kind in (CODE, FLAGS):  # of a run in which no neuron has any role, none
            told["labels"] = list(self.labels)
        return told


def columns(found: Gathered) -> list[Column]:
    """Every column of the list, those that it shows first."""
    made = list(_numbers(found))
    first = [column for column in made if column.name in FIRST]
    rest = [column for column in made if column.name not in FIRST]
    first.sort(key=lambda column: FIRST.index(column.name))
    return [*first, *_standing(found), *_codes(found), *_roles(found), *rest]


def _numbers(found: Gathered) -> Iterator[Column]:
    """Each scalar number of the tables once, but those that no neuron has."""
    seen = set(_KEYS)
    for name in TABLES:
        table = found.tables.get(name)
        if table is None:
            continue
        for entry in table.schema:
            kind = entry.type
            numeric = pa.types.is_integer(kind) or pa.types.is_floating(kind)
            if entry.name in seen or not (numeric or pa.types.is_boolean(kind)):
                continue
            values = found.column(name, entry.name)
            if values is None or np.isnan(values).all():
                continue  # the next table may have it
            seen.add(entry.name)
            told = {key.decode(): text.decode() for key, text in (entry.metadata or {}).items()}
            needs = f"needs: {told['needs']}" if told.get("needs") else ""
            yield Column(
                entry.name, NUMBER, compact(values), told.get("description", ""), name,
                told.get("unit", ""), "; ".join(each for each in (told.get("null"), needs) if each),
            )  # fmt: skip


def compact(values: np.ndarray) -> np.ndarray:
    """Float32, or float64 for whole numbers that float32 has not."""
    narrow = values.astype(np.float32)
    whole = np.isfinite(values) & (values == np.rint(values))
    return values if (narrow[whole] != values[whole]).any() else narrow


def _codes(found: Gathered) -> Iterator[Column]:
    told = {
        "family": "family of the feature that explains most",
        "status": "whether it is a member of that family: member, partly or unexplained",
        "feature": "the feature that explains most",
        "logit_class": "the class of tokens that explains its effect on the logits best",
        "logit_effect": "whether it promotes or suppresses that class",
    }
    for name, description in told.items():
        table = "roles" if name.startswith("logit") else "taxonomy"
        if name in getattr(found.tables.get(table), "column_names", ()):
            values = found.tables[table][name].combine_chunks()
            yield coded(name, values, found.places(table), found.neurons, description, table)


def coded(
    name: str, values: pa.Array, places: np.ndarray, count: int, description: str, table: str
) -> Column:
    """Texts as places among those that occur, the commonest first."""
    packed = values.dictionary_encode()
    labels, codes = packed.dictionary.to_pylist(), numbers(packed.indices)
    known = np.isfinite(codes)
    order = np.argsort(-np.bincount(codes[known].astype(int), minlength=len(labels)), kind="stable")
    rank = np.empty(len(labels), dtype=np.float64)
    rank[order] = np.arange(1, len(labels) + 1)
    codes[known] = rank[codes[known].astype(int)]
    spread = np.nan_to_num(scattered(codes, places, count), nan=UNMEASURED_CODE)
    kind = np.uint8 if len(labels) < FEW else np.uint16
    return Column(
        name, CODE, spread.astype(kind), description, table,
        labels=[labels[place] for place in order],
    )  # fmt: skip


def _roles(found: Gathered) -> Iterator[Column]:
    table = found.tables.get("roles")
    if table is None or "roles" not in table.column_names:
        return
    labels = _role_names(found)
    flags = np.zeros(found.neurons, dtype=np.uint32)
    column = table["roles"].combine_chunks()
    lengths = np.diff(np.asarray(column.offsets))
    rows = np.repeat(np.arange(len(column)), lengths)
    for place, role in zip(found.places("roles")[rows], column.flatten().to_pylist(), strict=True):
        if place != NOTHING:
            flags[place] |= np.uint32(1 << labels.index(role))
    yield Column("roles", FLAGS, flags, "what it does, of what was measured", "roles",
                 labels=labels)  # fmt: skip


def _role_names(found: Gathered) -> list[str]:
    told = found.summary.get("roles", {}).get("models", [])
    names = list(dict.fromkeys(role for model in told for role in model["roles"]))
    there = found.tables["roles"]["roles"].combine_chunks().flatten().unique().to_pylist()
    return names + sorted(set(there) - set(names))


def _standing(found: Gathered) -> Iterator[Column]:
    """How neurons stand to those of other models: mutual partners, and who shares all of them."""
    if "pairs" not in found.tables:
        return
    partners, mutual = best_partners(found)
    told = np.where((partners != NOTHING).any(axis=1), mutual.sum(axis=1), np.nan)
    yield Column(
        "mutual_partners", NUMBER, compact(told),
        "other models whose best partner of it has it as best partner too", "pairs", "models",
        "it has no partner",
    )  # fmt: skip
    yield Column(
        "twin", PLACE, twins(partners, found.column("neurons", "excess_corr")),
        "the strongest other neuron of its model with the same best partners in all models",
        "pairs", null="no other neuron shares all its partners",
    )  # fmt: skip


def best_partners(found: Gathered) -> tuple[np.ndarray, np.ndarray]:
    """Of every neuron the number of its best partner in each model (int64 [N, M], NOTHING where
    none), and whether that is mutual (bool [N, M]).
    """
    table, places = found.tables["pairs"], found.places("pairs")
    shape = (found.neurons, len(found.blocks))
    partners, mutual = np.full(shape, NOTHING, dtype=np.int64), np.zeros(shape, dtype=bool)
    for at, block in enumerate(found.blocks):
        here = np.asarray((numbers_of(table, "other", block.model)) & (places != NOTHING))
        layer, neuron = numbers(table["max_layer"])[here], numbers(table["max_neuron"])[here]
        known = np.isfinite(layer) & np.isfinite(neuron)
        mine = places[here][known]
        partners[mine, at] = (block.start + layer * block.width + neuron)[known].astype(np.int64)
        mutual[mine, at] = numbers(table["mutual"])[here][known] == 1
    return partners, mutual


def numbers_of(table: pa.Table, column: str, value: str) -> np.ndarray:
    """bool by row: where a column of texts is `value`."""
    return np.asarray(pc.equal(table[column], value).fill_null(False).to_numpy())


def twins(partners: np.ndarray, excess: np.ndarray | None) -> np.ndarray:
    """int32 by neuron: the strongest other neuron with the same partners in two models or more."""
    out = np.full(len(partners), NOTHING, dtype=np.int32)
    some = np.flatnonzero((partners != NOTHING).sum(axis=1) >= 2)
    if not len(some):
        return out
    _, group = np.unique(partners[some], axis=0, return_inverse=True)
    strength = np.nan_to_num(excess, nan=-np.inf) if excess is not None else np.zeros(len(out))
    order = np.lexsort((-strength[some], group.ravel()))
    ordered, group = some[order], group.ravel()[order]
    first = np.searchsorted(group, group)  # of its group
    shared = np.searchsorted(group, group, "right") - first > 1
    is_first = first == np.arange(len(order))
    other = np.where(is_first, np.minimum(first + 1, len(order) - 1), first)
    out[ordered[shared]] = ordered[other[shared]]
    return out
