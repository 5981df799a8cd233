"""Tasks to workers: the bounded loop that gets a stage done on a cluster that may fail.

A task's result is durable before it is reported, and any worker may do any task again with the same
bits; so a worker or a node that dies costs what it was doing, and one that joins is used.
"""

import gc
import logging
import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import ray
from ray.exceptions import OutOfMemoryError, RayError, RayTaskError

from universal_ray.config.study import ClusterConfig, Device
from universal_ray.errors import (
    HubError,
    MemoryShortError,
    MissingError,
    ModelError,
    ResourceError,
    StorageError,
    UniversalRayError,
)
from universal_ray.runtime.cluster import cluster, results
from universal_ray.runtime.journal import ATTEMPTS, LESS_MEMORY, MEND, Journal, reason
from universal_ray.runtime.task import Batch, Stage, Task

log = logging.getLogger(__name__)

CALLS = 2
"""Tasks under way on one worker: while one writes its sums, the next makes its own."""
START_TIMEOUT = 300.0
"""Seconds to wait for a worker before saying what the cluster lacks."""
POLL = 5.0
"""Seconds without news after which the lock is looked at all the same."""
NODE_DIED = "node has died", "node died", "node is dead", "node was terminated"
"""What Ray says of a worker that was lost with its node, in one of its messages."""


OF_A_NODE = HubError, MissingError, ModelError
"""What the driver found whole and a worker did not: its node has no way to the hub, or other files
in its cache. Another node may have them."""


class Host:
    """A process of the cluster: the worker of one stage after another."""

    def become(self, kind: type, assignment: Any) -> tuple[str, tuple[str, float]]:
        """Start as a stage's worker; its node and memory."""
        self._worker: Any = None  # the one before gives up its memory first
        gc.collect()
        gc.freeze()  # what is imported is not looked through again whenever a model is let go
        self._worker = kind(assignment)
        return ray.get_runtime_context().get_node_id(), self._worker.memory()

    def call(self, method: str, *arguments: Any) -> Any:
        return getattr(self._worker, method)(*arguments)


@dataclass(eq=False)
class _Worker:
    host: Any
    node: str = ""
    memory: tuple[str, float] = ("", 0.0)
    tasks: set[ray.ObjectRef] = field(default_factory=set)
    beside: set[ray.ObjectRef] = field(default_factory=set)


