"""The scheduler: units to workers, blocks to folds, layers to the reduction. Holds no sums itself.

A unit is one durable set of files; a worker that dies costs the unit it held, nothing else.
"""

import json
import logging
import os
import socket
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import ray
import yaml
from ray.exceptions import RayActorError, RayTaskError

from universal_ray import reduce
from universal_ray.assemble import PAIRS_PATH, SUMMARY_PATH, assemble
from universal_ray.errors import ResourceError, StorageError, UnitError, UniversalRayError
from universal_ray.lock import RunLock
from universal_ray.plan import Block, Item, Unit, calibration_file, marker
from universal_ray.preflight import STUDY_FILE, Prepared
from universal_ray.progress import PROGRESS_FILE, Progress
from universal_ray.store import Store
from universal_ray.study import Device, Study, fingerprint, plain
from universal_ray.worker import Assignment, MomentsWorker

log = logging.getLogger(__name__)

ATTEMPTS = 3
"""How often a unit may fail before the run stops with its error."""
START_TIMEOUT = 300.0
"""Seconds to wait for a worker before saying what it lacks."""
METRICS_FILE = "metrics.jsonl"
TABLES_MARKER = "tables/done.json"

Watch = Callable[[str, int, int, float], None]
"""Called with stage, done, total and rate per second whenever something finishes."""


@contextmanager
def cluster(study: Study) -> Iterator[None]:
    """A Ray cluster with what the study asks for: joined and checked, or started here."""
    settings = study.cluster
    need = {"CPU": float(settings.workers * settings.threads)}
    if settings.device is Device.cuda:
        need["GPU"] = float(settings.workers)
    # Ray's own changes of defaults, announced by warnings that no user of this tool can act on.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if settings.address is None:
        ray.init("local", num_cpus=int(need["CPU"]), include_dashboard=False, **quiet)
    else:
        try:
            _knock(settings.address)
            ray.init(address=settings.address, **quiet)
        except OSError as error:
            raise ResourceError(
                f"no Ray cluster answers at cluster.address={settings.address}: start one with "
                "`ray start --head`, or leave cluster.address out"
            ) from error
    try:
        have = ray.cluster_resources()
        for kind, amount in need.items():
            if have.get(kind, 0) < amount:
                raise ResourceError(
                    f"the study asks for {amount:.0f} {kind}s (cluster.workers="
                    f"{settings.workers}) and the cluster has {have.get(kind, 0):.0f}: "
                    "lower cluster.workers or add nodes"
                )
        yield
    finally:
        ray.shutdown()


