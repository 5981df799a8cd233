"""What every way to run a study shares: its stages, planned, shown and made."""

import os
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING

from universal_ray.config.choice import choose
from universal_ray.config.report import Detail
from universal_ray.config.study import Study, check
from universal_ray.errors import ConfigurationError, MissingError
from universal_ray.stages import registry
from universal_ray.stages.registry import STAGES
from universal_ray.storage import finished

if TYPE_CHECKING:
    from rich.console import Console

    from universal_ray.report.run import Run
    from universal_ray.runtime.executor import Executor
    from universal_ray.runtime.task import Stage
    from universal_ray.storage.store import Store

RAY, LOCAL = "ray", "local"
"""Who does the tasks: workers of a cluster, or one in this process."""
CHECKING = "Checking the study"
"""Told at once: what comes next imports for many seconds."""


@dataclass(kw_only=True)
class StudyCommand(Study):
    """A study, and what is to be done of it now: nothing of that decides what its tables say."""

    stages: list[str] = field(default_factory=lambda: list(STAGES))
    """What to make: any of `correlations`, `profile` (statistics and families), `roles` and
    `report` (examples, descriptions and a site of all); each builds on the one before, which is
    made with it or there already. Of units that have no roles all are made but these."""
    dry_run: bool = False
    """Print the plan and stop."""

    @property
    def study(self) -> Study:
        """The study alone, as its run records it."""
        return Study(**{each.name: getattr(self, each.name) for each in fields(Study)})


def check_stages(wanted: str | Iterable[str]) -> tuple[str, ...]:
    """The stages that are wanted, in their order. Raises ConfigurationError for what is none."""
    wanted = [wanted] if isinstance(wanted, str) else list(wanted)
    for name in wanted:
        if name not in STAGES:
            raise ConfigurationError(f"stages={name} is no stage: {choose(name, STAGES)}")
    if not wanted:
        raise ConfigurationError(f"stages is empty: choose from {', '.join(STAGES)}")
    return tuple(stage for stage in STAGES if stage in wanted)


def make(
    study: Study,
    stages: str | Iterable[str],
    out: "Console",
    executor: str = RAY,
    *,
    dry: bool = False,
) -> str | None:
    """Show the plan of some stages, and unless it is a dry run make their tables.

    Where all stages are wanted, those are made that units of the site of the study have; which are
    left out is told. Returns the address of the pages that the report's are shown in, None where
    they are not made.
    """
    from universal_ray.report.screen import Watcher
    from universal_ray.storage.store import Store

    wanted = check_stages(stages)
    check(study)  # before there is a run directory
    possible = registry.possible(study.models.site)
    for stage in wanted:
        if stage not in possible:
            why = registry.why_not(stage, study.models.site)
            if wanted != STAGES:
                raise ConfigurationError(f"{why}: leave out {stage}, or choose another models.site")
            out.print(f"{why}: the stage {stage} is left out")
    wanted = tuple(stage for stage in wanted if stage in possible)
    store = Store(study.run.dir)
    _check_earlier(store, wanted, possible)
    if dry:
        _stages(study, store, wanted, out, dry=True)
        return None
    from universal_ray.runtime import driver

    with Watcher(out) as watch:
        by = _executor(executor, study, out.print)
        driver.run(lambda: _stages(study, store, wanted, out, dry=False), store, by, watch)
    if finished.REPORT not in wanted:
        return None
    processes = min(study.cluster.workers, os.cpu_count() or 1) if executor == RAY else 1
    return _site(study, store, processes)


def _site(study: Study, store: "Store", processes: int) -> str:
    """The address of the site of a run, which is made of its tables unless it stands; `processes`
    draw its figures.
    """
    from universal_ray.report.figures.registry import FIGURES
    from universal_ray.report.run import Run
    from universal_ray.report.site.write import write
    from universal_ray.storage.lock import RunLock

    options = study.report
    with RunLock(store):
        everything = options.detail is Detail.all
        figures = FIGURES if options.figures else ()
        return write(Run(store), options.megabytes, everything, figures, processes)


