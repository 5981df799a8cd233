"""What a run tells while it goes: `progress.json`, `metrics.jsonl`, and whoever watches."""

import json
import logging
from collections import Counter
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

from universal_ray.errors import UnitError
from universal_ray.runtime.progress import PROGRESS_FILE, Advance, Forecast, Progress
from universal_ray.runtime.task import Batch, Task
from universal_ray.storage.lock import RunLock
from universal_ray.storage.record import METRICS_FILE, read_metrics
from universal_ray.storage.store import Store

log = logging.getLogger(__name__)

ATTEMPTS = 3
"""How often a task may fail before the run stops with its error."""
MEND = "mend the cause"
LESS_MEMORY = "lower cluster.memory, so that less is held together (no bit changes)"

Watch = Callable[[Progress], None]
"""Called whenever a task of the batch under way finishes."""


def unwatched(progress: Progress) -> None:
    """Nobody looks on."""


class Journal:
    """Of one driver's stages, under its lock, whoever does their tasks.

    Leaving it says that the run is finished, or what stopped it.
    """

    def __init__(self, store: Store, lock: RunLock, watch: Watch = unwatched):
        self._store, self.lock, self._watch = store, lock, watch
        self._progress = Progress(driver=lock.owner)
        self._metrics = read_metrics(store)
        self._stage = ""
        self._attempts: Counter[tuple[str, str]] = Counter()

    def __enter__(self) -> "Journal":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self._progress.stage = "finished"
        else:
            self._progress.stopped(str(error))
        self._publish()

    def foresee(self, stages: Mapping[str, Forecast]) -> None:
        """These stages are left to be made, the first one next."""
        self._progress.foresee(stages)
        self._publish()

    def begin(self, stage: str, batch: Batch) -> None:
        """The tasks of a batch of a stage come next."""
        self._stage = stage
        counted = [task for task in batch.tasks if not task.beside]
        tokens = round(sum(task.tokens for task in counted))
        advance = Advance(batch.name, batch.done + len(counted), batch.done, tokens)
        self._progress.begin(stage, advance)
        self._publish()

    def started(self, task: Task) -> None:
        """A worker has a task; those beside others are not told."""
        if not task.beside:
            self._progress.started(task.label)
            self._publish()

    def finished(self, task: Task, result: Any) -> None:
        """A task is done; its result is a line of the metrics where it counts tokens."""
        if task.beside:
            return
        if task.tokens:
            self._metrics.append({"stage": self._stage, **result})
            lines = "".join(json.dumps(entry) + "\n" for entry in self._metrics)
            self._store.put(METRICS_FILE, lines.encode())
        self._progress.finished(task.label, task.tokens)
        self._publish()
        self._watch(self._progress)

    def failed(
        self, task: Task, error: Exception, advice: str = MEND, innocent: bool = False
    ) -> None:
        """A task failed and is to be tried again; it counts unless the task is innocent of it.

        Raises UnitError when it has failed as often as it may.
        """
        why, key = reason(error), (self._stage, task.name)
        self._progress.failed(task.label, why)
        self._publish()
        self._attempts[key] += not innocent
        if self._attempts[key] >= ATTEMPTS:
            raise UnitError(
                f"{task.label} failed {ATTEMPTS} times, last with: {why}; everything finished "
                f"is kept, {advice} and run the same command again"
            ) from error
        log.warning("%s failed and is tried again: %s", task.label, why)

    def _publish(self) -> None:
        self._store.put_json(PROGRESS_FILE, self._progress.state())


def reason(error: Exception) -> str:
    """Kind and first line of what went wrong."""
    cause = getattr(error, "cause", None) or error
    lines = str(cause).strip().splitlines() or [""]
    return f"{type(cause).__name__}: {lines[0]}"
