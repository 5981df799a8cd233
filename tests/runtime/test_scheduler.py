"""Tasks to workers that vanish and join between stages: made-up stages on a real cluster."""

import os
import time
from contextlib import nullcontext

import psutil
import pytest
import ray
from helpers_stages import sent_by_value
from ray.cluster_utils import Cluster

from universal_ray.config.study import ClusterConfig, ModelsConfig, RunConfig, Study
from universal_ray.errors import HubError, MemoryShortError, UnitError
from universal_ray.runtime import driver, scheduler
from universal_ray.runtime.progress import Forecast
from universal_ray.runtime.scheduler import Scheduler
from universal_ray.runtime.task import Batch, Task
from universal_ray.storage.store import Store

BROKEN, SHORT, GREEDY, LACKING = 0.125, 0.1875, 0.25, 0.375
"""Seconds of work that fails on a broken node, finds no memory, takes more than there is, or does
not get a model on a broken node.
"""
GREED = 3 * 2**30


class Puppet:
    """A worker that tells who it is."""

    def __init__(self, stage):
        self.stage = stage

    def memory(self):
        return "host", 1.0

    def work(self, seconds):
        time.sleep(seconds)
        if seconds == SHORT:
            raise MemoryShortError("this host has no memory left")
        if seconds == GREEDY:
            held = b"." * GREED
            time.sleep(30)
            del held
        if seconds == BROKEN and "UNIVERSAL_RAY_TEST_BROKEN" in os.environ:
            raise RuntimeError("an illegal memory access was encountered")
        if seconds == LACKING and "UNIVERSAL_RAY_TEST_BROKEN" in os.environ:
            raise HubError("The hub did not give model 'a/b'.")
        context = ray.get_runtime_context()
        names = context.get_actor_name(), context.get_task_name()
        return self.stage, context.get_node_id(), *names


class Puppets:
    """A stage of some tasks; `meanwhile` is called when the first of them is done."""

    worker = Puppet

    def __init__(self, name, tasks, meanwhile=lambda: None):
        self.name, self.tasks, self.meanwhile = name, tasks, meanwhile
        self.told, self.memory = [], []

    def forecast(self):
        return Forecast({})

    def begin(self):
        return self.name

    def batches(self, memory):
        self.memory = memory
        yield Batch("work", self.tasks)

    def finished(self, task, result):
        self.told.append((task.name, *result))
        if len(self.told) == 1:
            self.meanwhile()
        return ()

    def end(self):
        pass


class Lasting(Puppets):
    """Has more tasks until one was done on another node than the first, however long it takes."""

    def finished(self, task, result):
        super().finished(task, result)
        if len({node for _, _, node, *_ in self.told}) > 1 or len(self.told) > 1000:
            return ()
        name = f"task-{len(self.told) + 3}"
        return [Task(name, name, "work", (0.2,))]


def tasks(count, seconds=0.0, beside=False):
    return [
        Task(f"task-{index}", f"task {index}", "work", (seconds,), beside=beside)
        for index in range(count)
    ]


@pytest.fixture(autouse=True)
def by_value(request):
    with sent_by_value(request.module):
        yield


def play(nodes, workers, folder, *stages):
    study = Study(
        run=RunConfig(dir=str(folder)),
        models=ModelsConfig(reference="a", compared=["b"]),
        cluster=ClusterConfig(workers=workers, address=nodes.address),
    )
    driver.run(lambda: stages, Store(study.run.dir), Scheduler(study.cluster))


@pytest.mark.cluster
def test_a_node_that_never_comes_back_does_not_hold_up_the_stage_after(
    nodes, tmp_path, monkeypatch
):
    """Nor is a worker that joins late one of the stage that it was started for."""
    monkeypatch.setattr(scheduler, "START_TIMEOUT", 3600.0)  # longer than any test may take
    nodes.add(1)
    lost = nodes.add(3)
    first = Puppets("first", tasks(12, 0.2), lambda: nodes.remove(lost))
    second = Lasting("second", tasks(4, 0.2), lambda: nodes.add(3))
    play(nodes, 4, tmp_path, first, second)
    assert len(first.memory) == 4 and len(second.memory) == 1
    assert {stage for _, stage, *_ in first.told} == {"first"}
    assert {stage for _, stage, *_ in second.told} == {"second"}
    names = [name for name, *_ in second.told]
    assert len(names) == len(set(names)) < 1000
    assert len({node for _, _, node, *_ in second.told}) == 2


