"""Tasks in this process, by made-up stages; and a study by either executor, with the same bits."""

import os
import subprocess
import sys
from contextlib import nullcontext

import pytest
import torch
from helpers_study import ALL, CORRELATIONS, make, run, table_bytes
from helpers_tiers import tiers
from helpers_whole import changed, make_inputs, whole_study

from universal_ray.errors import (
    DamagedError,
    LockedError,
    MemoryShortError,
    StorageError,
    UnitError,
)
from universal_ray.runtime import driver
from universal_ray.runtime.arithmetic import fix_arithmetic
from universal_ray.runtime.local import LocalExecutor
from universal_ray.runtime.progress import Forecast
from universal_ray.runtime.task import Batch, Task
from universal_ray.storage.store import Store

RECORD = b"{configuration: {}, bits: {}, models: [], corpus: {rows: 1, context: 1, units: []}}"
"""The least that a `study.yaml` says."""


class Puppet:
    """A worker that does what it is told to, with the threads it is told of."""

    made = 0

    def __init__(self, threads):
        Puppet.made += 1
        self.mine = Puppet.made
        fix_arithmetic(threads)

    def memory(self):
        return "host", 1.0

    def work(self, act):
        act()
        return {"worker": self.mine, "threads": torch.get_num_threads(), "seconds": {}}


def task(name, act=lambda: None, **more):
    return Task(name, name.replace("-", " "), "work", (act,), **more)


class Puppets:
    """A stage of some tasks; after `follows` come others."""

    worker = Puppet

    def __init__(self, *tasks, name="play", assignment=1, **follows):
        self.name, self.tasks, self.assignment, self.follows = name, tasks, assignment, follows
        self.results, self.ended = {}, False

    def forecast(self):
        return Forecast({"work": 10.0})

    def begin(self):
        return self.assignment

    def batches(self, memory):
        assert memory == [("host", 1.0)]
        yield Batch("work", self.tasks, behind=1)

    def finished(self, task, result):
        assert task.name not in self.results
        self.results[task.name] = result
        return self.follows.get(task.name, ())

    def end(self):
        self.ended = True


def failing(times, error):
    """An act that fails some times."""
    left = [error] * times

    def act():
        if left:
            raise left.pop()

    return act


@pytest.fixture
def store(tmp_path):
    return Store(str(tmp_path))


def test_tasks_beside_come_first_and_what_becomes_possible_comes_next(store):
    new = [task("fold", beside=True), task("second fold", beside=True)]
    stage = Puppets(
        task("large"), task("small", beside=True), task("other", tokens=7.0), large=new
    )
    driver.run(lambda: [stage], store, LocalExecutor())
    assert list(stage.results) == ["small", "large", "fold", "second fold", "other"]
    assert stage.ended
    progress = store.get_json("progress.json")
    (batch,) = progress["batches"]
    assert progress["stage"] == "finished" and not progress["running"]
    assert (batch["tasks_done"], batch["tasks_total"], batch["tokens_done"]) == (2, 2, 7.0)
    (line,) = store.get("metrics.jsonl").decode().splitlines()
    assert line.startswith('{"stage": "play", "worker": ')


def test_whoever_watches_is_told_of_every_task_that_counts(store):
    told = []
    stage = Puppets(task("one"), task("beside", beside=True), task("two"))
    later = Puppets(name="epilogue")

    def watch(progress):
        batch, state = progress.batches[-1], progress.state()
        told.append((batch.name, batch.tasks_done, batch.tasks_total, state["ahead"]))
        assert state["later"] > 1  # of the stage that is to come, less as this one is fast

    driver.run(lambda: [stage, later], store, LocalExecutor(), watch)
    assert told == [("work", 1, 2, ["epilogue"]), ("work", 2, 2, ["epilogue"])]


def test_while_the_executor_starts_the_run_says_so_and_what_lies_ahead(store):
    class Slow(LocalExecutor):
        def __enter__(self):
            seen.append(store.get_json("progress.json"))
            return super().__enter__()

    seen: list[dict] = []
    store.put("study.yaml", RECORD)
    for _ in range(2):  # the second finds what the first has left
        driver.run(lambda: [Puppets(task("one")), Puppets(name="end")], store, Slow())
        assert store.get_json("progress.json")["stage"] == "finished"
    assert [each["stage"] for each in seen] == ["starting play"] * 2
    assert [(each["own"], each["later"], each["ahead"]) for each in seen] == [(0, 20, ["end"])] * 2
    assert seen[0]["driver"] != seen[1]["driver"]


def test_a_store_that_fails_is_tried_again_with_the_same_worker(store, caplog):
    stage = Puppets(task("one"), task("two", failing(2, StorageError("the disk is busy"))))
    driver.run(lambda: [stage], store, LocalExecutor())
    one, two = (stage.results[name]["worker"] for name in ("one", "two"))
    assert one == two
    failures = store.get_json("progress.json")["failures"]
    assert [each["reason"] for each in failures] == ["StorageError: the disk is busy"] * 2
    assert caplog.text.count("two failed and is tried again") == 2


