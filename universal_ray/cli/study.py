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
    from universal_ray.stages import inputs as all_inputs
    from universal_ray.stages.correlations.stage import CorrelationStage

    models = all_inputs.find_models(study, store)
    found = all_inputs.outline(models, store)
    inputs = all_inputs.read(models, store)
    stages: list[Stage] = []
    rows = []
    if CORRELATIONS in wanted:
        assert found
        rows += CorrelationStage.describe(found, store)
        stages.append(CorrelationStage(inputs, store))
    if PROFILE in wanted or ROLES in wanted:
        from universal_ray.stages.profile.stage import ProfileStage, prepare_profile

        profile = prepare_profile(inputs, store)
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

