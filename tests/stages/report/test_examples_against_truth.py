"""Windows of the embedded models against plain forward passes in float64: every activation in them,
which tokens they are around, and what partners do on the same tokens.

Shapes: R rows, P positions, T tokens, N neurons of a model, M windows, W tokens of a window.
"""

from types import SimpleNamespace

import numpy as np
import pyarrow.compute as pc
import pytest
from helpers_report import look, matrix
from helpers_study import make_study, true_activations

from universal_ray import testbed
from universal_ray.config.study import Study
from universal_ray.stages.report.earlier import NONE

ROWS, CONTEXT, WINDOW, WIDTH = 24, 128, 32, 1024
TOLERANCE = 5e-5


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """Columns of the table, of model `a`, and true activations [T, N] of both models."""
    study: Study = make_study(
        tmp_path_factory.mktemp("truth"), [testbed.resolve(name) for name in "ab"],
        testbed.resolve("tokens"),
    )  # fmt: skip
    study.corpus.tokens = ROWS * CONTEXT
    study.units.tokens, study.units.batch = 8 * CONTEXT, 4 * CONTEXT
    study.report.sample, study.report.tokens = 9 * CONTEXT, 20 * CONTEXT
    seen = look(study)
    tokens_RP = seen.inputs.corpus.read(0, ROWS)
    own_TN, other_TN = (true_activations(testbed.resolve(name), tokens_RP) for name in "ab")
    plain = ("layer", "neuron", "kind", "rank", "split", "row", "start", "focus", "subset",
             "activation", "scale")  # fmt: skip
    columns = {name: seen.table[name].to_numpy() for name in plain}
    return SimpleNamespace(
        **columns,
        flat=columns["layer"] * WIDTH + columns["neuron"],
        token=columns["row"] * CONTEXT + columns["focus"],
        place=(columns["row"] * CONTEXT + columns["start"])[:, None] + np.arange(WINDOW),
        token_ids=matrix(seen.table["token_ids"], WINDOW),
        quantised=matrix(seen.table["quantised"], WINDOW),
        table=seen.table, seen=seen, own_TN=own_TN, other_TN=other_TN, tokens_RP=tokens_RP,
        kept_RP=~np.isin(tokens_RP, seen.inputs.excluded),
    )  # fmt: skip


def test_every_activation_is_that_of_a_plain_pass_in_float64(found):
    assert len(found.flat) > 20 * found.own_TN.shape[1]
    true_MW = found.own_TN[found.place, found.flat[:, None]]
    told_MW = found.scale.astype(np.float64)[:, None] * found.quantised
    apart_MW = np.abs(told_MW - true_MW)
    assert (apart_MW <= found.scale[:, None] / 2 + TOLERANCE).all()
    assert np.abs(found.scale - np.abs(true_MW).max(1) / 127).max() < TOLERANCE
    assert np.abs(found.activation - found.own_TN[found.token, found.flat]).max() < TOLERANCE


