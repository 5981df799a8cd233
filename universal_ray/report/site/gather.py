"""What the tables of a run hold, as far as they are there, and where each neuron stands in them.

Nothing here fails for a table that is missing, cut or of another version: what it would have told
is named in a sentence, for the page to say.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from universal_ray.errors import DamagedError, MissingError, StorageError
from universal_ray.report.run import PATHS, Run
from universal_ray.storage.finished import SUMMARY_PATH

NEURON = ("model", "layer", "neuron")
"""The columns that say which neuron a row is of."""
ONE_EACH = ("neurons", "statistics", "taxonomy", "roles", "descriptions")
"""Tables with at most one row per neuron."""
SEVERAL = (
    "pairs", "features", "examples", "conditional", "attention", "interventions",
)
"""Tables with any number of rows per neuron."""
OTHERS = tuple(name for name in PATHS if name not in (*ONE_EACH, *SEVERAL))
OPTIONAL = ("descriptions", "examples", "conditional", "vocabulary")
NOTHING = -1
"""The place of what is no neuron of the run."""


def label(name: str) -> str:
    """What a model is called on the page: the last part of its name, with its revision."""
    return name.rstrip("/").rsplit("/", 1)[-1]


@dataclass(frozen=True)
class Block:
    """The neurons of one model: `width` in each of `layers`, numbered on from `start`."""

    model: str
    label: str
    layers: int
    width: int
    start: int

    @property
    def neurons(self) -> int:
        return self.layers * self.width


@dataclass
class Gathered:
    """The tables of a run that can be read, and sentences on those that cannot."""

    run: Run
    tables: dict[str, pa.Table] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    blocks: list[Block] = field(default_factory=list)
    _places: dict[str, np.ndarray] = field(default_factory=dict)
    _sorted: dict[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)

    @property
    def neurons(self) -> int:
        """How many, of all models."""
        return sum(block.neurons for block in self.blocks)

    def places(self, name: str) -> np.ndarray:
        """int64: of each row of a table the number of its neuron, NOTHING where it has none."""
        if name not in self._places:
            self._places[name] = _places(self.tables[name], self.blocks)
        return self._places[name]

    def sorted_places(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """int64, int64: rows of a table in the order of their neurons, and the neurons' numbers."""
        if name not in self._sorted:
            places = self.places(name)
            order = np.argsort(places, kind="stable")
            self._sorted[name] = order, places[order]
        return self._sorted[name]

    def column(self, table: str, name: str) -> np.ndarray | None:
        """Float64 by neuron, NaN where null or without a row; None where there is no such column.

        Of a table with one row for a neuron.
        """
        found = self.tables.get(table)
        if found is None or name not in found.column_names:
            return None
        return scattered(numbers(found[name]), self.places(table), self.neurons)

    def block_of(self, model: str) -> Block | None:
        return next((block for block in self.blocks if block.model == model), None)


def gather(run: Run) -> Gathered:
    """Read all tables that a page can use."""
    found = Gathered(run)
    try:
        found.summary = run.summary
    except (MissingError, DamagedError, StorageError) as error:
        found.missing.append(_sentence(run, SUMMARY_PATH, error))
    for name in (*ONE_EACH, *SEVERAL, *OTHERS):
        try:
            table = run.table(name)
        except (MissingError, DamagedError, StorageError) as error:
            found.missing.append(_sentence(run, PATHS[name], error))
            continue
        wrong = _unlike(name, table)
        if wrong:
            found.missing.append(
                f"{PATHS[name]}: it {wrong}, so it is of another version and is left out"
            )
            continue
        found.tables[name] = table
    found.blocks = _blocks(found)
    return found


def _sentence(run: Run, path: str, error: Exception) -> str:
    """Why a file is not read, its path in the run first and once."""
    told = str(error).removeprefix(f"{run.url}/")
    return told if told.startswith(path) else f"{path}: {told}"


def numbers(column: pa.ChunkedArray | pa.Array) -> np.ndarray:
    """Float64, NaN for null."""
    if pa.types.is_boolean(column.type):
        column = column.cast(pa.int8())
    floats = column.cast(pa.float64(), safe=False).fill_null(float("nan"))
    return np.array(floats, dtype=np.float64)


def scattered(values: np.ndarray, places: np.ndarray, count: int) -> np.ndarray:
    """Values of rows in the places of their neurons, NaN where there is no row."""
    out = np.full(count, np.nan)
    known = places != NOTHING
    out[places[known]] = values[known]
    return out


def _unlike(name: str, table: pa.Table) -> str:
    """What is wrong with the columns that say of which neuron a row is."""
    if name in OTHERS:
        return ""
    for column in NEURON:
        if column not in table.column_names:
            return f"has no column {column}"
        kind = table.schema.field(column).type
        good = pa.types.is_string(kind) if column == "model" else pa.types.is_integer(kind)
        if not good:
            return f"has {kind} in its column {column}"
    return ""


def _blocks(found: Gathered) -> list[Block]:
    """Every model with a neuron in a table, in the order of the run."""
    extents: dict[str, list[int]] = {}
    for name in (*ONE_EACH, "pairs"):
        table = found.tables.get(name)
        if table is None:
            continue
        ends = table.group_by("model", use_threads=False).aggregate(
            [("layer", "max"), ("neuron", "max")]
        )
        for row in ends.to_pylist():
            if row["layer_max"] is None:
                continue
            extent = extents.setdefault(row["model"], [0, 0])
            extent[0] = max(extent[0], row["layer_max"] + 1)
            extent[1] = max(extent[1], row["neuron_max"] + 1)
    labels = _labels(list(extents))
    blocks, start = [], 0
    for model, (layers, width) in extents.items():
        blocks.append(Block(model, labels[model], layers, width, start))
        start += layers * width
    return blocks


def _labels(models: Sequence[str]) -> dict[str, str]:
    """Short names, where they are of one model each."""
    short = {model: label(model) for model in models}
    twice = {name for name in short.values() if list(short.values()).count(name) > 1}
    return {model: model if name in twice else name for model, name in short.items()}


def _places(table: pa.Table, blocks: Sequence[Block]) -> np.ndarray:
    code = pc.index_in(table["model"], pa.array([block.model for block in blocks], pa.string()))
    block = numbers(code)
    layer, neuron = numbers(table["layer"]), numbers(table["neuron"])
    known = np.isfinite(block) & np.isfinite(layer) & np.isfinite(neuron)
    start = np.array([each.start for each in blocks], dtype=np.float64)
    width = np.array([each.width for each in blocks], dtype=np.float64)
    layers = np.array([each.layers for each in blocks], dtype=np.float64)
    out = np.full(table.num_rows, NOTHING, dtype=np.int64)
    which = block[known].astype(np.int64)
    here = start[which] + layer[known] * width[which] + neuron[known]
    inside = (layer[known] < layers[which]) & (neuron[known] < width[which])
    out[known] = np.where(inside, here, NOTHING).astype(np.int64)
    return out
