"""Tasks to workers: the bounded loop that gets a stage done on a cluster that may fail.

A task's result is durable before it is reported, and any worker may do any task again with the same
bits; so a worker or a node that dies costs what it was doing, and one that joins is used.
"""

import json
import logging
import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import ray
from ray.exceptions import OutOfMemoryError, RayError, RayTaskError

from universal_ray.config.study import ClusterConfig, Device
from universal_ray.errors import (
    MemoryShortError,
    ResourceError,
    StorageError,
    UnitError,
    UniversalRayError,
)
from universal_ray.runtime.cluster import results
from universal_ray.runtime.progress import PROGRESS_FILE, Advance, Progress
from universal_ray.runtime.task import Batch, Stage, Task
from universal_ray.storage.lock import RunLock
from universal_ray.storage.record import METRICS_FILE, read_metrics
from universal_ray.storage.store import Store

log = logging.getLogger(__name__)

ATTEMPTS = 3
"""How often a task may fail before the run stops with its error."""
CALLS = 2
"""Tasks under way on one worker: while one writes its sums, the next makes its own."""
START_TIMEOUT = 300.0
"""Seconds to wait for a worker before saying what the cluster lacks."""
POLL = 5.0
"""Seconds without news after which the lock is looked at all the same."""
NODE_DIED = "node has died", "node died", "node is dead", "node was terminated"
"""What Ray says of a worker that was lost with its node, in one of its messages."""

Watch = Callable[[Advance], None]
"""Called with the batch under way whenever a task of it finishes."""


