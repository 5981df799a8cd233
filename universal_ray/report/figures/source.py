"""What a figure is drawn from: columns of tables, or a sentence on why they do not tell it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from universal_ray.report.run import PATHS
from universal_ray.report.units import NEURON, unit
from universal_ray.stages import registry
from universal_ray.storage.reasons import KEY, why_null

LEAST = 10
"""Neurons below which a distribution of them is none."""
SCHEMAS: dict[str, pa.Schema] = {
    name: table.schema
    for name, path in PATHS.items()
    for stage in registry.STAGES
    for table in registry.room(stage, "schemas").TABLES
    if table.path == path
}
"""Of every table, as the last stage leaves it."""


class NotDrawn(Exception):
    """Why a figure is not drawn, as a sentence without its full stop."""


@dataclass(frozen=True)
class Source:
    """The tables of a run that can be read, and sentences on those that cannot."""

    tables: Mapping[str, pa.Table]
    summary: Mapping[str, Any] = field(default_factory=dict)
    missing: Sequence[str] = ()
    reference: str = ""
    """the reference model that a figure is of, where it is not of the whole run"""

    def of(self, reference: str) -> "Source":
        """The same, for figures of one reference model."""
        return replace(self, reference=reference)

    @property
    def references(self) -> list[str]:
        """Models whose neurons were looked for in others, in the order of the run."""
        neurons = self.tables.get("neurons")
        if neurons is not None and "model" in neurons.column_names:
            return [each for each in neurons["model"].unique().to_pylist() if each is not None]
        return [each["model"] for each in self.summary.get("references", ())]

    @property
    def threshold(self) -> float:
        """Excess correlation above which a neuron is universal. Raises NotDrawn."""
        found = self.summary.get("threshold")
        if found is None:
            raise NotDrawn("the threshold of universal neurons is not told by summary.json")
        return float(found)

    @property
    def neurons(self) -> bool:
        """Whether its units are neurons: others show one value, before no activation function."""
        return unit(self.summary) == NEURON

    @property
    def value(self) -> str:
        """What of a unit its histograms count."""
        return "pre-activation" if self.neurons else "value"

    def rows(self, table: str, *columns: str, **equal: str) -> pd.DataFrame:
        """Columns of a table, of the rows in which some columns have a value.

        Raises NotDrawn where the table is not there or of another version.
        """
        found = self.tables.get(table)
        if found is None:
            path = PATHS[table]
            told = next((each for each in self.missing if each.startswith(path)), None)
            raise NotDrawn(f"its table {(told or f'{path} is not there').rstrip('.')}")
        for name in (*columns, *equal):
            if name not in found.column_names or not _alike(
                found.schema.field(name).type, SCHEMAS[table].field(name).type
            ):
                raise NotDrawn(
                    f"the column {name} of {table}.parquet is not there or of another type, so the "
                    "table is of another version"
                )
        for name, value in equal.items():
            found = found.filter(pc.equal(found[name], value))
        return found.select(columns).to_pandas()

    def own(self, table: str, *columns: str, **equal: str) -> pd.DataFrame:
        """The same, of the reference model."""
        return self.rows(table, *columns, model=self.reference, **equal)

    def check_measured(self, table: str, *columns: str) -> None:
        """Raise NotDrawn for a column without any value, with what its rows say of it."""
        equal = {"model": self.reference} if self.reference else {}
        values = self.rows(table, *columns, **equal)
        for name in columns:
            if not len(values) or values[name].notna().any():
                continue
            (reasons, *_) = self.rows(table, KEY, **equal)[KEY]
            why = why_null(SCHEMAS[table], dict(reasons or ())).get(name)
            raise NotDrawn(
                f"the column {name} {f'was not measured: {why}' if why else 'has no value'}"
            )

    def told(self, key: str) -> dict[str, Any]:
        """What the summary says of the reference model under `references`, at a key. Raises
        NotDrawn where it says nothing.
        """
        for entry in self.summary.get("references", ()):
            if entry["model"] == self.reference and entry.get(key):
                return dict(entry[key])
        raise NotDrawn(f"references[].{key} is not told by summary.json")


def check_neurons(count: int, what: str, least: int = LEAST) -> None:
    """Raise NotDrawn where fewer neurons than needed have something."""
    if count < least:
        raise NotDrawn(f"it takes {least} neurons {what}, and there are {count}")


def _alike(found: pa.DataType, expected: pa.DataType) -> bool:
    if pa.types.is_list(found) and pa.types.is_list(expected):
        return _alike(found.value_type, expected.value_type)
    return bool(found == expected)
