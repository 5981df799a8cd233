"""A driver that dies at any write, move or deletion of the tables leaves the tables of one study.

A death is the run directory as it was at that moment, copied: no handler sees it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from helpers_study import ALL, make, table_bytes
from helpers_whole import changed, copied, whole_run

from universal_ray.errors import MissingError
from universal_ray.storage import finished
from universal_ray.storage.finished import CORRELATIONS, PROFILE, ROLES
from universal_ray.storage.names import ours
from universal_ray.storage.store import Store

CHANGES: dict[str, Any] = {
    "universal__threshold": 0.3,
    "baseline__rotations": 3,
    "baseline__seed": 1,
    "taxonomy__features": 2,
    "roles__seed": 1,
}


@contextmanager
def every_death(folder: Path, into: Path) -> Iterator[list[Path]]:
    """Copies of a run directory before every change of its tables, and of what they are made of."""
    deaths: list[Path] = []
    states = set()

    def before(method, self, path, *arguments):
        if self.url == str(folder) and path.startswith(("tables", "reduce")):
            stored = {(each, each.stat().st_ino) for each in folder.rglob("*") if each.is_file()}
            state = frozenset(each for each in stored if "lock" not in each[0].parts)
            if state not in states:
                states.add(state)
                deaths.append(copied(folder, into / f"{len(deaths):03d}"))
        return method(self, path, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        for name in ("_publish", "delete", "move"):
            method = getattr(Store, name)
            patch.setattr(
                Store, name, lambda *arguments, _method=method: before(_method, *arguments)
            )
        yield deaths


@pytest.fixture(scope="module")
def whole(once):
    """A finished study and its tables."""
    study, _ = whole_run(once)
    return study, table_bytes(Store(study.run.dir))


def test_every_file_of_a_whole_run_bears_a_name_of_ours(whole):
    """By which alone it can be dropped: one of another name would stay, in silence."""
    study, _ = whole
    paths = Store(study.run.dir).list()
    assert {path.split("/")[0] for path in paths} > {"moments", "reduce", "profile", "roles"}
    assert [path for path in paths if not ours(path)] == []


def check_deaths(whole, key, tmp_path, chosen):
    study, expected = whole
    folder = copied(Path(study.run.dir), tmp_path / "run")
    other = changed(study, run__dir=str(folder), **{key: CHANGES[key]})
    with every_death(folder, tmp_path) as deaths:
        new = table_bytes(make(other, *ALL))
    assert new != expected and len(deaths) > 30
    kept = 0
    for death in deaths[chosen]:
        again = changed(study, run__dir=str(death))
        store = Store(again.run.dir)
        stood = finished.stages(store)
        assert table_bytes(make(again, *ALL)) == expected, death
        assert not store.list(finished.DRAFTS)
        kept += len(stood) == len(finished.TABLES)
    assert kept, "tables that were not touched yet stand"


@pytest.mark.thorough
def test_a_death_among_the_tables_of_another_threshold_leaves_those_of_one_study(whole, tmp_path):
    check_deaths(whole, "universal__threshold", tmp_path, slice(None, None, 12))


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("key", CHANGES)
def test_no_death_mixes_the_tables_of_two_studies(whole, tmp_path, key):
    check_deaths(whole, key, tmp_path, slice(None))


def test_tables_that_an_earlier_stage_has_outdated_are_dropped_and_told(whole, tmp_path):
    study, expected = whole
    folder = str(copied(Path(study.run.dir), tmp_path / "run"))
    other = changed(study, run__dir=folder, universal__threshold=0.3)
    store = make(other, CORRELATIONS)
    assert set(table_bytes(store)) == set(finished.TABLES[CORRELATIONS])
    assert list(finished.stages(store)) == [CORRELATIONS]
    with pytest.raises(MissingError, match="holds no tables of profile"):
        make(other, ROLES)
    # With the options of before nothing of it fits either.
    again = changed(study, run__dir=folder)
    with pytest.raises(MissingError, match="no tables of correlations that are whole and of these"):
        make(again, PROFILE)
    assert table_bytes(make(again, *ALL)) == expected
