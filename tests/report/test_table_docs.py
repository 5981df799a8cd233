"""docs/tables.md says what the schemas say, of every table that a stage writes."""

import re
from pathlib import Path

import pyarrow as pa
import pytest
from helpers_summary import differences

from universal_ray.report.tables import SUMMARY, TABLES, page
from universal_ray.storage import finished
from universal_ray.storage.columns import UNITS, Table
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
def test_every_column_has_a_meaning_and_a_unit_of_the_vocabulary(table):
    assert set(table.sorted_by) <= set(table.schema.names)
    for column in table.schema:
        assert column.metadata[b"description"], column.name
        assert column.metadata[b"unit"].decode() in UNITS, column.name


@pytest.mark.parametrize("table", EVERY, ids=[table.path for table in EVERY])
def test_tokens_for_people_have_their_ids_beside_them(table):
    kinds = {column.name: column.metadata[b"unit"].decode() for column in table.schema}
    for name, unit in kinds.items():
        if unit == "token":
            stem = re.sub("_(token|text)$|s$", "", name)
            beside = {f"{stem}_id", f"{stem}_ids"} & kinds.keys()
            assert beside and all(kinds[each] == "token id" for each in beside), name


@pytest.mark.parametrize("table", EVERY, ids=[table.path for table in EVERY])
def test_a_table_about_neurons_has_their_ids(table):
    names = set(table.schema.names)
    assert ("id" in names) == ({"model", "layer", "neuron"} <= names)


def test_every_key_of_the_summary_has_a_meaning_and_a_unit():
    keys = [key for keys in SUMMARY.values() for key in keys]
    assert len({*keys}) == len(keys)
    for keys in SUMMARY.values():
        for key, (unit, told) in keys.items():
            assert unit in UNITS and told, key


def test_a_key_that_nobody_described_and_one_that_nobody_writes_are_found():
    said = {"a[].{name}": ("1", "x"), "b.c": ("1", "y"), "b.d[][]": ("1", "z")}
    none: tuple[set[str], set[str]] = (set(), set())
    assert differences({"a": [{"x": 1}, {"y": 2}], "b": {"c": 0, "d": [[1]]}}, said) == none
    assert differences({"a": [], "b": None}, said) == none
    assert differences({"a": [], "b": {"c": {"e": 1}, "d": 2}}, said) == (
        {"b.c.e", "b.d"}, {"b.c", "b.d[][]"}
    )


def test_what_would_end_a_cell_does_not(monkeypatch):
    schema = pa.schema([field("change", pa.list_(pa.int8()), "1", "|a - b|", null="a | b")])
    table = Table(path="tables/x.parquet", row="x", sorted_by=(), schema=schema)
    monkeypatch.setitem(TABLES, finished.ROLES, (table,))
    assert r"| `change` | list of int8 | 1 | \|a - b\| | a \| b |" in page()
