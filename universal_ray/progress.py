"""What a run is doing, as a small file that `jobs/status.py` reads without a cluster."""

import time
from dataclasses import dataclass, field
from typing import Any

PROGRESS_FILE = "progress.json"


@dataclass
class Progress:
    """Units of one run: done, running, failed, and how fast."""

    units_total: int
    units_left: int
    tokens_total: int
    """of the units that were left when this driver started"""
    tokens_done: float = 0.0
    """a unit of which a part of the sums is made counts by that part"""
    stage: str = "sums"
    error: str | None = None
    began: float = field(default_factory=time.time)
    running: dict[str, float] = field(default_factory=dict)
    """task to when it started"""
    failures: list[dict[str, Any]] = field(default_factory=list)

    def started(self, task: str) -> None:
        self.running[task] = time.time()

    def finished(self, task: str, tokens: float) -> None:
        self.running.pop(task, None)
        self.tokens_done += tokens
        self.units_left -= 1

    def failed(self, task: str, reason: str) -> None:
        self.running.pop(task, None)
        self.failures.append({"task": task, "at": time.time(), "reason": reason})

    def stopped(self, reason: str) -> None:
        self.stage, self.error = "stopped", reason or "interrupted"

    @property
    def rate(self) -> float:
        """Tokens per second since this driver started."""
        return self.tokens_done / max(time.time() - self.began, 1e-9)

    def state(self) -> dict[str, Any]:
        """Everything, JSON-able."""
        return {
            "stage": self.stage,
            "error": self.error,
            "began": self.began,
            "updated": time.time(),
            "units_total": self.units_total,
            "units_done": self.units_total - self.units_left,
            "tokens_total": self.tokens_total,
            "tokens_done": round(self.tokens_done),
            "tokens_per_second": self.rate,
            "running": dict(self.running),
            "failures": self.failures,
        }
