"""What a run is doing, as a small file that `jobs/status.py` reads without a cluster."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from universal_ray.planning.capacity import duration

PROGRESS_FILE = "progress.json"
TRUST = 0.1
"""Share of what was planned after which what was measured counts as much as the plan."""


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
        if self.tokens_total and self.tasks_done < self.tasks_total:
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
    """the batch under way, what starts, `finished` or `stopped`"""
    error: str | None = None
    running: dict[str, float] = field(default_factory=dict)
    """task to when it started"""
    failures: list[dict[str, Any]] = field(default_factory=list)
    ahead: dict[str, Forecast] = field(default_factory=dict)
    """stages, the one under way first, but for its batches that have begun"""
    before: int = 0
    """batches that were begun when what lies ahead was foreseen"""

    def foresee(self, stages: Mapping[str, Forecast]) -> None:
        """These are left, the first one next. What earlier forecasts were out by says nothing of
        these, which know what was measured since.
        """
        self.ahead, self.before = dict(stages), len(self.batches)
        self.stage = f"starting {next(iter(stages))}"

    def begin(self, stage: str, batch: Advance) -> None:
        """A batch of the first stage ahead comes next."""
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
    def left(self) -> tuple[float | None, float | None]:
        """Seconds of the batch under way, from when the last of its tasks finished, and of all that
        comes after: the one at its rate, the others as planned, times what the plan was out by so
        far. None while nobody can say.
        """
        batch = self.batches[-1] if self.batches else Advance("", 0, 0, 0)
        planned = batch.foreseen if batch.left and not batch.done else 0.0
        later = sum((sum(each.seconds.values()) for each in self.ahead.values()), 0.0)
        scale = self._scale(planned + later)
        if batch.done or not batch.left:
            own: float | None = batch.left / batch.rate if batch.left else 0.0
        else:
            own = scale * planned if scale and planned else None
        return own, (None if scale is None else scale * later) if later else 0.0

    def _scale(self, left: float) -> float | None:
        """Seconds that a planned one takes, where some are left: as the plan has it at first, then
        as measured.
        """
        timed = [each for each in self.batches[self.before :] if each.foreseen and each.done]
        spent = sum(batch.updated - batch.began for batch in timed)
        planned = sum(batch.foreseen * batch.share for batch in timed)
        if all(each.measured for each in self.ahead.values()):
            held = TRUST * (planned + left)
            return (spent + held) / (planned + held) if planned + held else 1.0
        return spent / planned if planned else None

    def state(self) -> dict[str, Any]:
        """Everything, JSON-able."""
        own, later = self.left
        return {
            "driver": self.driver,
            "stage": self.stage,
            "error": self.error,
            "updated": time.time(),
            "own": own,
            "later": later,
            "ahead": [
                name for name, each in list(self.ahead.items())[1:] if any(each.seconds.values())
            ],
            "batches": [
                {**vars(batch), "rate": batch.rate, "left": batch.left} for batch in self.batches
            ],
            "running": dict(self.running),
            "failures": self.failures,
        }


def remaining(state: Mapping[str, Any], now: float) -> str:
    """How long what a progress file tells of still takes, for people: the batch under way, then all
    stages. What runs has been at it since the last of its tasks finished. Earlier versions foresaw
    nothing.
    """
    batches, own, later = state["batches"], state.get("own"), state.get("later")
    since = now - (batches[-1]["updated"] if batches else state["updated"])
    rest, told = max((own or 0.0) - since, 0.0), []
    if own:
        name = batches[-1]["name"]
        told.append(f"{_about(rest)} of {name}" if rest else f"{name} longer than foreseen")
    if later is None or (own is None and not later):
        told.append("not known yet in all")
    elif rest + later:
        told.append(f"about {_about(rest + later)} left in all")
    elif not own:
        told.append("no task is left")
    ahead = state.get("ahead", [])
    return ", ".join(told) + (f", with {' and '.join(ahead)}" if ahead else "")


def _about(seconds: float) -> str:
    """What is left is never told as nothing."""
    return duration(max(seconds, 1.0))