class Host:
    """A process of the cluster: the worker of one stage after another."""

    def become(self, kind: type, assignment: Any) -> tuple[str, tuple[str, float]]:
        """Start as a stage's worker; its node and memory."""
        self._worker: Any = None  # the one before gives up its memory first
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
    """Runs stages one after another on the same processes; holds no results."""

    def __init__(self, settings: ClusterConfig, store: Store, lock: RunLock, watch: Watch):
        self.settings, self.store, self.lock, self.watch = settings, store, lock, watch
        self.workers: list[_Worker] = []
        self.starting: dict[ray.ObjectRef, _Worker] = {}
        self.running: dict[ray.ObjectRef, tuple[_Worker, Task]] = {}
        self.waiting: deque[Task] = deque()
        self.beside: deque[Task] = deque()
        self.attempts: dict[str, int] = {}
        self.avoided: dict[str, set[str]] = {}
        self.started = self.failed_starts = 0
        self.settled = False
        """whether a stage has begun: until then what a worker finds wrong is wrong with the run"""
        self.heard = time.monotonic()
        self.progress = Progress()
        self.metrics = read_metrics(store)

    def __enter__(self) -> "Scheduler":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for worker in [*self.workers, *self.starting.values()]:
            ray.kill(worker.host)
        if error is None:
            self.progress.stage = "finished"
        else:
            self.progress.stopped(str(error))
        self._publish()

    def run(self, stage: Stage, assignment: Any) -> None:
        """Raises UnitError for a task that failed too often, ResourceError without workers, and
        what a task raises on purpose.
        """
        self.stage = stage
        self.attempts.clear()
        self.avoided.clear()
        # Once in the cluster's memory, whatever a stage tells its workers.
        self.assignment = ray.put(assignment)
        self._start()
        memory = [worker.memory for worker in self.workers]
        for batch in stage.batches(memory):
            self._run(batch)

    def _run(self, batch: Batch) -> None:
        self.batch = batch
        counted = [task for task in batch.tasks if not task.beside]
        tokens = round(sum(task.tokens for task in counted))
        self.progress.begin(
            Advance(batch.name, batch.done + len(counted), batch.done, tokens)
        )
        self._publish()
        self._add(batch.tasks)
        while self.waiting or self.beside or self.running:
            self._assign()
            self._collect()

    def _add(self, tasks: Sequence[Task]) -> None:
        for task in tasks:
            (self.beside if task.beside else self.waiting).append(task)

    def _publish(self) -> None:
        self.store.put_json(PROGRESS_FILE, self.progress.state())

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
            self.lock.check()
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
                    f"{_reason(error)}; see Ray's logs of that node"
                ) from error
            log.warning("a worker died as it started, another is tried: %s", _reason(error))
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
        for worker in self.workers:
            if self.beside and not worker.beside:
                self._give(worker, self.beside.popleft())
        if len(self.beside) > self.batch.behind:
            return
        while self.waiting and (free := self._free_worker(self.waiting[0])):
            task = self.waiting.popleft()
            self._give(free, task)
            self.progress.started(task.label)
            self._publish()

    def _give(self, worker: _Worker, task: Task) -> None:
        method = worker.host.call.options(name=task.name)
        reference = method.remote(task.method, *task.arguments)
        (worker.beside if task.beside else worker.tasks).add(reference)
        self.running[reference] = (worker, task)

    def _free_worker(self, task: Task) -> _Worker | None:
        """The one with fewest tasks, of a node where this one has not run out of memory if there
        is any; a second task only while there is enough left for all.
        """
        avoided = self.avoided.get(task.name, set())
        allowed = [worker for worker in self.workers if worker.node not in avoided] or self.workers
        if not allowed:
            return None
        worker = min(allowed, key=lambda each: len(each.tasks))
        most = CALLS if len(self.waiting) > len(self.workers) else 1
        return worker if len(worker.tasks) < most else None

    def _collect(self) -> None:
        ready, _ = ray.wait([*self.running, *self.starting], num_returns=1, timeout=POLL)
        self.lock.check()
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
            if not task.beside:
                self._counted(task, result)
            self._add(self.stage.finished(task, result))
        if self.workers:
            self.heard = time.monotonic()
        elif time.monotonic() - self.heard > START_TIMEOUT:
            raise ResourceError(
                f"no worker is left and none started within {START_TIMEOUT:.0f} s: everything "
                f"finished is kept; the cluster has {ray.available_resources()} free, add nodes "
                "and run the same command again"
            )

    def _counted(self, task: Task, result: Any) -> None:
        if task.tokens:
            self.metrics.append({"stage": self.stage.name, **result})
            lines = "".join(json.dumps(entry) + "\n" for entry in self.metrics)
            self.store.put(METRICS_FILE, lines.encode())
        self.progress.finished(task.label, task.tokens)
        self._publish()
        self.watch(self.progress.batches[-1])

    def _failed(self, worker: _Worker, task: Task, error: Exception) -> None:
        """Put a task back, and replace its worker unless it was the store that failed: a GPU whose
        memory was short, or that has met an error, may serve no call any more.
        """
        reason = _reason(error)
        short = isinstance(error, OutOfMemoryError | MemoryShortError)
        died = isinstance(error, RayError) and not isinstance(error, RayTaskError)
        self.progress.failed(task.label, reason)
        self._publish()
        # What went with its node, or with a worker that another task brought down, was innocent.
        innocent = worker not in self.workers or any(words in str(error) for words in NODE_DIED)
        if not (died and innocent):
            self.attempts[task.name] = self.attempts.get(task.name, 0) + 1
        if self.attempts.get(task.name, 0) >= ATTEMPTS:
            advice = "mend the cause"
            if short or died:
                advice = "lower cluster.memory, so that less is held together (no bit changes)"
                if died:
                    advice = f"see the logs of Ray on its node: if memory was short, {advice}"
            raise UnitError(
                f"{task.label} failed {ATTEMPTS} times, last with: {reason}; everything finished "
                f"is kept, {advice} and run the same command again"
            ) from error
        log.warning("%s failed and is tried again: %s", task.label, reason)
        if short or isinstance(error, RayTaskError):
            self.avoided.setdefault(task.name, set()).add(worker.node)
        if not isinstance(error, StorageError):
            self._replace(worker)
        (self.beside if task.beside else self.waiting).appendleft(task)


def _reason(error: Exception) -> str:
    """Kind and first line of what went wrong."""
    cause = getattr(error, "cause", None) or error
    lines = str(cause).strip().splitlines() or [""]
    return f"{type(cause).__name__}: {lines[0]}"
