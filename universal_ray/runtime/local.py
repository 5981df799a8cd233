"""Tasks in this process: for small studies, for tests, and for measuring without a cluster."""

import gc
from collections import deque
from contextlib import ExitStack
from types import TracebackType
from typing import Any

from universal_ray.errors import MemoryShortError, StorageError
from universal_ray.runtime.arithmetic import arithmetic_kept
from universal_ray.runtime.journal import LESS_MEMORY, Journal
from universal_ray.runtime.task import Stage, Task


class LocalExecutor:
    """One worker in this process, which does one task after another.

    It computes with `cluster.threads` on `cluster.device`, as each worker of a cluster, and so
    makes the same bits; nothing else of `cluster` but its memory says anything to it. Nothing is
    copied on its way to the worker. What it fixes of torch in this process is put back at the end,
    but for the memory that is kept at hand.
    """

    def __init__(self) -> None:
        self._opened = ExitStack()
        self._worker: Any = None

    def __enter__(self) -> "LocalExecutor":
        self._opened.enter_context(arithmetic_kept())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._let_go()
        self._opened.close()

    def run(self, stage: Stage, assignment: Any, journal: Journal) -> None:
        """As `Executor.run`. An error that nobody made on purpose is raised as it is."""
        self._let_go()  # before the next takes its memory
        self._worker = stage.worker(assignment)
        for batch in stage.batches([self._worker.memory()]):
            journal.begin(stage.name, batch)
            # What is beside makes room on the disk.
            waiting = deque(sorted(batch.tasks, key=lambda task: not task.beside))
            while waiting:
                task = waiting.popleft()
                result = self._do(stage, assignment, task, journal)
                journal.finished(task, result)
                waiting.extendleft(reversed(stage.finished(task, result)))

    def _do(self, stage: Stage, assignment: Any, task: Task, journal: Journal) -> Any:
        while True:
            journal.lock.check()
            journal.started(task)
            self._worker = self._worker or stage.worker(assignment)
            try:
                return getattr(self._worker, task.method)(*task.arguments)
            except StorageError as error:
                journal.failed(task, error)
            except MemoryShortError as error:
                journal.failed(task, error, LESS_MEMORY)
                self._worker = None
            gc.collect()

    def _let_go(self) -> None:
        self._worker = None
        gc.collect()  # a model and its hooks hold each other
