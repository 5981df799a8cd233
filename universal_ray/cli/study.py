"""What the entry points of a study share: its stages, planned, shown and run."""

from typing import TYPE_CHECKING, Any

from universal_ray.config.study import Study, check
from universal_ray.storage.finished import CORRELATIONS, PROFILE, ROLES

if TYPE_CHECKING:
    from universal_ray.runtime.task import Stage
    from universal_ray.storage.store import Store


def run(study: Study, wanted: tuple[str, ...]) -> None:
    """Plan, show the plan, and unless it is a dry run make the tables of some stages; show them."""
    from universal_ray.report.screen import Watcher, console, show_results
    from universal_ray.storage.store import Store

    check(study)  # before there is a run directory
    out, store = console(), Store(study.run.dir)
    if study.dry_run:
        _stages(study, store, wanted, out)
        return
    from universal_ray.runtime import driver
    from universal_ray.runtime.scheduler import Scheduler

    with Watcher(out) as watch:
        executor = Scheduler(study.cluster)
        driver.run(lambda: _stages(study, store, wanted, out), store, executor, watch)
    show_results(out, store)


def _stages(study: Study, store: "Store", wanted: tuple[str, ...], out: Any) -> list["Stage"]:
    """The stages, prepared, and their plan shown."""
    from universal_ray.report.screen import show_plan
    from universal_ray.stages.correlations.plan import describe
    from universal_ray.stages.correlations.stage import CorrelationStage
    from universal_ray.stages.inputs import prepare

    prepared = prepare(study, store)
    stages: list[Stage] = []
    rows = []
    if CORRELATIONS in wanted:
        stages.append(CorrelationStage(prepared, store))
        rows += describe(prepared.plan, study.cluster.workers, _speed(study, store))
    if PROFILE in wanted or ROLES in wanted:
        from universal_ray.stages.profile.stage import ProfileStage, prepare_profile

        profile = prepare_profile(prepared, store)
        if PROFILE in wanted:
            stages.append(ProfileStage(profile, store))
            rows += profile.describe()
    if ROLES in wanted:
        from universal_ray.stages.roles.stage import RolesStage, prepare_roles

        roles = prepare_roles(profile, store)
        stages.append(RolesStage(roles, store))
        rows += roles.describe()
    show_plan(out, rows, f"plan of {store.url}")
    return stages


def _speed(study: Study, store: "Store") -> Any:
    """How fast a worker multiplies: as given, as the run has measured, or as this machine does."""
    from universal_ray.config.study import Device
    from universal_ray.planning.capacity import Speed
    from universal_ray.runtime.measure import measured_speed, probed_speed
    from universal_ray.storage.record import read_metrics

    given = study.cluster.tflops
    if given is not None:
        return Speed(given * 1e12, f"{given:g} TFLOP/s, as cluster.tflops says")
    measured = measured_speed(read_metrics(store))
    if measured is None and study.cluster.device is Device.cpu:
        return probed_speed(study.cluster.threads)
    return measured