@pytest.mark.cluster
def test_work_that_fails_without_a_reason_of_its_own_goes_to_another_node(nodes, tmp_path):
    nodes.add(1)
    nodes.add(1, UNIVERSAL_RAY_TEST_BROKEN="1")
    stage = Puppets("first", tasks(5, BROKEN))
    play(nodes, 2, tmp_path, stage)
    assert sorted(name for name, *_ in stage.told) == [f"task-{index}" for index in range(5)]
    assert len({node for _, _, node, *_ in stage.told}) == 1
    failures = Store(str(tmp_path)).get_json("progress.json")["failures"]
    reasons = [each["reason"] for each in failures]
    broken = [reason for reason in reasons if "illegal memory access" in reason]
    # The worker is replaced, and with it goes what waits for the same one.
    assert broken and all("actor died" in each for each in reasons if each not in broken)


@pytest.mark.cluster
def test_a_node_without_a_way_to_the_hub_leaves_the_work_to_the_others(nodes, tmp_path):
    nodes.add(1)
    nodes.add(1, UNIVERSAL_RAY_TEST_BROKEN="1")
    stage = Puppets("first", tasks(9, LACKING))
    play(nodes, 2, tmp_path, stage)
    assert sorted(name for name, *_ in stage.told) == [f"task-{index}" for index in range(9)]
    assert len({node for _, _, node, *_ in stage.told}) == 1
    failures = Store(str(tmp_path)).get_json("progress.json")["failures"]
    assert 1 <= len(failures) <= scheduler.CALLS  # then that node is given nothing more


@pytest.mark.cluster
def test_where_no_node_gets_a_model_the_run_stops_with_what_the_hub_said(nodes, tmp_path):
    nodes.add(2, UNIVERSAL_RAY_TEST_BROKEN="1")
    with pytest.raises(HubError, match=r"^The hub did not give model 'a/b'\.$"):
        play(nodes, 2, tmp_path, Puppets("first", tasks(5, LACKING)))


@pytest.mark.cluster
def test_no_worker_has_memory(nodes, tmp_path):
    nodes.some()
    told = r"task 0 failed 3 times.*no memory left.*lower cluster\.memory"
    with pytest.raises(UnitError, match=told):
        play(nodes, 1, tmp_path, Puppets("first", tasks(1, SHORT)))


@pytest.mark.cluster
@pytest.mark.slow
def test_worker_that_ray_kills_for_its_memory(monkeypatch, tmp_path):
    memory = psutil.virtual_memory()
    allowed = (memory.total - memory.available + GREED / 2) / memory.total
    monkeypatch.setenv("RAY_memory_usage_threshold", f"{allowed:.3f}")
    monkeypatch.setenv("RAY_memory_monitor_refresh_ms", "100")
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        with pytest.raises(UnitError, match=r"3 times.*OutOfMemory.*lower cluster\.memory"):
            play(made, 1, tmp_path, Puppets("first", tasks(1, GREEDY)))
    finally:
        made.shutdown()


@pytest.mark.cluster
def test_actors_and_tasks_have_the_names_that_the_dashboard_shows(nodes, tmp_path):
    nodes.some()
    stage = Puppets("first", tasks(3))
    play(nodes, 1, tmp_path, stage)
    for task, _, _, actor, name in stage.told:
        assert actor.startswith("worker-001-")
        assert name == task


def test_no_other_task_begins_while_more_wait_beside_than_may(nodes, tmp_path):
    class Behind(Puppets):
        def batches(self, memory):
            large = [Task("large", "large", "work", (0.0,))]
            yield Batch("work", [*large, *tasks(6, 0.05, beside=True)], behind=2)

    nodes.some()
    stage = Behind("first", [])
    play(nodes, 1, tmp_path, stage)
    order = [name for name, *_ in stage.told]
    assert sorted(order) == ["large", *(f"task-{index}" for index in range(6))]
    assert order.index("large") >= 3  # one beside is under way and two wait


def test_what_takes_seconds_is_said_before_it_begins(monkeypatch):
    told: list[str] = []

    def cluster(settings):
        told.append("opened")
        return nullcontext()

    monkeypatch.setattr(scheduler, "cluster", cluster)
    for settings in (ClusterConfig(workers=2), ClusterConfig(address="auto", workers=1)):
        with Scheduler(settings, told.append):
            told.append("entered")
    first, second = told[:4], told[4:]
    assert first == ["Starting Ray", "opened", "Starting 2 workers", "entered"]
    assert second == ["Joining Ray at auto", "opened", "Starting 1 worker", "entered"]
