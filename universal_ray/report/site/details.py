"""What the page of a neuron is drawn from: its rows of every table, in full or cut short.

All that has a role, a family, universality or a universal partner is told in full; others in the
slim form, the strongest first, for as long as the budget lasts.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from universal_ray.report.site.columns import FLAGS, Column, best_partners
from universal_ray.report.site.gather import (
    NEURON,
    NOTHING,
    ONE_EACH,
    SEVERAL,
    Gathered,
    numbers,
)
from universal_ray.report.site.pack import rounded, script

NONE, SLIM, FULL = 0, 1, 2
PER_FILE = 64
_BATCH = 32 * PER_FILE
_SAMPLE = 3
"""Files of every model that are made to learn how large all get."""
_AIM, _FEWER = 0.95, 0.9
"""Share of the room that the estimate is for; share of the neurons that is tried next."""
SCALAR_DIGITS, LIST_DIGITS = 6, 4
LEFT_OUT = {"not_measured", "id", *NEURON}
"""Columns that say the same of all neurons of a model, or what is known."""
CUT_IN_FULL = {"pairs": 8}
"""How many entries of a table's lists are kept, but of histograms and draws."""
WHOLE = {"hist", "baseline_draws"}
SLIM_TABLES = ("neurons", "statistics", "taxonomy", "roles", "descriptions", "pairs", "features",
               "examples")  # fmt: skip
CUT_IN_SLIM = 5
MOST_IN_SLIM = {"features": 2, "examples": 4}
REPEATED = {"neurons": ("statistics", "taxonomy")}
"""Tables whose columns another one has too."""


@dataclass(frozen=True)
class Levels:
    """uint8 by neuron: NONE, SLIM or FULL."""

    values: np.ndarray

    def count(self, level: int) -> int:
        return int((self.values == level).sum())


def in_full(found: Gathered, columns: Sequence[Column]) -> np.ndarray:
    """int8 by neuron: how much speaks for telling all of it; nothing does of the most."""
    weight = np.zeros(found.neurons, dtype=np.int8)
    universal = found.column("neurons", "is_universal")
    if universal is not None:
        chosen = universal == 1
        weight[chosen] += 8
        if "pairs" in found.tables:
            partners, _ = best_partners(found)
            of_these = partners[chosen]
            weight[np.unique(of_these[of_these != NOTHING])] += 4
    for column in columns:
        if column.kind == FLAGS:
            weight[column.values > 0] += 2
        if column.name == "status":
            member = [place for place, name in enumerate(column.labels, 1) if name == "member"]
            weight[np.isin(column.values, member)] += 1
    return weight


def everything(found: Gathered) -> Levels:
    """All of every neuron."""
    return Levels(np.full(found.neurons, FULL, dtype=np.uint8))


def within(
    found: Gathered, columns: Sequence[Column], room: int
) -> tuple[Levels, list[tuple[int, bytes]]]:
    """What is told of each neuron so that all files stay within `room` bytes, and these as `files`
    has them; nothing where there is no room. How many fit is estimated, then tried: fewer, until
    they do.
    """
    weight = in_full(found, columns)
    excess = found.column("neurons", "excess_corr")
    strength = np.nan_to_num(excess, nan=-np.inf) if excess is not None else np.zeros(len(weight))
    order = np.lexsort((-strength, -weight.astype(int)))
    level = np.where(weight > 0, FULL, SLIM).astype(np.uint8)
    many = _estimated(found, order, level, int(room * _AIM)) if room > 0 else 0
    while True:
        told, made, left = _first(order, level, many), list[tuple[int, bytes]](), room
        for number, content in files(found, told):
            left -= len(content)
            made.append((number, content))
            if left < 0:
                break
        if not many or left >= 0:
            return told, made
        many = int(many * _FEWER)