def test_windows_are_around_their_token_with_context_on_both_sides(found):
    np.testing.assert_array_equal(found.token_ids, found.tokens_RP.ravel()[found.place])
    before = found.focus - found.start
    assert (before >= 0).all() and (before < WINDOW).all()
    expected = np.clip(found.focus - WINDOW // 2, 0, CONTEXT - WINDOW)
    np.testing.assert_array_equal(found.start, expected)
    assert found.seen.inputs.excluded and not found.kept_RP.all()
    assert found.kept_RP.ravel()[found.token].all()


def test_partners_are_read_on_the_same_tokens(found):
    seen = found.seen
    assert {*seen.recipe.plan.sample} < {*seen.rows} and len(seen.rows) == 20 < ROWS
    partner_M = seen.partners[found.flat]
    name = seen.inputs.everyone[1].name
    assert found.table["partners"].to_pylist() == [
        [None if flat == NONE else f"{name}:{flat // WIDTH}.{flat % WIDTH}"] for flat in partner_M
    ]
    read_M = np.isin(found.row, seen.rows)
    assert read_M.mean() > 0.9 and set(found.kind[~read_M]) == {"top"}
    for column in ("partner_scales", "partner_quantised"):
        lists = found.table[column].combine_chunks()
        np.testing.assert_array_equal(lists.is_valid().to_numpy(zero_copy_only=False), read_M)
        inside = lists.flatten().is_valid().to_numpy(zero_copy_only=False)
        np.testing.assert_array_equal(inside, partner_M[read_M] != NONE)
    there_M = read_M & (partner_M != NONE)
    scale_M = found.table["partner_scales"].combine_chunks().flatten().drop_null().to_numpy()
    lists = found.table["partner_quantised"].combine_chunks().flatten().drop_null()
    told_MW = scale_M.astype(np.float64)[:, None] * lists.flatten().to_numpy().reshape(-1, WINDOW)
    true_MW = found.other_TN[found.place[there_M], partner_M[there_M][:, None]]
    assert (np.abs(told_MW - true_MW) <= scale_M[:, None] / 2 + TOLERANCE).all()


def test_top_windows_are_around_the_largest_activations_of_different_rows(found):
    own_RPN = found.own_TN.reshape(ROWS, CONTEXT, -1)
    best_RN = -np.sort(-np.where(found.kept_RP[:, :, None], own_RPN, -np.inf).max(1), axis=0)
    top_M = found.kind == "top"
    rank_M, flat_M = found.rank[top_M], found.flat[top_M]
    assert np.abs(found.activation[top_M] - best_RN[rank_M, flat_M]).max() < TOLERANCE
    assert len(np.unique(flat_M * ROWS + found.row[top_M])) == top_M.sum()
    count_N = np.bincount(flat_M, minlength=own_RPN.shape[2])
    np.testing.assert_array_equal(np.bincount(flat_M, rank_M), count_N * (count_N - 1) / 2)
    short_N = np.flatnonzero(count_N < 8)
    assert (best_RN[count_N[short_N], short_N] < TOLERANCE).all()
    assert len(short_N) < len(count_N) / 4


def test_quantiles_random_and_silent_windows_are_of_the_sample(found):
    sample = np.array(found.seen.recipe.plan.sample)
    assert np.isin(found.row[found.kind != "top"], sample).all()
    kinds, counts = np.unique(found.kind, return_counts=True)
    by_kind = dict(zip(kinds, counts / found.own_TN.shape[1], strict=True))
    assert by_kind.keys() == {"top", "quantile", "random", "silent"}
    assert by_kind["quantile"] > 4 and min(by_kind["random"], by_kind["silent"]) > 3.5
    assert (found.activation[found.kind == "silent"] <= 0).all()
    own_RPN = found.own_TN.reshape(ROWS, CONTEXT, -1)[sample]
    sampled_TN = own_RPN[found.kept_RP[sample]]
    quantile_M = np.flatnonzero(found.kind == "quantile")[::97]
    away = []
    for place in quantile_M:
        positive_T = sampled_TN[:, found.flat[place]]
        positive_T = positive_T[positive_T > 0]
        below = (positive_T < found.activation[place] - TOLERANCE).mean()
        away.append(abs(below - (found.rank[place] + 0.5) / 8))
    assert np.median(away) < 0.02


def test_no_two_windows_of_a_neuron_have_the_same_tokens(found):
    texts = np.concatenate([found.flat[:, None], found.token_ids], axis=1)
    assert len(np.unique(texts, axis=0)) == len(texts)


def test_halves_are_of_rows_and_subsets_are_told(found):
    subsets = np.array(found.seen.inputs.corpus.subsets(0, ROWS))
    np.testing.assert_array_equal(found.subset, subsets[found.row])
    halves = [set(found.row[found.split == name]) for name in ("description", "scoring")]
    assert all(halves) and not halves[0] & halves[1]
    assert not pc.any(pc.is_null(found.table["split"])).as_py()
