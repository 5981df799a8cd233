"""Work to workers, blocks to folds: the bounded loop that gets every sum of a study made.

A unit is one durable set of files; a worker that dies costs the units it held, nothing else.
"""

import json
import logging
import os
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError

from universal_ray import folding
from universal_ray.cluster import results
from universal_ray.errors import ResourceError, StorageError, UnitError
from universal_ray.items import Block, Item, calibration_file, marker
from universal_ray.lock import RunLock
from universal_ray.plan import Work
from universal_ray.preflight import Prepared
from universal_ray.progress import PROGRESS_FILE, Progress
from universal_ray.store import Store
from universal_ray.study import Device
from universal_ray.worker import Assignment, MomentsWorker

log = logging.getLogger(__name__)

ATTEMPTS = 3
"""How often a unit may fail before the run stops with its error."""
CALLS = 2
"""Calls under way on one worker: while one writes its sums, the next makes its own."""
START_TIMEOUT = 300.0
"""Seconds to wait for a worker before saying what it lacks."""
METRICS_FILE = "metrics.jsonl"

Watch = Callable[[str, int, int, float], None]
"""Called with stage, done, total and rate per second whenever something finishes."""


def read_metrics(store: Store) -> list[dict[str, Any]]:
    """One entry per finished work of a run, in the order they finished."""
    if not store.exists(METRICS_FILE):
        return []
    return [json.loads(line) for line in store.get(METRICS_FILE).decode().splitlines()]


