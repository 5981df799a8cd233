"""What every task of a report is told, found before any model runs."""

from universal_ray.stages.inputs import Outline
from universal_ray.stages.profile.artifacts import profile
from universal_ray.stages.report.artifacts import Report
from universal_ray.stages.report.plan import make_plan
from universal_ray.storage.store import Store


def prepare(found: Outline, store: Store) -> Report:
    """The recipe of a study's report. Raises as `make_plan` does."""
    made = profile(found, store)
    return Report(
        profile=made,
        plan=make_plan(found, made.rows),
        options=found.study.report,
        excluded=found.excluded,
    )
