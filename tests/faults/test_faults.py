"""Workers, nodes, the driver and the head die at random moments; the tables keep the same bits."""

import random
from collections import Counter

import pytest
from helpers_faults import play
from helpers_study import CONTEXT, computed, make, make_models, make_study, make_tokens, table_bytes

FAULTS = ("worker", "node", "kill_driver", "head")
ROWS_OF_A_UNIT, UNITS = 2, 49
"""Many short units, so that a fault meets some done, some under way and some to come."""


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faults")
    return make_models(folder, "abc"), make_tokens(folder / "tokens")


def study(folder, inputs):
    made = make_study(folder, *inputs, workers=2)
    made.units.tokens, made.units.batch = ROWS_OF_A_UNIT * CONTEXT, CONTEXT
    return made


@pytest.fixture(scope="module")
def expected(inputs, tmp_path_factory):
    store = make(study(tmp_path_factory.mktemp("undisturbed"), inputs))
    assert sorted(computed(store)) == list(range(UNITS))
    return table_bytes(store)


def check(store, expected):
    assert table_bytes(store) == expected
    # A unit whose driver died before it heard of it is stored and has no line; none has two.
    assert max(Counter(computed(store)).values()) == 1
    assert store.get_json("progress.json")["stage"] == "finished"


@pytest.mark.cluster
@pytest.mark.timeout(300)
def test_what_befalls_a_cluster_changes_no_bit(inputs, expected, tmp_path):
    faults = ["node", "head"]
    store = play(study(tmp_path / "run", inputs), tmp_path / "log", faults, random.Random(0))
    check(store, expected)


@pytest.mark.cluster
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(20))
def test_twenty_rounds(inputs, expected, tmp_path, seed):
    chance = random.Random(seed)
    faults = chance.choices(FAULTS, k=chance.randint(1, 4))
    check(play(study(tmp_path / "run", inputs), tmp_path / "log", faults, chance), expected)
