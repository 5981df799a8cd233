"""The stages of a run, one after another under its lock, on one cluster. Holds no sums itself."""

import logging
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import cache

from universal_ray.config.study import Study
from universal_ray.errors import DamagedError
from universal_ray.runtime.cluster import cluster
from universal_ray.runtime.scheduler import Scheduler, Watch
from universal_ray.runtime.task import Stage
from universal_ray.storage.lock import RunLock
from universal_ray.storage.store import Store

log = logging.getLogger(__name__)


def run(
    stages: Callable[[], Sequence[Stage]], study: Study, store: Store, watch: Watch
) -> None:
    """Make all that the stages make, from whatever is already done; no cluster for nothing.

    `stages` prepares them under the lock: what it finds in the directory is what they work on.
    What turns out to be damaged as it is read is made anew. Raises DamagedError where it then is
    again, or where none of these stages makes it.
    """
    found: set[str] = set()
    with RunLock(store) as lock, ExitStack() as opened:
        join = cache(lambda: opened.enter_context(cluster(study.cluster)))

        def scheduler() -> Scheduler:
            join()
            return Scheduler(study.cluster, store, lock, watch)

        while True:
            try:
                return _make(stages(), scheduler, lock)
            except DamagedError as error:
                if str(error) in found:
                    raise
                found.add(str(error))
                log.warning("%s", error)


def _make(stages: Sequence[Stage], scheduler: Callable[[], Scheduler], lock: RunLock) -> None:
    with ExitStack() as opened:
        once = cache(lambda: opened.enter_context(scheduler()))
        for stage in stages:
            assignment = stage.begin()
            if assignment is None:
                log.info("nothing is left to do for the %s", stage.name)
                continue
            once().run(stage, assignment)
            lock.check()
            stage.end()