def _knock(address: str) -> None:
    """Raise OSError where nothing listens; Ray itself would try for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon:
        socket.create_connection((host, int(port)), timeout=10).close()


def correlate(prepared: Prepared, store: Store, watch: Watch) -> None:
    """Make every table of the correlation stage, from whatever is already done."""
    with RunLock(store) as lock:
        store.put(STUDY_FILE, yaml.safe_dump(prepared.record, sort_keys=False).encode())
        store.sweep()
        reduce.drop(store, list(prepared.damaged))
        order = _order(prepared, store)
        if not prepared.plan.work and _tables_stand(store, prepared, order):
            log.info("nothing is left to do")
            return
        with cluster(prepared.study):
            _Sums(prepared, store, lock, watch).run()
            _reduce(prepared, store, order, watch)
        lock.check()


def _order(prepared: Prepared, store: Store) -> reduce.Reduction:
    study = prepared.study
    return reduce.Reduction(
        store.url,
        prepared.plan.layout,
        study.baseline.rotations,
        study.baseline.kind.value,
        study.baseline.seed,
        study.precision.moments.value,
        study.cluster.threads,
    )


def _tables_fingerprint(prepared: Prepared, order: reduce.Reduction) -> str:
    plan = prepared.plan
    return fingerprint(
        [
            [order.folder(item) for item in plan.items],
            [model.name for model in plan.models],
            plain(prepared.study.models.pairs),
            prepared.study.universal.threshold,
        ]
    )


def _tables_stand(store: Store, prepared: Prepared, order: reduce.Reduction) -> bool:
    if not all(store.exists(path) for path in (TABLES_MARKER, PAIRS_PATH, SUMMARY_PATH)):
        return False
    return store.get_json(TABLES_MARKER)["fingerprint"] == _tables_fingerprint(prepared, order)


class _Sums:
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
            policy=study.precision.moments.value,
            batch_rows=self.plan.batch_rows,
            threads=self.settings.threads,
            device=self.settings.device.value,
        )
        self.waiting: deque[tuple[Unit, tuple[Item, ...]]] = deque(self.plan.work)
        self.done = set(self.plan.done)
        self.idle: list[Any] = []
        self.running: dict[ray.ObjectRef, tuple[Any, Unit, tuple[Item, ...]]] = {}
        self.attempts: dict[int, int] = {}
        self.folds: dict[ray.ObjectRef, tuple[Item, Block]] = {}
        self.folded: set[tuple[str, int]] = set()
        self.started = 0
        tokens = sum(self.plan.tokens(unit) for unit, _ in self.plan.work)
        self.progress = Progress(len(self.plan.layout.units), len(self.plan.work), tokens)
        self.metrics = [
            json.loads(line)
            for line in (
                store.get(METRICS_FILE).decode().splitlines() if store.exists(METRICS_FILE) else []
            )
        ]

    def run(self) -> None:
        if self.waiting:
            self._start_workers()
            self._calibrate()
        try:
            self._fold_ready()
            while self.waiting or self.running or self.folds:
                self._assign()
                self._collect()
        except BaseException as error:
            self.progress.stopped(str(error))
            self._publish()
            raise
        finally:
            for worker in self.idle + [entry[0] for entry in self.running.values()]:
                ray.kill(worker)
        self.progress.stage = "reduce"
        self._publish()

    def _publish(self) -> None:
        self.store.put_json(PROGRESS_FILE, self.progress.state())

    def _new_worker(self) -> Any:
        self.started += 1
        remote = ray.remote(MomentsWorker).options(
            name=f"moments-{self.started:03d}-{os.getpid()}",
            num_cpus=self.settings.threads,
            num_gpus=1 if self.settings.device is Device.cuda else 0,
            # A restarted actor would have lost what it held; units are resubmitted instead.
            max_restarts=0,
        )
        return remote.remote(self.assignment)

    def _start_workers(self) -> None:
        count = min(self.settings.workers, len(self.waiting))
        workers = [self._new_worker() for _ in range(count)]
        ready = [worker.process.remote() for worker in workers]
        _, late = ray.wait(ready, num_returns=count, timeout=START_TIMEOUT)
        if late:
            raise ResourceError(
                f"{len(late)} of {count} workers did not start within {START_TIMEOUT:.0f} s: the "
                f"cluster has {ray.available_resources()} free; wait for other jobs or lower "
                "cluster.workers"
            )
        _get(ready)
        self.idle = workers

    def _calibrate(self) -> None:
        """Shift and scale of every model, once in the life of a run."""
        missing = [
            model for model in self.plan.models if not self.store.exists(calibration_file(model))
        ]
        _get(
            [
                self.idle[index % len(self.idle)].calibrate.remote(
                    model, self.prepared.calibration_rows
                )
                for index, model in enumerate(missing)
            ]
        )

    def _assign(self) -> None:
        while self.waiting and self.idle:
            unit, items = self.waiting.popleft()
            worker = self.idle.pop()
            reference = worker.compute.options(name=f"unit-{unit.name}").remote(unit, items)
            self.running[reference] = (worker, unit, items)
            self.progress.started(unit.index)
            self._publish()

    def _collect(self) -> None:
        ready, _ = ray.wait([*self.running, *self.folds], num_returns=1, timeout=5)
        self.lock.check()
        for reference in ready:
            if reference in self.folds:
                item, block = self.folds.pop(reference)
                _get([reference])
                log.debug("folded block %s of %s", block.name, item.key)
                continue
            worker, unit, items = self.running.pop(reference)
            try:
                metrics = _get([reference])[0]
            except (RayActorError, RayTaskError, StorageError) as error:
                self._failed(worker, unit, items, error)
                continue
            self.idle.append(worker)
            self.done |= {(unit.index, item.key) for item in items}
            self.metrics.append(metrics)
            lines = "".join(json.dumps(entry) + "\n" for entry in self.metrics)
            self.store.put(METRICS_FILE, lines.encode())
            self.progress.finished(unit.index, self.plan.tokens(unit))
            self.watch("tokens", self.progress.tokens_done, self.progress.tokens_total,
                       self.progress.rate)
            self._publish()
        self._fold_ready()

    def _failed(self, worker: Any, unit: Unit, items: tuple[Item, ...], error: Exception) -> None:
        """Put the unit back, on a new worker if the old one died."""
        self.attempts[unit.index] = self.attempts.get(unit.index, 0) + 1
        cause = getattr(error, "cause", None) or error
        reason = f"{type(cause).__name__}: {str(cause).strip().splitlines()[0]}"
        self.progress.failed(unit.index, reason)
        self._publish()
        if self.attempts[unit.index] >= ATTEMPTS:
            raise UnitError(
                f"unit {unit.index} failed {ATTEMPTS} times, last with: {reason}; everything "
                "finished is kept, mend the cause and run the same command again"
            ) from error
        log.warning("unit %d failed and is tried again: %s", unit.index, reason)
        if isinstance(error, RayActorError):
            worker = self._new_worker()
        self.idle.append(worker)
        self.waiting.appendleft((unit, items))

    def _fold_ready(self) -> None:
        """Fold blocks whose units are all there; a few at a time, beside the workers."""
        for block in self.plan.layout.blocks:
            for item in self.plan.items:
                if len(self.folds) >= self.settings.workers:
                    return
                key = (item.key, block.index)
                if key in self.folded:
                    continue
                if not all((unit.index, item.key) in self.done for unit in block.units):
                    continue
                self.folded.add(key)
                if self.store.exists(marker(item.block_folder(block))):
                    # A fold that was cut short may have left its units behind.
                    reduce.drop(self.store, [item.unit_folder(unit) for unit in block.units])
                    continue
                task = ray.remote(reduce.fold).options(
                    name=f"fold-{block.index}-{item.key}", num_cpus=0
                )
                reference = task.remote(self.store.url, item, block, self.settings.threads)
                self.folds[reference] = (item, block)


def _get(references: list) -> list:
    """`ray.get`, with this project's own errors as they were raised."""
    try:
        return ray.get(references)
    except RayTaskError as error:
        if isinstance(error.cause, UniversalRayError):
            raise error.cause from None
        raise
    except RayActorError as error:
        cause = getattr(error, "cause", None)
        if isinstance(cause, UniversalRayError):
            raise cause from None
        raise