class Scheduler:
    """The bounded loop that gets every unit computed and every full block folded."""

    def __init__(self, prepared: Prepared, store: Store, lock: RunLock, watch: Watch):
        self.prepared, self.store, self.lock, self.watch = prepared, store, lock, watch
        self.plan, self.settings = prepared.plan, prepared.study.cluster
        study = prepared.study
        self.assignment = Assignment(
            store_url=store.url,
            nonce=store.write_nonce(),
            corpus=prepared.corpus,
            sources=prepared.sources,
            excluded=prepared.excluded,
            activation=study.models.activation.value,
            dtype=study.models.dtype.value,
            policy=self.plan.footprint.policy.value,
            batch_rows=self.plan.batch_rows,
            threads=self.settings.threads,
            device=self.settings.device.value,
        )
        self.waiting: deque[Work] = deque()
        self.done = set(self.plan.done)
        self.workers: list[Any] = []
        self.running: dict[ray.ObjectRef, tuple[Any, Work]] = {}
        self.attempts: dict[str, int] = {}
        self.folds: dict[ray.ObjectRef, tuple[Any, Item, Block]] = {}
        self.folded: set[tuple[str, int]] = set()
        self.started = 0
        self.progress = Progress(0, 0, 0)
        self.metrics = read_metrics(store)

    def run(self) -> None:
        if self.plan.work:
            self._start_workers(min(self.settings.workers, len(self.plan.work)))
            self._calibrate()
        try:
            self._divide()
            self._fold_ready()
            while self.waiting or self.running or self.folds:
                self._assign()
                self._collect()
        except BaseException as error:
            self.progress.stopped(str(error))
            self._publish()
            raise
        finally:
            for worker in self.workers:
                ray.kill(worker)
        self.progress.stage = "reduce"
        self._publish()

    def _divide(self) -> None:
        """Plan again for the memory that the workers have; what fixes the bits stays as it is."""
        if self.workers and self.settings.memory is None:
            found = results([worker.memory.remote() for worker in self.workers])
            self.plan = replace(self.plan, memory=_smallest(found, self.settings.device))
        self.waiting = deque(self.plan.work)
        self.total_flops = self._flops_per_token()
        tokens = sum(self._tokens_of(work) for work in self.waiting)
        steps = len(self.plan.groups) * len(self.plan.layout.units)
        self.progress = Progress(steps, len(self.waiting), round(tokens))

    def _flops_per_token(self) -> int:
        return sum(item.flops(1) for item in self.plan.items)

    def _tokens_of(self, work: Work) -> float:
        """Tokens of the unit, by the share of their sums that the work makes."""
        share = sum(item.flops(1) for item in work.items) / self.total_flops
        return self.plan.tokens(work.unit) * share

    def _publish(self) -> None:
        self.store.put_json(PROGRESS_FILE, self.progress.state())

    def _new_worker(self) -> Any:
        self.started += 1
        remote = ray.remote(MomentsWorker).options(
            name=f"moments-{self.started:03d}-{os.getpid()}",
            num_cpus=self.settings.threads,
            num_gpus=1 if self.settings.device is Device.cuda else 0,
            # A restarted actor would have lost what it held; work is resubmitted instead.
            max_restarts=0,
            max_concurrency=CALLS + 1,  # and a fold
        )
        worker = remote.remote(self.assignment)
        self.workers.append(worker)
        return worker

    def _start_workers(self, count: int) -> None:
        workers = [self._new_worker() for _ in range(count)]
        ready = [worker.process.remote() for worker in workers]
        _, late = ray.wait(ready, num_returns=count, timeout=START_TIMEOUT)
        if late:
            raise ResourceError(
                f"{len(late)} of {count} workers did not start within {START_TIMEOUT:.0f} s: the "
                f"cluster has {ray.available_resources()} free; wait for other jobs or lower "
                "cluster.workers"
            )
        results(ready)

    def _calibrate(self) -> None:
        """Shift and scale of every model, once in the life of a run."""
        missing = [
            model for model in self.plan.models if not self.store.exists(calibration_file(model))
        ]
        results(
            [
                self.workers[index % len(self.workers)].calibrate.remote(
                    model, self.prepared.calibration_rows
                )
                for index, model in enumerate(missing)
            ]
        )

    def _assign(self) -> None:
        while self.waiting and (worker := self._free_worker()):
            work = self.waiting.popleft()
            name = f"unit-{work.unit.name}-{work.group}"
            self.running[worker.compute.options(name=name).remote(work)] = (worker, work)
            self.progress.started(work.name)
            self._publish()

    def _free_worker(self) -> Any | None:
        """The one with fewest calls; a second call only while there is enough left for all."""
        calls = Counter(worker for worker, _ in self.running.values())
        worker = min(self.workers, key=lambda each: calls[each])
        most = CALLS if len(self.waiting) > len(self.workers) else 1
        return worker if calls[worker] < most else None

    def _collect(self) -> None:
        ready, _ = ray.wait([*self.running, *self.folds], num_returns=1, timeout=5)
        self.lock.check()
        for reference in ready:
            if reference in self.folds:
                self._folded(reference)
                continue
            worker, work = self.running.pop(reference)
            try:
                metrics = results([reference])[0]
            except (RayActorError, RayTaskError, StorageError) as error:
                self._failed(worker, work, error)
                continue
            self.done |= {(work.unit.index, item.key) for item in work.items}
            self.metrics.append(metrics)
            lines = "".join(json.dumps(entry) + "\n" for entry in self.metrics)
            self.store.put(METRICS_FILE, lines.encode())
            self.progress.finished(work.name, self._tokens_of(work))
            self.watch("tokens", round(self.progress.tokens_done), self.progress.tokens_total,
                       self.progress.rate)
            self._publish()
        self._fold_ready()

    def _folded(self, reference: ray.ObjectRef) -> None:
        worker, item, block = self.folds.pop(reference)
        try:
            (seconds,) = results([reference])
        except RayActorError as error:
            log.warning("block %d lost its worker and is folded again: %s", block.index, error)
            self.folded.discard((item.key, block.index))
            self._replace(worker)
            return
        log.debug("folded block %s of %s in %.1f s", block.name, item.key, seconds)

    def _failed(self, worker: Any, work: Work, error: Exception) -> None:
        """Put the work back, on a new worker if the old one died."""
        unit = work.unit
        self.attempts[work.name] = self.attempts.get(work.name, 0) + 1
        cause = getattr(error, "cause", None) or error
        reason = f"{type(cause).__name__}: {str(cause).strip().splitlines()[0]}"
        self.progress.failed(work.name, reason)
        self._publish()
        if self.attempts[work.name] >= ATTEMPTS:
            raise UnitError(
                f"unit {unit.index} failed {ATTEMPTS} times, last with: {reason}; everything "
                "finished is kept, mend the cause and run the same command again"
            ) from error
        log.warning("unit %d failed and is tried again: %s", unit.index, reason)
        if isinstance(error, RayActorError):
            self._replace(worker)
        self.waiting.appendleft(work)

    def _replace(self, worker: Any) -> None:
        """A new worker for one that died, once: its other call fails too."""
        if worker in self.workers:
            self.workers.remove(worker)
            self._new_worker()

    def _fold_ready(self) -> None:
        """Fold blocks whose units are all there, one at a time on each worker."""
        for item, block in self._ready():
            if self.store.exists(marker(item.block_folder(block))):
                # A fold that was cut short may have left its units behind.
                folding.drop(self.store, [item.unit_folder(unit) for unit in block.units])
                self.folded.add((item.key, block.index))
                continue
            if not self.workers:
                self._start_workers(1)
            busy = {worker for worker, _, _ in self.folds.values()}
            free = [worker for worker in self.workers if worker not in busy]
            if not free:
                return
            self.folded.add((item.key, block.index))
            name = f"fold-{block.index}-{item.key}"
            reference = free[0].fold.options(name=name).remote(item, block)
            self.folds[reference] = (free[0], item, block)

    def _ready(self) -> Iterator[tuple[Item, Block]]:
        for block in self.plan.layout.blocks:
            for item in self.plan.items:
                if (item.key, block.index) not in self.folded and all(
                    (unit.index, item.key) in self.done for unit in block.units
                ):
                    yield item, block


def _smallest(found: list[tuple[str, float]], device: Device) -> float:
    """Bytes that every worker has to itself: workers on one host share its memory, not its GPUs."""
    hosts = [host for host, _ in found]
    shared = device is Device.cpu
    return min(memory / (hosts.count(host) if shared else 1) for host, memory in found)
