"""The stages of a run: sums by the scheduler, then tables by tasks. Holds no sums itself."""

import logging
import time
from collections import deque
from collections.abc import Callable

import ray
import yaml

from universal_ray import folding, reduce
from universal_ray.assemble import PAIRS_PATH, SUMMARY_PATH, assemble
from universal_ray.cluster import cluster, results
from universal_ray.errors import MissingError
from universal_ray.lock import RunLock
from universal_ray.correlation_stage import MomentsStage
from universal_ray.preflight import STUDY_FILE, Prepared
from universal_ray.profile.assemble import PATHS as PROFILE_PATHS
from universal_ray.profile.assemble import Texts, assemble_profile
from universal_ray.profile.reduce import ProfileOrder, reduce_layer, reduce_weights
from universal_ray.profile.stage import PreparedProfile, ProfileStage
from universal_ray.progress import PROGRESS_FILE
from universal_ray.scheduler import Scheduler, Watch
from universal_ray.store import Store
from universal_ray.study import ClusterConfig, Device, fingerprint

log = logging.getLogger(__name__)

TABLES_MARKER = "tables/done.json"
PROFILE_MARKER = "tables/profile.json"


def correlate(prepared: Prepared, store: Store, watch: Watch) -> None:
    """Make every table of the correlation stage, from whatever is already done."""
    with RunLock(store) as lock:
        store.put(STUDY_FILE, yaml.safe_dump(prepared.record, sort_keys=False).encode())
        store.sweep()
        folding.drop(store, list(prepared.damaged))
        order = _order(prepared, store)
        if not prepared.plan.work and _tables_stand(store, prepared, order):
            log.info("nothing is left to do")
            return
        with cluster(prepared.study):
            stage = MomentsStage(prepared, store)
            Scheduler(stage, prepared.study.cluster, store, lock, watch).run()
            _stage(store, "reduce")
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
        prepared.plan.footprint.policy.value,
        study.cluster.threads,
        study.cluster.device.value,
    )


def _tables_fingerprint(prepared: Prepared, order: reduce.Reduction) -> str:
    plan = prepared.plan
    return fingerprint(
        [
            [order.folder(item) for item in plan.items],
            [model.name for model in plan.models],
            [model.name for model in plan.references],
            prepared.study.models.revisions,
            prepared.study.universal.threshold,
        ]
    )


def _tables_stand(store: Store, prepared: Prepared, order: reduce.Reduction) -> bool:
    if not all(store.exists(path) for path in (TABLES_MARKER, PAIRS_PATH, SUMMARY_PATH)):
        return False
    return store.get_json(TABLES_MARKER)["fingerprint"] == _tables_fingerprint(prepared, order)


def _run_all(
    tasks: list[tuple], settings: ClusterConfig, bound: int, done: Callable[[], None]
) -> None:
    """Run (function, name, arguments) as Ray tasks, a bounded number at a time."""
    needs = {"num_cpus": settings.threads, "num_gpus": int(settings.device is Device.cuda)}
    left: deque[tuple] = deque(tasks)
    running: set[ray.ObjectRef] = set()
    while left or running:
        while left and len(running) < bound:
            function, name, arguments = left.popleft()
            remote = ray.remote(function).options(name=name, max_retries=2, **needs)
            running.add(remote.remote(*arguments))
        ready, _ = ray.wait(list(running), num_returns=1)
        results(ready)
        running -= set(ready)
        for _ in ready:
            done()


def _counter(stage: str, total: int, watch: Watch) -> Callable[[], None]:
    """What to call whenever one of so many tasks is done."""
    finished, began = 0, time.monotonic()

    def advance() -> None:
        nonlocal finished
        finished += 1
        watch(stage, finished, total, finished / max(time.monotonic() - began, 1e-9))

    return advance


def _reduce(prepared: Prepared, store: Store, order: reduce.Reduction, watch: Watch) -> None:
    """Models, then layers of pairs, then the tables; what stands already is not made again."""
    plan = prepared.plan
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
    advance = _counter("reduce", len(models) + len(layers) + 1, watch)
    study = prepared.study
    settings = study.cluster
    _run_all(models, settings, settings.workers, advance)
    _run_all(layers, settings, settings.workers, advance)
    store.delete(PROFILE_MARKER)  # it adds to what is written now
    arguments = (order, plan, study.models, study.universal.threshold)
    _run_all([(assemble, "assemble", arguments)], settings, 1, advance)
    store.finish(TABLES_MARKER, {"fingerprint": _tables_fingerprint(prepared, order)})
    stale = {path.split("/")[1] for path in store.list("reduce")}
    stale -= {folder.split("/")[1] for folder in fresh}
    for name in sorted(stale):
        for path in store.list(f"reduce/{name}"):
            store.delete(path)
    _stage(store, "finished")


def profile(found: PreparedProfile, store: Store, watch: Watch) -> None:
    """Make the tables of the profile beside those of the correlations, from whatever is done.

    Raises MissingError where the correlations are not there yet.
    """
    prepared, study = found.prepared, found.prepared.study
    if not store.exists(TABLES_MARKER):
        raise MissingError(
            f"{store.url} holds no tables of correlations: make them first, by jobs/correlate.py "
            "with the same options"
        )
    order = ProfileOrder(
        store.url,
        found.plan,
        found.bank,
        study.taxonomy.convention.value,
        study.taxonomy.minimum_support,
        study.cluster.threads,
    )
    tables = fingerprint(
        [store.get_json(TABLES_MARKER), order.layer_path(found.plan.models[0], 0),
         order.convention, study.taxonomy.features]
    )
    with RunLock(store) as lock:
        standing = store.exists(PROFILE_MARKER) and all(map(store.exists, PROFILE_PATHS))
        if standing and store.get_json(PROFILE_MARKER)["fingerprint"] == tables:
            log.info("nothing of the profile is left to do")
            return
        with cluster(study):
            Scheduler(ProfileStage(found, store), study.cluster, store, lock, watch).run()
            _stage(store, "profile tables")
            tasks = _profile_tasks(found, order, store)
            advance = _counter("profile tables", len(tasks) + 1, watch)
            _run_all(tasks, study.cluster, study.cluster.workers, advance)
            texts = Texts(prepared.corpus, found.vocabulary)
            arguments = (order, prepared.plan.references, study.taxonomy.features, texts)
            _run_all([(assemble_profile, "profile", arguments)], study.cluster, 1, advance)
        lock.check()
        store.finish(PROFILE_MARKER, {"fingerprint": tables})
        for path in store.list("profile"):
            if not path.startswith((found.plan.folder, found.topics_path, "profile/weights")):
                store.delete(path)
        _stage(store, "finished")


def _profile_tasks(found: PreparedProfile, order: ProfileOrder, store: Store) -> list[tuple]:
    """Weights of models, and layers whose statistics and scores are not there yet."""
    models = found.plan.models
    return [
        *(
            (reduce_weights, f"weights-{model.short}",
             (order, model, found.prepared.sources[model.identity]))
            for model in models
            if not store.exists(order.weights_path(model))
        ),
        *(
            (reduce_layer, f"scores-{model.short}-{layer}", (order, model, layer))
            for model in models
            for layer in range(model.layers)
            if not store.exists(order.layer_path(model, layer))
        ),
    ]


def _stage(store: Store, name: str) -> None:
    state = store.get_json(PROGRESS_FILE) if store.exists(PROGRESS_FILE) else {}
    store.put_json(PROGRESS_FILE, {**state, "stage": name, "updated": time.time()})
