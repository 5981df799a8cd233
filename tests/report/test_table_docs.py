"""docs/tables.md says what the schemas say, of every table that a stage writes."""

from pathlib import Path

import pyarrow as pa
import pytest

from universal_ray.report.tables import TABLES, page
from universal_ray.storage import finished
from universal_ray.storage.columns import Table
from universal_ray.storage.reasons import field

ROOT = Path(__file__).parents[2]
EVERY = [table for tables in TABLES.values() for table in tables]


def test_the_page_in_the_repository_is_what_the_schemas_say():
    written = (ROOT / "docs" / "tables.md").read_text(encoding="utf-8")
    assert written == page(), "make docs writes it"


def test_every_table_that_a_stage_writes_is_described():
    described = {stage: {table.path for table in tables} for stage, tables in TABLES.items()}
    assert described == {
        stage: set(paths) - {finished.SUMMARY_PATH} for stage, paths in finished.TABLES.items()
    }


@pytest.mark.parametrize("table", EVERY, ids=[table.path for table in EVERY])
def test_every_column_has_a_meaning_and_every_number_a_unit(table):
    assert set(table.sorted_by) <= set(table.schema.names)
    for column in table.schema:
        assert column.metadata[b"description"], column.name
        # Of what is measured under several units the meaning has each one's.
        assert b"unit" in column.metadata, column.name


def test_what_would_end_a_cell_does_not(monkeypatch):
    schema = pa.schema([field("change", pa.list_(pa.int8()), "1", "|a - b|", null="a | b")])
    table = Table(path="tables/x.parquet", row="x", sorted_by=(), schema=schema)
    monkeypatch.setitem(TABLES, finished.ROLES, (table,))
    assert r"| `change` | list of int8 | 1 | \|a - b\| | a \| b |" in page()
