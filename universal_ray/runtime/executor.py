"""Who does what stages ask for: Ray's workers (`scheduler`) or this process (`local`)."""

from types import TracebackType
from typing import Any, Protocol, runtime_checkable

from universal_ray.runtime.journal import Journal
from universal_ray.runtime.task import Stage


@runtime_checkable
class Executor(Protocol):
    """Does the tasks of one stage after another.

    Making one costs nothing; entering it takes what workers need, a cluster or this process's
    settings, and leaving gives that back.
    """

    def __enter__(self) -> "Executor": ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

    def run(self, stage: Stage, assignment: Any, journal: Journal) -> None:
        """Do all of a stage's tasks, its workers told `assignment`.

        Raises what a task raises on purpose, and UnitError for one that failed too often. Another
        stage, or the same again, may be run after that.
        """
