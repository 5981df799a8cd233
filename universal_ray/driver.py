"""The stages of a run, one after another under its lock, on one cluster. Holds no sums itself."""

import logging
from collections.abc import Callable, Sequence
from contextlib import ExitStack

from universal_ray.cluster import cluster
from universal_ray.lock import RunLock
from universal_ray.scheduler import Scheduler, Stage, Watch
from universal_ray.store import Store
from universal_ray.study import Study

log = logging.getLogger(__name__)


def run(
    stages: Callable[[], Sequence[Stage]], study: Study, store: Store, watch: Watch
) -> None:
    """Make all that the stages make, from whatever is already done; no cluster for nothing.

    `stages` prepares them under the lock: what it finds in the directory is what they work on.
    """
    with RunLock(store) as lock, ExitStack() as opened:
        scheduler = None
        for stage in stages():
            assignment = stage.begin()
            if assignment is None:
                log.info("nothing is left to do for the %s", stage.name)
                continue
            if scheduler is None:
                opened.enter_context(cluster(study.cluster))
                scheduler = opened.enter_context(
                    Scheduler(study.cluster, store, lock, watch)
                )
            scheduler.run(stage, assignment)
            lock.check()
            stage.end()
