"""What a stage hands to whoever does its work: tasks in batches."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from universal_ray.runtime.progress import Forecast


@dataclass(frozen=True)
class Task:
    """One call of a worker's method."""

    name: str
    """as Ray's dashboard shows it; no two tasks of a stage share it"""
    label: str
    """for people: unit 3"""
    method: str
    arguments: tuple
    tokens: float = 0.0
    """what it adds to the progress; its result is then one line of the metrics"""
    beside: bool = False
    """small work that a worker does beside the tasks that compute"""


def call(function: Callable[..., None], name: str, *arguments: Any) -> Task:
    """A plain function over the store as a task of whatever worker."""
    return Task(name, name, "do", (function, *arguments))


@dataclass(frozen=True)
class Batch:
    """Tasks of which none waits for another."""

    name: str
    tasks: Sequence[Task]
    done: int = 0
    """how many tasks of its kind an earlier run has finished"""
    behind: int = 0
    """tasks beside that may wait: with more of them no other begins, as the disk holds meanwhile
    what they would make smaller"""


@runtime_checkable
class Stage(Protocol):
    """What is made of a run directory, and how the work falls into tasks."""

    name: str
    worker: type
    """its methods are the tasks'; `memory()` gives its host and the bytes of its device"""

    def forecast(self) -> Forecast:
        """What is left of it, as it was planned."""

    def begin(self) -> Any:
        """Under the run's lock: bring the directory in order; what the worker's constructor is
        told, or None where nothing is to be made.
        """

    def batches(self, memory: list[tuple[str, float]]) -> Iterator[Batch]:
        """Work for workers of such memory; a batch begins when the one before is done."""

    def finished(self, task: Task, result: Any) -> Sequence[Task]:
        """Take note of a result; tasks that became possible by it."""

    def end(self) -> None:
        """Everything is made: say so in the directory, and drop what nothing needs any more."""
