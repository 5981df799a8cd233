"""Why a row of the tables has no correlation, from the codes of the sums to what is counted."""

from dataclasses import replace

import pyarrow as pa
import torch
from helpers_models import gpt2_shape
from helpers_summary import differences

from universal_ray.maths.moments.accumulate import POLICIES
from universal_ray.maths.moments.correlation import CONSTANT, FAINT, MOVED
from universal_ray.maths.moments.row_summary import summarise
from universal_ray.models.site import MLP_POST
from universal_ray.stages.correlations.partners import NOBODY, Partners
from universal_ray.stages.correlations.reduce import Direction
from universal_ray.stages.correlations.schemas import NO_PARTNER, SUMMARY
from universal_ray.stages.correlations.summary import partner_layers, summary
from universal_ray.stages.correlations.tables import neuron_table, pair_table

MODEL = gpt2_shape("m", "m", 2, 3)
NULL_N = torch.tensor([0, CONSTANT, FAINT, 0, MOVED, FAINT])


def pairs(
    policy: str, live_M: torch.Tensor, others: int = 2, null_N: torch.Tensor = NULL_N
) -> list:
    """Pair tables of one model of six neurons, some without a correlation, with others of five."""
    found = []
    for seed in range(others):
        r_NM = torch.rand(6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        r_NM[null_N > 0] = torch.nan
        direction = Direction(
            model=MODEL,
            other=gpt2_shape(f"o{seed}", f"o{seed}", 1, 5),
            summary=summarise(r_NM, live_M, first=0, count=3),
            baseline_NK=torch.full((6, 2), 0.1).double(),
            error_N=torch.full((6,), 0.01).double(),
            diagonal_N=torch.full((6,), torch.nan).double(),
            next_N=torch.full((6,), torch.nan).double(),
            null_N=null_N,
            n=9.0,
            policy=policy,
        )
        nobody_N = torch.full((6,), NOBODY)
        alone = Partners(
            mutual_N=torch.zeros(6, dtype=torch.bool), assigned_N=nobody_N,
            assigned_corr_N=torch.full((6,), torch.nan).double(),
        )  # fmt: skip
        found.append(pair_table(direction, alone, 0, MLP_POST))
    return found


def test_every_reason_is_told_apart_in_both_tables_and_counted():
    for policy in POLICIES:
        tables = pairs(policy, torch.ones(5, dtype=torch.bool))
        neurons = neuron_table(tables, 0.5)
        constant, faint, moved = (
            "constant over the kept tokens",
            f"varies too little beside its layer for precision.moments={policy}",
            f"its mean moved too far from that of calibration for precision.moments={policy}",
        )
        for table, column in ((tables[0], "max_corr"), (tables[1], "hist"),
                              (neurons, "excess_corr")):
            reasons = table["null_reason"].to_pylist()
            assert reasons == [None, constant, faint, None, moved, faint]
            nothing = [value is None for value in table[column].to_pylist()]
            assert nothing == [reason is not None for reason in reasons]
        counted = summary(MODEL, neurons, tables, "rotated")
        assert counted["neurons_without_correlation"] == 4
        assert counted["reasons_without_correlation"] == {constant: 1, faint: 2, moved: 1}


def test_a_model_of_the_paper_stands_beside_its_figures_whatever_it_is_called():
    tables = pairs("fp32", torch.ones(5, dtype=torch.bool))
    hub = replace(MODEL, given="EleutherAI/pythia-160m@main")
    told = summary(hub, neuron_table(tables, 0.5), tables, "rotated")
    assert told["model"] == "m" and told["published"]["universal"] == 465
    said = {
        key.removeprefix("references[]."): each
        for key, each in SUMMARY.items() if key.startswith("references[]")
    }  # fmt: skip
    assert differences(told, said) == (set(), {"published.spread"})  # Pythia has none


def test_where_no_neuron_has_a_correlation_how_many_are_universal_is_null():
    live_M = torch.ones(5, dtype=torch.bool)
    half_N = torch.tensor([0, 0, CONSTANT, FAINT, FAINT, FAINT])
    tables = pairs("fp32", live_M, null_N=half_N)
    told = summary(MODEL, neuron_table(tables, -1.0), tables, "rotated")
    first, second = told["layers"]
    assert (told["universal"], told["universal_share"]) == (2, 2 / 6)
    assert (first["universal"], first["universal_share"]) == (2, 2 / 3)
    assert second["neurons"] == 3
    assert second["universal"] is second["universal_share"] is None
    tables = pairs("fp32", live_M, null_N=torch.full((6,), FAINT))
    told = summary(MODEL, neuron_table(tables, -1.0), tables, "rotated")
    assert told["universal"] is told["universal_share"] is told["largest_excess"] is None
    assert set(told["excess_above"].values()) == {None}


def test_a_neuron_without_any_partner_has_that_reason_and_others_their_own():
    table = pairs("split", torch.zeros(5, dtype=torch.bool))[0]
    reasons = table["null_reason"].to_pylist()
    assert reasons[0] == reasons[3] == NO_PARTNER
    assert len(set(reasons)) == 4 and table["max_corr"].null_count == 6


def test_a_layer_without_partners_has_no_shares_of_them():
    table = pa.table({"layer": [0, 0, 1, 2], "max_layer": [0, 1, None, 1]})
    other = pa.table({"layer": [0, 0, 1, 2], "max_layer": [1, 1, None, None]})
    assert partner_layers([table, other], 3) == [[0.25, 0.75, 0.0], None, [0.0, 1.0, 0.0]]
