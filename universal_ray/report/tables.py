"""`docs/tables.md`: every table of a run and every column of it, from the schemas.

`python -m universal_ray.report.tables` prints it; `make docs` writes it.
"""

from collections.abc import Iterator

import pyarrow as pa

from universal_ray.stages import registry
from universal_ray.storage.columns import UNITS, Table

TABLES: dict[str, tuple[Table, ...]] = {
    stage: registry.room(stage, "schemas").TABLES for stage in registry.STAGES
}
"""Of every stage, in their order: the tables as it leaves them."""

SUMMARY: dict[str, dict[str, tuple[str, str]]] = {
    stage: registry.room(stage, "schemas").SUMMARY for stage in registry.STAGES
}
"""Of every stage, in their order: what it writes into the summary."""

HEAD = """\
# Tables of a run

Made from the schemas by `make docs`; the same words lie in the Parquet files, as metadata of each
column (`description`, `unit`, `null`, `needs`).

Layers, neurons, heads, rows and positions count from 0. A model has a short name, the last part of
its path or hub id with its `@revision` (more of it where two would be called the same);
`summary.json` and `study.yaml` have the whole. Models and features come in the order in which the
run lists them, numbers ascending. A row group has as many rows as the widest layer of any model has
neurons: where a table has a row per neuron and models are of one width, a row group is a layer.

Tokens are shown as people read them, and their ids beside them are exact: a space is ␣, a line
break ⏎, a tab ⇥; special tokens have their name, ids without text are `<id 7>`, bytes that are part
of a character only `<0xE2>`, characters that cannot be seen `<U+200B>`.

*Null when*: a value that was looked for and is not there. A column that *needs* something is null
in all rows of a model that lacks it, and the row's `not_measured` says why. Columns without either
are never null, but where a row has a `null_reason`, which then says why all of them are.
"""


ESCAPED = r"\|"
"""What ends a cell of a Markdown table, within one."""


def page() -> str:
    """The whole of `docs/tables.md`."""
    lines = [HEAD]
    known: dict[str, pa.Schema] = {}
    for stage, tables in TABLES.items():
        lines.append(f"## {stage.capitalize()}\n")
        for table in tables:
            lines += _section(table, known.get(table.path))
            known[table.path] = table.schema
    lines += _summary()
    lines += ["## Units\n", "| unit | meaning |", "|---|---|"]
    lines += [f"| {unit} | {told} |" for unit, told in UNITS.items()]
    return "\n".join([*lines, ""])


def _section(table: Table, before: pa.Schema | None) -> Iterator[str]:
    """One table; of one that an earlier stage wrote, what this stage adds to it."""
    yield f"### `{table.path}`{', what is added' if before else ''}\n"
    order = ", ".join(f"`{name}`" for name in table.sorted_by)
    yield f"One row: {table.row}. Sorted by {order}.\n"
    yield "| column | type | unit | meaning | null when |"
    yield "|---|---|---|---|---|"
    for column in table.schema:
        if before is None or column.name not in before.names:
            yield _row(column)
    yield ""


def _summary() -> Iterator[str]:
    """Every key of the summary, by who writes it."""
    yield "## `tables/summary.json`\n"
    yield "`[]` are the entries of a list, `{name}` is any key. What has no value is null.\n"
    for stage, keys in SUMMARY.items():
        yield f"### From the {stage}\n"
        yield "| key | unit | meaning |"
        yield "|---|---|---|"
        for key, (unit, told) in keys.items():
            yield f"| `{key}` | {unit} | {told.replace('|', ESCAPED)} |"
        yield ""


def _row(column: pa.Field) -> str:
    told = {key.decode(): value.decode() for key, value in column.metadata.items()}
    reasons = [told.get("null", "")]
    if "needs" in told:
        reasons.append(f"needs: {told['needs']}")
    cells = [
        f"`{column.name}`", _kind(column.type), told["unit"], told["description"],
        "; ".join(filter(None, reasons)),
    ]  # fmt: skip
    return f"| {' | '.join(cell.replace('|', ESCAPED) for cell in cells)} |"


def _kind(kind: pa.DataType) -> str:
    """A type, for people."""
    if pa.types.is_list(kind):
        return f"list of {_kind(kind.value_type)}"
    if pa.types.is_map(kind):
        return f"map of {_kind(kind.key_type)} to {_kind(kind.item_type)}"
    return str(kind)


if __name__ == "__main__":
    print(page(), end="")
