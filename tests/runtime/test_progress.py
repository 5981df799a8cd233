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


def told(made: Progress, clock, since: float = 0.0) -> str:
    return remaining(made.state(), clock.now + since)


def test_before_anything_is_done_all_is_as_planned(clock):
    made = Progress()
    made.foresee(PLAN)
    assert made.left == (0, 200)
    assert told(made, clock, 50.0) == "about 3 min left in all, with profile and roles"
    begin(made, clock, "correlations", "sums", 10)
    assert made.left == (100, 100) and list(made.ahead) == list(PLAN)


def test_as_things_go_it_becomes_what_was_measured(clock):
    made = Progress()
    made.foresee(PLAN)
    begin(made, clock, "correlations", "sums", 10)
    left = []
    for _ in range(10):
        finish(made, clock, 1, 30.0)  # three times as long as planned
        left.append(sum(made.left))
    assert left == sorted(left, reverse=True)
    # Of 300 s all but a tenth of the plan's weight: 100 s are left, so about 300 s.
    assert left[-1] == pytest.approx(100 * (300 + 20) / (100 + 20))
    begin(made, clock, "correlations", "tables", 1)
    finish(made, clock, 1, 30.0)
    made.foresee({"roles": PLAN["roles"]})  # the profile was there
    assert made.left == (0, 50)  # planned by what was measured
    begin(made, clock, "roles", "interventions", 5)
    finish(made, clock, 4, 30.0)
    assert made.left == (pytest.approx(30), 0)
    finish(made, clock, 1, 30.0)
    assert made.left == (0, 0) and made.state()["ahead"] == []
    assert told(made, clock, 9.0) == "no task is left"


def test_a_batch_that_an_earlier_driver_began_counts_from_there(clock):
    made = Progress(ahead={"roles": Forecast({"interventions": 20.0})})
    begin(made, clock, "roles", "interventions", 4, before=96)
    finish(made, clock, 2, 10.0)
    assert made.left == (pytest.approx(20), 0)
    assert made.batches[0].share == 0.5


def test_a_batch_that_is_too_small_for_the_plan_hides_nothing_that_is_in_it(clock):
    made = Progress(ahead=dict(PLAN))
    begin(made, clock, "correlations", "calibration", 2)
    assert made.left == (None, 200)
    assert told(made, clock, 300.0) == "about 3 min left in all, with profile and roles"


def test_of_shares_nothing_is_known_before_one_is_timed(clock):
    made = Progress()
    made.foresee({name: Forecast(each.seconds, measured=False) for name, each in PLAN.items()})
    assert made.left == (0, None)
    begin(made, clock, "correlations", "calibration", 2)
    finish(made, clock, 2, 50.0)  # of which the plan says nothing
    assert made.left == (0, None)
    begin(made, clock, "correlations", "sums", 10)
    assert made.left == (None, None)
    assert told(made, clock) == "not known yet in all, with profile and roles"
    finish(made, clock, 5, 1.0)
    assert made.left == (pytest.approx(5), pytest.approx(0.1 * 100))
    finish(made, clock, 5, 1.0)
    made.foresee({"roles": PLAN["roles"]})  # in seconds, now that sums are timed
    assert made.left == (0, 50)


def test_a_batch_of_which_nothing_is_planned_has_its_own_rate_alone(clock):
    made = Progress(ahead={"play": Forecast({})})
    begin(made, clock, "play", "work", 4)
    assert made.left == (None, 0)
    assert told(made, clock) == "not known yet in all"
    finish(made, clock, 1, 7.0)
    assert told(made, clock) == "21 s of work, about 21 s left in all"


def test_what_takes_longer_than_foreseen_takes_nothing_from_what_comes_after(clock):
    made = Progress(ahead=dict(PLAN))
    begin(made, clock, "correlations", "sums", 10)
    soon = told(made, clock, 40.0)
    assert soon == "60 s of sums, about 3 min left in all, with profile and roles"
    late = told(made, clock, 5000.0)
    assert late == "sums longer than foreseen, about 100 s left in all, with profile and roles"
    alone = Progress(ahead={"roles": Forecast({"interventions": 50.0})})
    begin(alone, clock, "roles", "interventions", 1)
    assert told(alone, clock, 49.9) == "1 s of interventions, about 1 s left in all"
    assert told(alone, clock, 50.0) == "interventions longer than foreseen"


def test_tokens_that_are_no_whole_number_leave_nothing_at_the_end(clock):
    made = Progress(ahead={"correlations": Forecast({"sums": 100.0})})
    made.begin("correlations", Advance("sums", 2, 0, round(2 * 50.7)))
    for _ in range(2):
        clock.now += 1
        made.finished("", 50.7)
    assert made.left == (0, 0)
