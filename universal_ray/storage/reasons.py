"""What was not measured, and why: said by whom would have measured it, kept with what was.

A producer of tensors stores its reasons among them, by what is missing. A column of a table names
in its metadata what it `needs`: where that is missing it is null throughout and `not_measured` says
why; nulls of other columns have their one reason in the metadata, under `null`.
"""

from collections.abc import Mapping, Sequence

import pyarrow as pa

KEY = "not_measured"
"""Under which reasons are stored, and the column that tells them."""


def field(
    name: str,
    kind: pa.DataType,
    unit: str,
    description: str,
    *,
    null: str = "",
    needs: Sequence[str] = (),
) -> pa.Field:
    """A column, its unit one of `columns.UNITS`; `null`: when a value is null although it was
    measured, `needs`: what it is made of that a model may lack."""
    told = {"description": description, "unit": unit}
    if null:
        told["null"] = null
    if needs:
        told["needs"] = ", ".join(needs)
    return pa.field(name, kind, metadata=told)


NOT_MEASURED = field(
    KEY, pa.map_(pa.string(), pa.string()), "text",
    "what the model's rows lack, and why; a column that `needs` it, by its metadata, is null",
)  # fmt: skip


def needs(column: pa.Field) -> set[str]:
    """What a column is made of that a model may lack."""
    return set(filter(None, column.metadata.get(b"needs", b"").decode().split(", ")))


def why_null(schema: pa.Schema, missing: Mapping[str, str]) -> dict[str, str]:
    """The reason of every column that is null throughout, as what it needs is missing."""
    return {
        column.name: next(missing[name] for name in sorted(needs(column)) if name in missing)
        for column in schema
        if needs(column) & missing.keys()
    }


def assembled(
    schema: pa.Schema, found: Mapping[str, pa.Array], missing: Mapping[str, str], rows: int
) -> pa.Table:
    """A table of the columns found, null where what they need is missing.

    Raises KeyError where any other column is not there.
    """
    null = why_null(schema, missing)
    columns = []
    for column in schema:
        if column.name == KEY:
            columns.append(pa.array([list(missing.items())] * rows, column.type))
        elif column.name in null:
            columns.append(pa.nulls(rows, column.type))
        else:
            columns.append(found[column.name])
    return pa.table(columns, schema=schema)


def absent(schema: pa.Schema, model: str, reason: str) -> pa.Table:
    """The one row of a model that has no other, for `null_reason` to say why."""
    told = {"model": model, "null_reason": reason}
    return pa.table([pa.array([told.get(c.name)], c.type) for c in schema], schema=schema)
