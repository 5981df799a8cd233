"""Overlap of universal sets from revision to revision, against Python's own sets."""

import numpy as np
import pyarrow as pa
import pytest

from universal_ray.stages.correlations.persistence import persistence

LAYERS, WIDTH = 3, 20


@pytest.fixture
def tables():
    generator = np.random.default_rng(0)
    layer = np.repeat(np.arange(LAYERS), WIDTH)
    unknown = np.arange(layer.size) % 7 == 5
    found = []
    for share in (0.0, 0.3, 0.5, 0.4):
        universal = pa.array(generator.random(layer.size) < share, mask=unknown)
        found.append(pa.table({"layer": layer, "is_universal": universal}))
    return found


def sets(tables, layer=None):
    return [
        {
            place
            for place, row in enumerate(table.to_pylist())
            if row["is_universal"] and layer in (None, row["layer"])
        }
        for table in tables
    ]


def test_overlaps_are_those_of_sets(tables):
    result = persistence(["1", "2", "3", "4"], tables, LAYERS)
    assert result["revisions"] == ["1", "2", "3", "4"]
    for found, layer in [(result, None), *((row, row["layer"]) for row in result["layers"])]:
        members = sets(tables, layer)
        assert found["universal"] == [len(each) for each in members]
        for t, before in enumerate(members):
            for s, after in enumerate(members):
                assert found["overlap"][t][s] == len(before & after)
                share = len(before & after) / len(before) if before else None
                assert found["persistence"][t][s] == share
                either = before | after
                assert found["jaccard"][t][s] == (
                    len(before & after) / len(either) if either else None
                )
    assert result["universal"][0] == 0 and result["persistence"][0] == [None] * 4


def test_a_revision_without_any_correlation_has_no_counts(tables):
    layer = np.repeat(np.arange(LAYERS), WIDTH)
    unknown = pa.array(np.zeros(layer.size, bool), mask=layer == 1)
    silent = pa.table({"layer": layer, "is_universal": unknown})
    result = persistence(["1", "2"], [tables[2], silent], LAYERS)
    assert result["universal"][1] == 0 and result["overlap"][1] == [0, 0]
    first, inside = result["layers"][0], result["layers"][1]
    assert first["universal"][1] == 0 and inside["universal"] == [inside["overlap"][0][0], None]
    assert inside["overlap"][1] == [None, None] and inside["overlap"][0][1] is None
    assert inside["persistence"][1] == [None, None]