class Scheduler:
    """Runs stages one after another on the same processes of a Ray cluster; holds no results."""

    def __init__(self, settings: ClusterConfig, say: Callable[[str], None] = log.info):
        self.settings, self.say = settings, say
        self.opened = ExitStack()
        self.workers: list[_Worker] = []
        self.starting: dict[ray.ObjectRef, _Worker] = {}
        self.running: dict[ray.ObjectRef, tuple[_Worker, Task]] = {}
        self.waiting: deque[Task] = deque()
        self.beside: deque[Task] = deque()
        self.avoided: dict[str, set[str]] = {}
        self.barred: set[str] = set()
        """nodes that lack a model"""
        self.started = self.failed_starts = 0
        self.settled = False
        """whether a stage has begun: until then what a worker finds wrong is wrong with the run"""

    def __enter__(self) -> "Scheduler":
        """Join or start the cluster; raises ResourceError as that does."""
        address, count = self.settings.address, self.settings.workers
        self.say(f"Joining Ray at {address}" if address else "Starting Ray")
        self.opened.enter_context(cluster(self.settings))
        self.say(f"Starting {count} worker{'s' if count > 1 else ''}")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._let_go()
        self.opened.close()

    def run(self, stage: Stage, assignment: Any, journal: Journal) -> None:
        """As `Executor.run`; raises ResourceError without workers."""
        self.stage, self.journal = stage, journal
        self.avoided.clear()
        self.barred.clear()
        self.heard = time.monotonic()
        # Once in the cluster's memory, whatever a stage tells its workers.
        self.assignment = ray.put(assignment)
        try:
            self._start()
            memory = [worker.memory for worker in self.workers]
            for batch in stage.batches(memory):
                self._run(batch)
        except BaseException:
            self._let_go()
            raise

    def _let_go(self) -> None:
        """End all workers, whatever they are at."""
        for worker in [*self.workers, *self.starting.values()]:
            ray.kill(worker.host)
        for each in (self.workers, self.starting, self.running, self.waiting, self.beside):
            each.clear()
        self.failed_starts, self.settled = 0, False

    def _run(self, batch: Batch) -> None:
        self.batch = batch
        self.journal.begin(self.stage.name, batch)
        self._add(batch.tasks)
        while self.waiting or self.beside or self.running:
            self._assign()
            self._collect()

    def _add(self, tasks: Sequence[Task]) -> None:
        for task in tasks:
            (self.beside if task.beside else self.waiting).append(task)

    # Workers

    def _new_worker(self) -> None:
        self.started += 1
        remote: Any = ray.remote(Host).options(
            name=f"worker-{self.started:03d}-{os.getpid()}",
            num_cpus=self.settings.threads,
            num_gpus=1 if self.settings.device is Device.cuda else 0,
            # A restarted actor would have lost what it held; tasks are given out again instead.
            max_restarts=0,
            max_concurrency=CALLS + 1,  # and one task beside
        )
        self._become(_Worker(remote.remote()))

    def _become(self, worker: _Worker) -> None:
        self.starting[worker.host.become.remote(self.stage.worker, self.assignment)] = worker

    def _start(self) -> None:
        """Bring the workers into the stage: what it plans depends on their memory.

        Those of the stage before are waited for alone, where there are any: what is to take the
        place of a lost one may never start, and joins when it does.
        """
        for worker in self.starting.values():
            ray.kill(worker.host)
        self.starting.clear()
        before, self.workers = self.workers, []
        for worker in before:
            self._become(worker)
        count = self.settings.workers
        for _ in range(count - len(before)):
            self._new_worker()
        awaited = before or list(self.starting.values())
        deadline = time.monotonic() + START_TIMEOUT
        while not self.workers or any(each in awaited for each in self.starting.values()):
            ready, _ = ray.wait(list(self.starting), timeout=POLL)
            self.journal.lock.check()
            for reference in ready:
                self._greeted(reference)
            if self.starting and time.monotonic() > deadline:
                raise ResourceError(
                    f"{len(self.starting)} of {count} workers did not start within "
                    f"{START_TIMEOUT:.0f} s: the cluster has {ray.available_resources()} free; "
                    "wait for other jobs or lower cluster.workers"
                )
        self.settled = True

    def _greeted(self, reference: ray.ObjectRef) -> None:
        worker = self.starting.pop(reference)
        try:
            ((worker.node, worker.memory),) = results([reference])
        except (RayError, UniversalRayError) as error:
            if isinstance(error, UniversalRayError) and not self.settled:
                raise
            self.failed_starts += not worker.node  # one that has worked was lost with its node
            if self.failed_starts >= ATTEMPTS:
                raise ResourceError(
                    f"{ATTEMPTS} workers in a row died as they started, the last with: "
                    f"{reason(error)}; see Ray's logs of that node"
                ) from error
            log.warning("a worker died as it started, another is tried: %s", reason(error))
            ray.kill(worker.host)
            self._new_worker()
            return
        self.failed_starts = 0
        self.heard = time.monotonic()
        self.workers.append(worker)

    def _replace(self, worker: _Worker) -> None:
        """A new worker for one that died, once: its other tasks fail too."""
        if worker in self.workers:
            self.workers.remove(worker)
            ray.kill(worker.host)
            self._new_worker()

    # Tasks

    def _assign(self) -> None:
        for worker in self._equipped():
            if self.beside and not worker.beside:
                self._give(worker, self.beside.popleft())
        if len(self.beside) > self.batch.behind:
            return
        while self.waiting and (free := self._free_worker(self.waiting[0])):
            task = self.waiting.popleft()
            self._give(free, task)
            self.journal.started(task)

    def _give(self, worker: _Worker, task: Task) -> None:
        method = worker.host.call.options(name=task.name)
        reference = method.remote(task.method, *task.arguments)
        (worker.beside if task.beside else worker.tasks).add(reference)
        self.running[reference] = (worker, task)

    def _equipped(self) -> list[_Worker]:
        """Workers on nodes that have not lacked a model; else all, of which one may say so again.
        """
        return [each for each in self.workers if each.node not in self.barred] or self.workers

    def _free_worker(self, task: Task) -> _Worker | None:
        """The one with fewest tasks, of a node that has the models and where this one has not run
        out of memory if there is any; a second task only while there is enough left for all.
        """
        equipped, avoided = self._equipped(), self.avoided.get(task.name, set())
        allowed = [worker for worker in equipped if worker.node not in avoided] or equipped
        if not allowed:
            return None
        worker = min(allowed, key=lambda each: len(each.tasks))
        most = CALLS if len(self.waiting) > len(self.workers) else 1
        return worker if len(worker.tasks) < most else None

    def _collect(self) -> None:
        ready, _ = ray.wait([*self.running, *self.starting], num_returns=1, timeout=POLL)
        self.journal.lock.check()
        for reference in ready:
            if reference in self.starting:
                self._greeted(reference)
                continue
            worker, task = self.running.pop(reference)
            worker.tasks.discard(reference)
            worker.beside.discard(reference)
            try:
                (result,) = results([reference])
            except (RayError, StorageError, MemoryShortError) as error:
                self._failed(worker, task, error)
                continue
            except OF_A_NODE as error:
                self._lacking(worker, task, error)
                continue
            self.journal.finished(task, result)
            self._add(self.stage.finished(task, result))
        if self.workers:
            self.heard = time.monotonic()
        elif time.monotonic() - self.heard > START_TIMEOUT:
            raise ResourceError(
                f"no worker is left and none started within {START_TIMEOUT:.0f} s: everything "
                f"finished is kept; the cluster has {ray.available_resources()} free, add nodes "
                "and run the same command again"
            )

    def _lacking(self, worker: _Worker, task: Task, error: UniversalRayError) -> None:
        """Put a task back whose worker did not get a model. Raises the error where no worker is on
        another node.
        """
        self.barred.add(worker.node)
        if not [each for each in self.workers if each.node not in self.barred]:
            raise error
        self.journal.failed(task, error, innocent=True)
        (self.beside if task.beside else self.waiting).appendleft(task)

    def _failed(self, worker: _Worker, task: Task, error: Exception) -> None:
        """Put a task back, and replace its worker unless it was the store that failed: a GPU whose
        memory was short, or that has met an error, may serve no call any more.
        """
        short = isinstance(error, OutOfMemoryError | MemoryShortError)
        died = isinstance(error, RayError) and not isinstance(error, RayTaskError)
        # What went with its node, or with a worker that another task brought down, was innocent.
        innocent = worker not in self.workers or any(words in str(error) for words in NODE_DIED)
        advice = LESS_MEMORY if short or died else MEND
        if died:
            advice = f"see the logs of Ray on its node: if memory was short, {advice}"
        self.journal.failed(task, error, advice, innocent=died and innocent)
        if short or isinstance(error, RayTaskError):
            self.avoided.setdefault(task.name, set()).add(worker.node)
        if not isinstance(error, StorageError):
            self._replace(worker)
        (self.beside if task.beside else self.waiting).appendleft(task)
