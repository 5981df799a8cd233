"""Stages without a cluster, for tests of what they make and not of who makes it."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from types import ModuleType
from typing import Any
from unittest.mock import patch

import torch
from ray import cloudpickle

from universal_ray.config.study import Study
from universal_ray.runtime import driver
from universal_ray.runtime.scheduler import Scheduler
from universal_ray.runtime.task import Stage
from universal_ray.storage.store import Store

# As in a worker's own process; read at the first product, long after this is imported.
os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")


def sent(something: Any) -> Any:
    """As it comes out at the other end of a cluster."""
    return cloudpickle.loads(cloudpickle.dumps(something))


@contextmanager
def sent_by_value(module: ModuleType) -> Iterator[None]:
    """Workers get the classes of a test's module as they are: they cannot import it."""
    cloudpickle.register_pickle_by_value(module)
    try:
        yield
    finally:
        cloudpickle.unregister_pickle_by_value(module)


class Here(Scheduler):
    """One worker in this process, which does one task after another."""

    def run(self, stage: Stage, assignment: Any) -> None:
        self.stage = stage
        self.worker = stage.worker(sent(assignment))
        for batch in stage.batches([self.worker.memory()]):
            self._run(batch)

    def _assign(self) -> None:
        pass

    def _collect(self) -> None:
        task = (self.waiting or self.beside).popleft()
        result = sent(getattr(self.worker, task.method)(*sent(task.arguments)))
        if not task.beside:
            self._counted(task, result)
        self._add(self.stage.finished(task, result))


def run_here(
    stages: Sequence[Stage] | Callable[[], Sequence[Stage]], study: Study, store: Store
) -> None:
    """What `driver.run` does, without Ray."""
    prepare = stages if callable(stages) else lambda: stages
    threads = torch.get_num_threads()
    try:
        with (
            patch.object(driver, "Scheduler", Here),
            patch.object(driver, "cluster", lambda settings: nullcontext()),
        ):
            driver.run(prepare, study, store, lambda *_: None)
    finally:
        torch.set_num_threads(threads)
