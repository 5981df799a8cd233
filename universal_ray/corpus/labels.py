"""Labels of rows: texts, or numbers of classes that have names."""

import json
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from universal_ray.errors import CorpusError


def class_names(schema: pa.Schema, column: str) -> tuple[str, ...]:
    """Of a saved `Dataset`, names of the classes that a column numbers; none where it does not."""
    try:
        told = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        names = told["info"]["features"][column]["names"]
    except (KeyError, TypeError, ValueError):
        return ()
    return tuple(map(str, names)) if pa.types.is_integer(schema.field(column).type) else ()


def check_labels(column: pa.ChunkedArray, classes: Sequence[str], what: str) -> None:
    """Raise CorpusError unless each row has a label: a text, or the number of a class."""
    kinds = pa.types.is_string, pa.types.is_large_string, pa.types.is_integer
    if not any(fits(column.type) for fits in kinds):
        raise CorpusError(f"{what} is {column.type}: it must hold a text per row")
    if column.null_count:
        raise CorpusError(f"{what} has rows without one (null): label every row or drop the column")
    bounds = pc.min_max(column).as_py() if classes and len(column) else {"min": 0, "max": 0}
    if not 0 <= bounds["min"] <= bounds["max"] < max(1, len(classes)):
        raise CorpusError(
            f"{what} has numbers from {bounds['min']} to {bounds['max']} and names of "
            f"{len(classes)} classes: label every row by one of these"
        )
