"""What a run is doing, as a small file that `jobs/status.py` reads without a cluster."""

import time
from dataclasses import dataclass, field
from typing import Any

PROGRESS_FILE = "progress.json"


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
    tasks_before: int = field(init=False)

    def __post_init__(self) -> None:
        self.tasks_before = self.tasks_done

    def finished(self, tokens: float) -> None:
        self.tasks_done += 1
        self.tokens_done += tokens
        self.updated = time.time()

    @property
    def rate(self) -> float:
        """Tokens, or tasks, per second of this driver's."""
        done = self.tokens_done if self.tokens_total else float(self.tasks_done - self.tasks_before)
        return done / max(self.updated - self.began, 1e-9)

    @property
    def left(self) -> float:
        """Tokens, or tasks, that are not done."""
        if self.tokens_total:
            return self.tokens_total - self.tokens_done
        return float(self.tasks_total - self.tasks_done)


@dataclass
class Progress:
    """The batches of a run so far, what is running and what has failed."""

    batches: list[Advance] = field(default_factory=list)
    stage: str = "starting"
    """the batch under way, `finished` or `stopped`"""
    error: str | None = None
    running: dict[str, float] = field(default_factory=dict)
    """task to when it started"""
    failures: list[dict[str, Any]] = field(default_factory=list)

    def begin(self, batch: Advance) -> None:
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

    def state(self) -> dict[str, Any]:
        """Everything, JSON-able."""
        return {
            "stage": self.stage,
            "error": self.error,
            "updated": time.time(),
            "batches": [
                {**vars(batch), "rate": batch.rate, "left": batch.left} for batch in self.batches
            ],
            "running": dict(self.running),
            "failures": self.failures,
        }
