"""How long a run still takes in all: as planned at first, then as measured."""

from types import SimpleNamespace

import pytest

from universal_ray.runtime import progress
from universal_ray.runtime.progress import Advance, Forecast, Progress, remaining

PLAN = {
    "correlations": Forecast({"sums": 100.0, "tables": 10.0}),
    "profile": Forecast({"statistics": 40.0}),
    "roles": Forecast({"interventions": 50.0}),
}


@pytest.fixture
def clock(monkeypatch):
    """`clock.now` in seconds."""
    made = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(progress, "time", SimpleNamespace(time=lambda: made.now))
    return made


def begin(made: Progress, clock, stage: str, name: str, tasks: int, before: int = 0) -> None:
    made.begin(stage, Advance(name, tasks + before, before, 0, began=clock.now, updated=clock.now))


def finish(made: Progress, clock, tasks: int, seconds: float) -> None:
    for _ in range(tasks):
        clock.now += seconds
        made.finished("", 0.0)


def test_before_anything_is_done_all_is_as_planned(clock):
    made = Progress(ahead=dict(PLAN))
    assert made.left == 200
    begin(made, clock, "correlations", "sums", 10)
    assert made.left == 200 and list(made.ahead) == list(PLAN)


def test_as_things_go_it_becomes_what_was_measured(clock):
    made = Progress(ahead=dict(PLAN))
    begin(made, clock, "correlations", "sums", 10)
    told = []
    for _ in range(10):
        finish(made, clock, 1, 30.0)  # three times as long as planned
        told.append(made.left)
    assert told == sorted(told, reverse=True)
    # Of 300 s all but a tenth of the plan's weight: 100 s are left, so about 300 s.
    assert told[-1] == pytest.approx(100 * (300 + 20) / (100 + 20))
    begin(made, clock, "correlations", "tables", 1)
    finish(made, clock, 1, 30.0)
    begin(made, clock, "roles", "interventions", 5)  # the profile was there
    assert list(made.ahead) == ["roles"]
    finish(made, clock, 4, 30.0)
    assert made.left == pytest.approx(30)
    finish(made, clock, 1, 30.0)
    assert made.left == 0 and made.state()["ahead"] == []


def test_a_batch_that_an_earlier_driver_began_counts_from_there(clock):
    made = Progress(ahead={"roles": Forecast({"interventions": 20.0})})
    begin(made, clock, "roles", "interventions", 4, before=96)
    finish(made, clock, 2, 10.0)
    assert made.left == pytest.approx(20)
    assert made.batches[0].share == 0.5


def test_a_batch_that_is_too_small_for_the_plan_hides_nothing_that_is_in_it(clock):
    made = Progress(ahead=dict(PLAN))
    begin(made, clock, "correlations", "calibration", 2)
    assert made.left == 200


def test_of_shares_nothing_is_known_before_one_is_timed(clock):
    ahead = {name: Forecast(each.seconds, measured=False) for name, each in PLAN.items()}
    made = Progress(ahead=ahead)
    assert made.left is None
    begin(made, clock, "correlations", "calibration", 2)
    finish(made, clock, 2, 50.0)  # of which the plan says nothing
    assert made.left is None
    begin(made, clock, "correlations", "sums", 10)
    assert made.left is None
    finish(made, clock, 5, 1.0)
    assert made.left == pytest.approx(5 + 0.1 * 100)


def test_a_batch_of_which_nothing_is_planned_has_its_own_rate_alone(clock):
    made = Progress(ahead={"play": Forecast({})})
    begin(made, clock, "play", "work", 4)
    assert made.left is None
    finish(made, clock, 1, 7.0)
    assert made.left == pytest.approx(21)


def test_it_is_told_in_words():
    assert remaining(240.0, ["profile", "roles"]) == "about 4 min in all, with profile and roles"
    assert remaining(30.0, []) == "about 30 s in all"
    assert remaining(-5.0, ["roles"]) == "in all longer than was foreseen, with roles"
    assert remaining(None, ["roles"]) == "in all not known yet, with roles"
