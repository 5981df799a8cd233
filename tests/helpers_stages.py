"""Stages without a cluster, for tests of what they make and not of who makes it."""

import pickle
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import cycle
from types import ModuleType
from typing import Any

from ray import cloudpickle

from universal_ray.runtime.journal import Journal
from universal_ray.runtime.local import LocalExecutor
from universal_ray.runtime.progress import Forecast
from universal_ray.runtime.task import Batch, Stage, Task
from universal_ray.storage.artifacts import Artifact


def follows(artifact: Artifact, other: Artifact) -> bool:
    """Whether an artifact is made anew, or may be, where `other` is."""
    return artifact == other or any(
        follows(each, other) for each in (*artifact.made_of, *artifact.chosen_by)
    )


def sent(something: Any) -> Any:
    """As it comes out at the other end of a cluster: by name what has one, as Ray does it too."""
    try:
        return pickle.loads(pickle.dumps(something))
    except (pickle.PicklingError, AttributeError, TypeError):  # of what has none
        return cloudpickle.loads(cloudpickle.dumps(something))


@contextmanager
def sent_by_value(module: ModuleType) -> Iterator[None]:
    """Workers get the classes of a test's module as they are: they cannot import it."""
    cloudpickle.register_pickle_by_value(module)
    try:
        yield
    finally:
        cloudpickle.unregister_pickle_by_value(module)


class Far:
    """A worker all of whose calls and answers are sent."""

    def __init__(self, worker: Any):
        self._worker = worker

    def __getattr__(self, method: str) -> Any:
        return lambda *arguments: sent(getattr(self._worker, method)(*sent(arguments)))


class Wrapped:
    """A stage, but for what a subclass does in its place."""

    def __init__(self, stage: Stage):
        self.stage, self.name, self.worker = stage, stage.name, stage.worker

    def forecast(self) -> Forecast:
        return self.stage.forecast()

    def begin(self) -> Any:
        return self.stage.begin()

    def batches(self, memory: list[tuple[str, float]]) -> Iterator[Batch]:
        return self.stage.batches(memory)

    def finished(self, task: Task, result: Any) -> Sequence[Task]:
        return self.stage.finished(task, result)

    def end(self) -> None:
        self.stage.end()


class Remote(Wrapped):
    """A stage whose worker is far away."""

    def __init__(self, stage: Stage):
        super().__init__(stage)
        self.worker: Any = self._far

    def _far(self, assignment: Any) -> Any:
        return Far(self.stage.worker(sent(assignment)))


class Turns:
    """Two workers in the place of one, who take turns."""

    def __init__(self, *workers: Any):
        self._turns = cycle(workers)

    def __getattr__(self, method: str) -> Any:
        return getattr(next(self._turns), method)


class Disordered(Remote):
    """A stage whose tasks are done last one first, by one worker or another."""

    def _far(self, assignment: Any) -> Any:
        return Turns(*(super(Disordered, self)._far(assignment) for _ in range(2)))

    def batches(self, memory: list[tuple[str, float]]) -> Iterator[Batch]:
        for batch in super().batches(memory):
            yield replace(batch, tasks=batch.tasks[::-1])


class Sending(LocalExecutor):
    """The local executor, and whatever a worker is told and gives survives being sent."""

    def run(self, stage: Stage, assignment: Any, journal: Journal) -> None:
        super().run(Remote(stage), assignment, journal)


class Disordering(LocalExecutor):
    """Several workers of a cluster, as far as a stage can tell."""

    def run(self, stage: Stage, assignment: Any, journal: Journal) -> None:
        super().run(Disordered(stage), assignment, journal)