def _estimated(found: Gathered, order: np.ndarray, level: np.ndarray, room: int) -> int:
    """How many neurons of an order fit, by some files of every model."""
    bytes_N, head = np.zeros(found.neurons), 0
    for block in found.blocks:
        ends = np.linspace(block.start, block.start + block.neurons - 1, _SAMPLE).astype(np.int64)
        for each in (SLIM, FULL):
            alike = Levels(np.full(found.neurons, each, dtype=np.uint8))
            sizes = []
            for number in np.unique(ends // PER_FILE):
                made = records(found, alike, _told_in(alike, int(number) * PER_FILE, PER_FILE))
                head = len(script("neurons", vars(Records(made.columns, {}))))
                sizes.append((len(script("neurons", vars(made))) - head) / len(made.neurons))
            here = slice(block.start, block.start + block.neurons)
            bytes_N[here][level[here] == each] = np.mean(sizes)
    opens = np.zeros(found.neurons, dtype=np.int64)
    opens[np.unique(order // PER_FILE, return_index=True)[1]] = 1
    return int(np.searchsorted(bytes_N[order].cumsum() + head * opens.cumsum(), room, "right"))


def _first(order: np.ndarray, level: np.ndarray, many: int) -> Levels:
    """The first ones of an order at their levels, no others."""
    out = np.full(len(order), NONE, dtype=np.uint8)
    out[order[:many]] = level[order[:many]]
    return Levels(out)


def _told_in(told: Levels, start: int, many: int) -> np.ndarray:
    """Which of some neurons are told at all."""
    return start + np.flatnonzero(told.values[start : start + many] != NONE)


def files(found: Gathered, told: Levels) -> Iterator[tuple[int, bytes]]:
    """Number and content of every file of neurons: those numbered from 64 times its number on."""
    for start in range(0, found.neurons, _BATCH):
        taken = records(found, told, _told_in(told, start, _BATCH))
        made: dict[int, dict[int, Any]] = {}
        for place, rows in taken.neurons.items():
            made.setdefault(place // PER_FILE, {})[place] = rows
        for number, neurons in made.items():
            yield number, script(f"neurons-{number}", vars(Records(taken.columns, neurons)))


@dataclass(frozen=True)
class Records:
    """Rows of neurons by table: each a list of values, whose names are said once."""

    columns: dict[int, dict[str, list[str]]]
    """By level and table."""
    neurons: dict[int, list[Any]]
    """By number: the level, and by table a list of rows."""


def records(found: Gathered, told: Levels, chosen: np.ndarray) -> Records:
    """Rows of neurons, in the order of `chosen`, which ascends."""
    made = Records({}, {int(place): [int(told.values[place]), {}] for place in chosen})
    for level, tables in ((FULL, (*ONE_EACH, *SEVERAL)), (SLIM, SLIM_TABLES)):
        these = chosen[told.values[chosen] == level]
        if not len(these):
            continue
        made.columns[level] = {}
        for name in tables:
            if name in found.tables:
                rows = _rows(found, name, these, level)
                if rows is not None:
                    names, places, values = rows
                    made.columns[level][name] = names
                    for place, row in zip(places, values, strict=True):
                        made.neurons[place][1].setdefault(name, []).append(row)
    return made


def _rows(
    found: Gathered, name: str, chosen: np.ndarray, level: int
) -> tuple[list[str], list[int], Iterator[tuple[Any, ...]]] | None:
    """Names of the columns that are told, numbers of neurons and their rows; None without rows."""
    order, places = found.sorted_places(name)
    first, last = np.searchsorted(places, chosen, "left"), np.searchsorted(places, chosen, "right")
    if level == SLIM and name in MOST_IN_SLIM:
        last = np.minimum(last, first + MOST_IN_SLIM[name])
    counts = last - first
    rows = order[np.repeat(first - np.concatenate([[0], counts.cumsum()[:-1]]), counts)
                 + np.arange(counts.sum())]  # fmt: skip
    if not len(rows):
        return None
    table = _plain(_taken(_told(found, name), rows), name, level)
    values = zip(*(column.to_pylist() for column in table.columns), strict=True)
    return table.column_names, np.repeat(chosen, counts).tolist(), values


def _told(found: Gathered, name: str) -> pa.Table:
    """A table without what another one repeats."""
    table = found.tables[name]
    repeated = {
        column
        for other in REPEATED.get(name, ()) if other in found.tables
        for column in found.tables[other].column_names
    }
    maps = {entry.name for entry in table.schema if pa.types.is_map(entry.type)}
    left_out = repeated | LEFT_OUT | maps
    return table.drop_columns([each for each in table.column_names if each in left_out])


def _taken(table: pa.Table, rows: np.ndarray) -> pa.Table:
    if rows[-1] - rows[0] + 1 == len(rows) and (np.diff(rows) == 1).all():
        return table.slice(int(rows[0]), len(rows))
    return table.take(pa.array(rows))


def _plain(table: pa.Table, name: str, level: int) -> pa.Table:
    """Numbers to so many digits as are worth reading, lists as long as the level has them."""
    kinds = {entry.name: entry.type for entry in table.schema}
    kept = {
        column: _plain_list(table[column].combine_chunks(), _length(name, column, level))
        if pa.types.is_list(kind) else table[column]
        for column, kind in kinds.items()
        if not (level == SLIM and pa.types.is_list(kind) and _is_histogram(column))
    }
    floats = [column for column, kind in kinds.items() if pa.types.is_floating(kind)]
    if floats:
        wide = np.stack([numbers(table[column]) for column in floats])
        for column, values in zip(floats, rounded(wide, SCALAR_DIGITS), strict=True):
            kept[column] = _nullable(values)
    return pa.table(kept)


def _length(name: str, column: str, level: int) -> int | None:
    """How many entries of a list are told, None for all."""
    if level == SLIM:
        return CUT_IN_SLIM if name != "examples" else None
    return CUT_IN_FULL.get(name) if column not in WHOLE else None


def _is_histogram(name: str) -> bool:
    return name.startswith(("hist", "mean_by_position", "effect_", "points_")) or name.endswith(
        "_histogram"
    )


def _plain_list(column: pa.ListArray, length: int | None) -> pa.ListArray:
    if length is not None:
        column = pc.list_slice(column, 0, length)
    if not pa.types.is_floating(column.type.value_type):
        return column
    lengths = np.asarray(pc.fill_null(pc.list_value_length(column), 0))
    offsets = pa.array(np.concatenate([[0], lengths.cumsum()]), pa.int32())
    values = _nullable(rounded(numbers(column.flatten()), LIST_DIGITS))
    return pa.ListArray.from_arrays(offsets, values, mask=column.is_null())


def _nullable(values: np.ndarray) -> pa.Array:
    """Float64; NaN and infinities are null."""
    return pa.array(values, pa.float64(), mask=~np.isfinite(values))
