"""The time that is foreseen is of all that every stage does, and goes as it is done."""

from itertools import pairwise
from pathlib import Path

import pytest
from helpers_study import ALL, stages
from helpers_whole import changed, copied, whole_run

from universal_ray.stages.registry import STAGES
from universal_ray.storage.store import Store

UNPLANNED = {"calibration", "baselines", "windows"}
"""Batches that are too small for the plan."""


@pytest.fixture(scope="module")
def run(once):
    """A study of all stages, and its run directory after every batch of tasks and at the end."""
    study, moments = whole_run(once)
    return study, [*moments, Path(study.run.dir)]


def foreseen(study, folder: Path) -> dict[str, dict[str, float]]:
    """Seconds by stage and batch, of a worker that is as fast as it is said to be."""
    there = changed(study, run__dir=str(folder), cluster__tflops=1e-3)
    return {each.name: dict(each.forecast().seconds) for each in stages(there, *ALL)}


def test_every_batch_of_every_stage_is_foreseen_and_no_other(run, tmp_path):
    study, moments = run
    plan, names = foreseen(study, tmp_path), []
    for batch in Store(str(moments[-1])).get_json("progress.json")["batches"]:
        assert batch["tasks_done"] == batch["tasks_total"] > 0
        names.append(batch["name"])
    assert tuple(plan) == ALL == STAGES
    for stage in plan.values():
        end = names.index("tables") + 1  # a stage's last
        assert all(stage.values()) and set(stage) == set(names[:end]) - UNPLANNED
        del names[:end]
    assert names == []


def test_what_is_left_falls_to_nothing_and_is_nothing_at_the_end_alone(run, tmp_path):
    study, moments = run
    times = [foreseen(study, tmp_path / "begin")]
    times += [foreseen(study, copied(each, tmp_path / each.name)) for each in moments]
    left = [sum(sum(stage.values()) for stage in each.values()) for each in times]
    assert all(before >= after for before, after in pairwise(left))
    assert all(left[:-1]) and left[-1] == 0
    assert len({*left}) > 2 * len(ALL)  # it does not go by whole stages
    # As a run tells it while it goes: nothing comes after the report's tables alone.
    told = [Store(str(each)).get_json("progress.json") for each in moments]
    assert all(each["later"] > 0 for each in told[:-2])
    assert [(each["own"], each["later"], each["ahead"]) for each in told[-2:]] == [(0, 0, [])] * 2
    assert {each["stage"] for each in told if not each["ahead"]} > {"examples", "finished"}