def test_a_worker_short_of_memory_is_replaced(store):
    stage = Puppets(task("one"), task("two", failing(1, MemoryShortError("no memory left"))))
    driver.run(lambda: [stage], store, LocalExecutor())
    assert stage.results["two"]["worker"] == stage.results["one"]["worker"] + 1


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (StorageError("the disk is full"), "mend the cause and run the same command again"),
        (MemoryShortError("no memory left"), r"lower cluster\.memory"),
    ],
)
def test_a_task_that_fails_three_times_stops_the_run_and_keeps_the_rest(store, error, advice):
    stage = Puppets(task("one"), task("task-two", failing(3, error)), task("three"))
    with pytest.raises(UnitError, match=rf"task two failed 3 times, last with: .*{advice}"):
        driver.run(lambda: [stage], store, LocalExecutor())
    assert list(stage.results) == ["one"] and not stage.ended
    progress = store.get_json("progress.json")
    assert progress["stage"] == "stopped" and "failed 3 times" in progress["error"]


def test_failures_of_one_stage_are_not_counted_in_the_next(store):
    stages = [
        Puppets(task("one", failing(2, StorageError("busy"))), name=name)
        for name in ("first", "second")
    ]
    driver.run(lambda: stages, store, LocalExecutor())
    assert all(stage.ended for stage in stages)


def test_an_error_that_nobody_made_on_purpose_is_raised_as_it_is(store):
    stage = Puppets(task("one", failing(1, ZeroDivisionError("a bug"))))
    with pytest.raises(ZeroDivisionError, match="a bug"):
        driver.run(lambda: [stage], store, LocalExecutor())
    assert store.get_json("progress.json")["error"] == "a bug"


@pytest.mark.parametrize("fails", [0, 1])
def test_the_settings_of_torch_are_put_back(store, fails):
    threads = torch.get_num_threads()
    torch.set_float32_matmul_precision("high")
    stage = Puppets(task("one", failing(fails, ZeroDivisionError())), assignment=threads + 1)
    try:
        with pytest.raises(ZeroDivisionError) if fails else nullcontext():
            driver.run(lambda: [stage], store, LocalExecutor())
        assert torch.get_num_threads() == threads
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision("highest")
    assert fails or stage.results["one"]["threads"] == threads + 1


class Counted(LocalExecutor):
    """Counts how often it is entered and left."""

    entered = left = 0

    def __enter__(self):
        self.entered += 1
        return super().__enter__()

    def __exit__(self, *error):
        self.left += 1
        super().__exit__(*error)


def test_an_executor_is_entered_once_and_only_when_there_is_something_to_do(store):
    executor = Counted()
    driver.run(lambda: [Puppets(task("one"), assignment=None)], store, executor)
    assert executor.entered == 0 and not store.exists("progress.json")
    damaged = failing(1, DamagedError("a file was altered"))
    prepared = []

    def stages():
        prepared.append(Puppets(task("one"), task("two", damaged)))
        return [Puppets(assignment=None), prepared[-1], Puppets(task("three"), name="after")]

    driver.run(stages, store, executor)
    assert (executor.entered, executor.left) == (1, 1)
    assert [list(stage.results) for stage in prepared] == [["one"], ["one", "two"]]


def test_what_is_damaged_for_good_is_told_once(store):
    executor, acts = Counted(), []

    def stages():
        acts.append(failing(1, DamagedError("for good")))
        return [Puppets(task("one", acts[-1]))]

    with pytest.raises(DamagedError, match="for good"):
        driver.run(stages, store, executor)
    assert len(acts) == 2
    assert (executor.entered, executor.left) == (1, 1)


def test_a_run_whose_lock_is_lost_stops_before_its_next_task(store):
    def steal():
        for path in store.list("lock"):
            store.delete(path)

    stage = Puppets(task("one", steal), task("two"))
    with pytest.raises(LockedError, match="was removed"):
        driver.run(lambda: [stage], store, LocalExecutor())
    assert list(stage.results) == ["one"]


@pytest.mark.parametrize(
    ("first", "refused"), tiers([("torch", True), ("universal_ray", False)], [("torch", True)])
)
def test_a_process_whose_kernels_are_chosen_freely_is_refused(first, refused):
    """MKL looks at MKL_CBWR once, and such a process would make other bits in silence."""
    if not torch.backends.mkl.is_available():
        pytest.skip("torch has no MKL here")
    code = f"""
import {first}, torch
torch.ones(64, 64) @ torch.ones(64, 64)
from universal_ray.errors import ResourceError
from universal_ray.runtime.arithmetic import fix_arithmetic
try:
    fix_arithmetic(1)
except ResourceError as error:
    print(error)
"""
    environment = {name: value for name, value in os.environ.items() if name != "MKL_CBWR"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    assert ("MKL_CBWR=AUTO,STRICT" in done.stdout) == refused


@pytest.mark.cluster
@pytest.mark.parametrize(
    ("stages", "workers", "threads"), [((CORRELATIONS,), 1, 2), (ALL, 1, 2), (ALL, 2, 1)]
)
def test_both_executors_make_the_same_bits_with_as_many_threads(
    nodes, tmp_path, stages, workers, threads
):
    nodes.some()
    inputs = make_inputs(tmp_path)
    here = whole_study(tmp_path / "here", *inputs, cluster__threads=threads)
    there = changed(
        here, run__dir=str(tmp_path / "there"), cluster__address=nodes.address,
        cluster__workers=workers,
    )  # fmt: skip
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        local = table_bytes(make(here, *stages, executor=LocalExecutor()))
    finally:
        torch.set_num_threads(before)
    assert len(local) >= 3 * len(stages)
    assert local == table_bytes(run(there, *stages))
