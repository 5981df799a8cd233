"""What a run is doing, as a small file that `jobs/status.py` reads without a cluster."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from universal_ray.planning.capacity import duration

PROGRESS_FILE = "progress.json"
TRUST = 0.1
"""Share of a command's planned time after which what was measured counts as much as the plan."""


@dataclass(frozen=True)
class Forecast:
    """What is left of a stage, as it was planned."""

    seconds: Mapping[str, float]
    """by batch"""
    measured: bool = True
    """whether these are seconds; else shares of a whole that nobody has timed"""


@dataclass
class Advance:
    """Through the tasks of one batch: how many are done, and how fast."""

    name: str
    tasks_total: int
    tasks_done: int
    """by this driver or an earlier one"""
    tokens_total: int
    """of the tasks that were left when this driver came to them; 0 where tokens are no measure"""
    tokens_done: float = 0.0
    """a unit of which a part of the sums is made counts by that part"""
    began: float = field(default_factory=time.time)
    updated: float = field(default_factory=time.time)
    foreseen: float = 0.0
    """seconds, or shares, that were planned for what was left"""
    tasks_before: int = field(init=False)

    def __post_init__(self) -> None:
        self.tasks_before = self.tasks_done

    def finished(self, tokens: float) -> None:
        self.tasks_done += 1
        self.tokens_done += tokens
        self.updated = time.time()

    @property
    def done(self) -> float:
        """Tokens, or tasks, of this driver's."""
        return self.tokens_done if self.tokens_total else float(self.tasks_done - self.tasks_before)

    @property
    def rate(self) -> float:
        """Tokens, or tasks, per second of this driver's."""
        return self.done / max(self.updated - self.began, 1e-9)

    @property
    def left(self) -> float:
        """Tokens, or tasks, that are not done."""
        if self.tokens_total:
            return self.tokens_total - self.tokens_done
        return float(self.tasks_total - self.tasks_done)

    @property
    def share(self) -> float:
        """Done, of what was left when this driver came to it."""
        whole = self.done + self.left
        return self.done / whole if whole else 1.0


@dataclass
class Progress:
    """The batches of a run so far, what is running, what has failed and what lies ahead."""

    driver: str = ""
    """whose it is, as the lock says"""
    batches: list[Advance] = field(default_factory=list)
    stage: str = "starting"
    """the batch under way, `finished` or `stopped`"""
    error: str | None = None
    running: dict[str, float] = field(default_factory=dict)
    """task to when it started"""
    failures: list[dict[str, Any]] = field(default_factory=list)
    ahead: dict[str, Forecast] = field(default_factory=dict)
    """stages, the one under way first, but for its batches that have begun"""

    def begin(self, stage: str, batch: Advance) -> None:
        """A batch of a stage comes next; stages before that one are done."""
        self.ahead = dict(list(self.ahead.items())[list(self.ahead).index(stage) :])
        planned = dict(self.ahead[stage].seconds)
        batch.foreseen = planned.pop(batch.name, 0.0)
        self.ahead[stage] = Forecast(planned, self.ahead[stage].measured)
        self.batches.append(batch)
        self.stage = batch.name

    def started(self, task: str) -> None:
        self.running[task] = time.time()

    def finished(self, task: str, tokens: float) -> None:
        self.running.pop(task, None)
        self.batches[-1].finished(tokens)

    def failed(self, task: str, reason: str) -> None:
        self.running.pop(task, None)
        self.failures.append({"task": task, "at": time.time(), "reason": reason})

    def stopped(self, reason: str) -> None:
        self.stage, self.error = "stopped", reason or "interrupted"

    @property
    def left(self) -> float | None:
        """Seconds until all stages are done, from when the last task finished: of the batch under
        way at its rate, of the others as planned, times what the plan was out by so far. None
        while nobody can say.
        """
        ahead = sum((sum(each.seconds.values()) for each in self.ahead.values()), 0.0)
        batch = self.batches[-1] if self.batches else None
        if batch is not None and batch.left and not batch.done:
            ahead += batch.foreseen
        scale = self._scale(ahead)
        if scale is None or (batch is not None and batch.left and not batch.done and not ahead):
            return None  # nothing was planned, nothing is done
        own = batch.left / batch.rate if batch is not None and batch.done else 0.0
        return own + scale * ahead

    def _scale(self, ahead: float) -> float | None:
        """Seconds that a planned one takes: as the plan has it at first, then as measured."""
        timed = [batch for batch in self.batches if batch.foreseen and batch.done]
        spent = sum(batch.updated - batch.began for batch in timed)
        planned = sum(batch.foreseen * batch.share for batch in timed)
        if all(each.measured for each in self.ahead.values()):
            held = TRUST * (planned + ahead)
            return (spent + held) / (planned + held) if planned + held else 1.0
        return spent / planned if planned else None

    def state(self) -> dict[str, Any]:
        """Everything, JSON-able."""
        return {
            "driver": self.driver,
            "stage": self.stage,
            "error": self.error,
            "updated": time.time(),
            "left": self.left,
            "ahead": list(self.ahead)[1:],
            "batches": [
                {**vars(batch), "rate": batch.rate, "left": batch.left} for batch in self.batches
            ],
            "running": dict(self.running),
            "failures": self.failures,
        }


def remaining(left: float | None, ahead: Sequence[str]) -> str:
    """How long all stages still take, for people; `ahead` those that have not begun."""
    then = f", with {' and '.join(ahead)}" if ahead else ""
    if left is None:
        return f"in all not known yet{then}"
    if left <= 0:
        return f"in all longer than was foreseen{then}"
    return f"about {duration(left)} in all{then}"
