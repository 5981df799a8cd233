"""The stages of a run, one after another under its lock, by one executor. Holds no sums itself."""

import logging
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import cache

from universal_ray.errors import DamagedError
from universal_ray.runtime.executor import Executor
from universal_ray.runtime.journal import Journal, Watch, unwatched
from universal_ray.runtime.task import Stage
from universal_ray.storage.lock import RunLock
from universal_ray.storage.store import Store

log = logging.getLogger(__name__)


def run(
    stages: Callable[[], Sequence[Stage]],
    store: Store,
    executor: Executor,
    watch: Watch = unwatched,
) -> None:
    """Make all that the stages make, from whatever is already done.

    `stages` prepares them under the lock: what it finds in the directory is what they work on. The
    executor is entered when there is something to do: no cluster for nothing. What turns out to be
    damaged as it is read is made anew. Raises DamagedError where it then is again, or where none of
    these stages makes it.
    """
    found: set[str] = set()
    with RunLock(store) as lock, ExitStack() as opened:
        ready = cache(lambda: opened.enter_context(executor))
        while True:
            try:
                return _make(stages(), ready, lambda: Journal(store, lock, watch), lock)
            except DamagedError as error:
                if str(error) in found:
                    raise
                found.add(str(error))
                log.warning("%s", error)


def _make(
    stages: Sequence[Stage],
    executor: Callable[[], Executor],
    journal: Callable[[], Journal],
    lock: RunLock,
) -> None:
    with ExitStack() as opened:
        once = cache(lambda: opened.enter_context(journal()))
        for index, stage in enumerate(stages):
            assignment = stage.begin()
            if assignment is None:
                log.info("nothing is left to do for the %s", stage.name)
                continue
            told = once()
            # With what was measured in the stages before; those after may turn out to be there.
            told.foresee({each.name: each.forecast() for each in stages[index:]})
            executor().run(stage, assignment, told)
            lock.check()
            stage.end()