def _executor(name: str, study: Study, say: Callable[[str], None]) -> "Executor":
    """Who does the tasks. Raises ConfigurationError where nobody has that name."""
    if name == RAY:
        from universal_ray.runtime.scheduler import Scheduler

        return Scheduler(study.cluster, say)
    if name == LOCAL:
        from universal_ray.runtime.local import LocalExecutor

        return LocalExecutor()
    raise ConfigurationError(f"executor={name} is none: {choose(name, [RAY, LOCAL])}")


def run(
    study: Study, stages: str | Iterable[str] = STAGES, executor: str = RAY
) -> "Run":
    """Make the stages of a study, from whatever its run.dir holds of them already.

    `stages` are any of `correlations`, `profile`, `roles` and `report`; each builds on the one
    before, which is made with it or there already. `executor` is `ray`, the workers that
    `study.cluster` asks for, or `local`, one worker in this process, as small studies want it: the
    bits are the same. Plan and progress go to the standard error.

    Returns the run, to be read. Raises a UniversalRayError, before any model runs, for all that can
    be wrong with a study; what is interrupted goes on when it is called again.

    >>> import universal_ray as ur
    >>> from universal_ray import testbed
    >>> study = ur.Study()
    >>> study.run.dir = "runs/small"
    >>> study.models.reference = testbed.resolve("a")
    >>> study.models.compared = [testbed.resolve("b")]
    >>> study.corpus.path = testbed.resolve("tokens")
    >>> study.corpus.tokens = 1024
    >>> run = ur.run(study, stages=["correlations"], executor="local")
    >>> run.summary["references"][0]["layers"][1]["neurons"]
    1024
    """
    print(CHECKING, file=sys.stderr, flush=True)
    from universal_ray.report.run import open
    from universal_ray.report.screen import console

    make(study, stages, console(stderr=True), executor)
    return open(study.run.dir)


def compose(*options: str) -> Study:
    """The study that `universal-ray run` makes with some options; without any, the default study.

    Raises ConfigurationError as that does.

    >>> import universal_ray as ur
    >>> study = ur.compose("experiment=gpt2_small", "run.dir=runs/paper", "cluster.workers=4")
    >>> study.corpus.tokens
    100000000
    >>> ur.compose("experiment=gpt3")
    Traceback (most recent call last):
        ...
    universal_ray.errors.ConfigurationError: ...
    """
    from universal_ray.cli.options import composed

    return composed(list(options), "config", Study)


def _check_earlier(store: "Store", wanted: Sequence[str], possible: Sequence[str]) -> None:
    """Raise MissingError where a stage would build on one that is neither wanted nor there."""
    done = finished.stages(store)
    for stage in wanted:
        before = possible[: possible.index(stage)]
        missing = [each for each in before if each not in done and each not in wanted]
        if missing:
            both = [each for each in possible if each in missing or each in wanted]
            raise MissingError(
                f"{store.url} holds no tables of {' and '.join(missing)} for {stage} to build on: "
                f"make them with it, by stages=[{','.join(both)}]"
            )


def _stages(
    study: Study, store: "Store", wanted: tuple[str, ...], out: "Console", *, dry: bool
) -> list["Stage"]:
    """The plan of some stages shown; then, unless it is a dry run, the stages."""
    from universal_ray.report.screen import show_plan
    from universal_ray.stages.inputs import Outline, find_models, outline, read
    from universal_ray.stages.total import check_room, described

    kinds = [registry.stage(name) for name in wanted]

    def show(found: Outline) -> None:
        costs = {name: kind.cost(found, store) for name, kind in zip(wanted, kinds, strict=True)}
        rows = [row for kind in kinds for row in kind.describe(found, store)]
        rows += described(found, store, costs)
        show_plan(out, rows, f"plan of {store.url}")
        if not dry:
            check_room(store, costs)

    models = find_models(study, store)
    found = outline(models, store)
    if found is not None:
        show(found)
    else:
        unknown = "as many as the text has: known once it is tokenised, or set corpus.tokens"
        show_plan(out, [("tokens", unknown)], f"plan of {store.url}")
    if dry:
        return []
    inputs = read(models, store)
    if found is None:
        show(inputs)
    return [kind(inputs, store) for kind in kinds]