def _run_all(tasks: list[tuple], threads: int, bound: int, done: Callable[[], None]) -> None:
    """Run (function, name, arguments) as Ray tasks, a bounded number at a time."""
    left: deque[tuple] = deque(tasks)
    running: set[ray.ObjectRef] = set()
    while left or running:
        while left and len(running) < bound:
            function, name, arguments = left.popleft()
            remote = ray.remote(function).options(name=name, num_cpus=threads, max_retries=2)
            running.add(remote.remote(*arguments))
        ready, _ = ray.wait(list(running), num_returns=1)
        _get(ready)
        running -= set(ready)
        for _ in ready:
            done()


def _reduce(prepared: Prepared, store: Store, order: reduce.Reduction, watch: Watch) -> None:
    """Models, then layers of pairs, then the tables; what stands already is not made again."""
    plan, threads = prepared.plan, prepared.study.cluster.threads
    fresh = {order.folder(item) for item in plan.items}
    models = [
        (reduce.reduce_model, f"reduce-{item.key}", (order, item))
        for item in plan.items
        if len(item.models) == 1 and not store.exists(f"{order.folder(item)}/model.json")
    ]
    layers = [
        (reduce.reduce_rows, f"reduce-{pair.key}-{layer}", (order, pair, layer))
        for pair in plan.pairs
        for layer in range(pair.layers)
        if not store.exists(f"{order.folder(pair)}/layer-{layer:02d}.json")
    ]
    total, finished, began = len(models) + len(layers) + 1, 0, time.monotonic()

    def advance() -> None:
        nonlocal finished
        finished += 1
        watch("reduce", finished, total, finished / max(time.monotonic() - began, 1e-9))

    bound = prepared.study.cluster.workers
    _run_all(models, threads, bound, advance)
    _run_all(layers, threads, bound, advance)
    study = prepared.study
    arguments = (order, plan, study.models.pairs, study.universal.threshold)
    _run_all([(assemble, "assemble", arguments)], threads, 1, advance)
    store.finish(TABLES_MARKER, {"fingerprint": _tables_fingerprint(prepared, order)})
    stale = {path.split("/")[1] for path in store.list("reduce")}
    stale -= {folder.split("/")[1] for folder in fresh}
    for name in sorted(stale):
        for path in store.list(f"reduce/{name}"):
            store.delete(path)
    state = store.get_json(PROGRESS_FILE) if store.exists(PROGRESS_FILE) else {}
    store.put_json(PROGRESS_FILE, {**state, "stage": "finished", "finished": time.time()})
