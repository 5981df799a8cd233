"""The time that is foreseen is of all that every stage does, and goes as it is done."""

from itertools import pairwise
from pathlib import Path

import pytest
from helpers_study import ALL, inputs_of
from helpers_whole import changed, whole_run

from universal_ray.stages import registry
from universal_ray.storage.store import Store

UNPLANNED = {"calibration", "baselines", "windows"}
"""Batches that are too small for the plan."""


@pytest.fixture(scope="module")
def run(once):
    """What a study of all stages works on, and its run directory before anything, after every batch
    of tasks and at the end.
    """
    study, moments = whole_run(once)
    places = [moments[0].parent / "nothing", *moments, Path(study.run.dir)]
    found = inputs_of(changed(study, cluster__tflops=1e-3))  # as fast at any time
    return found, [Store(str(place)) for place in places]


def foreseen(found, store: Store) -> dict[str, dict[str, float]]:
    """Seconds by stage and batch."""
    stages = [registry.stage(name)(found, store) for name in ALL]
    return {stage.name: dict(stage.forecast().seconds) for stage in stages}


def test_every_batch_of_every_stage_is_foreseen_and_no_other(run):
    found, stores = run
    plan, names = foreseen(found, stores[0]), []
    for batch in stores[-1].get_json("progress.json")["batches"]:
        assert batch["tasks_done"] == batch["tasks_total"] > 0
        names.append(batch["name"])
    assert tuple(plan) == ALL == registry.STAGES
    for stage in plan.values():
        end = names.index("tables") + 1  # a stage's last
        assert all(stage.values()) and set(stage) == set(names[:end]) - UNPLANNED
        del names[:end]
    assert names == []


def test_what_is_left_falls_to_nothing_and_is_nothing_at_the_end_alone(run):
    found, stores = run
    left = [
        sum(sum(stage.values()) for stage in foreseen(found, store).values()) for store in stores
    ]
    assert all(before >= after for before, after in pairwise(left))
    assert all(left[:-1]) and left[-1] == 0
    assert len({*left}) > 2 * len(ALL)  # it does not go by whole stages
    # As a run tells it while it goes: nothing comes after the report's tables alone.
    told = [store.get_json("progress.json") for store in stores[1:]]
    assert all(each["later"] > 0 for each in told[:-2])
    assert [(each["own"], each["later"], each["ahead"]) for each in told[-2:]] == [(0, 0, [])] * 2
    assert {each["stage"] for each in told if not each["ahead"]} > {"examples", "finished"}
