"""Moment sums and correlations against numpy in float64.

Shapes: T tokens, N neurons of the first model, M of the second.
"""


import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from helpers_moments import BOUNDS, activations, oracle, sum_up

from universal_ray.errors import NumericalError
from universal_ray.maths.moments.accumulate import (
    POLICIES,
    ModelMoments,
    accumulate_,
    merge,
    operands,
)
from universal_ray.maths.moments.calibration import calibrate
from universal_ray.maths.moments.correlation import (
    CONSTANT,
    OVERSHOOT,
    NeuronMoments,
    centred_cross,
    centred_gram,
    correlation,
    neuron_moments,
    split_index,
)

quickly = hypothesis.settings(
    max_examples=25, deadline=None, database=None, derandomize=True
)


# Correlations against numpy


@pytest.mark.parametrize("tokens", [1_500, 12_000, 40_000])
@pytest.mark.parametrize("policy", POLICIES)
def test_every_policy_keeps_its_bound_at_every_r(policy, tokens):
    x_TN, y_TM = activations(tokens)
    true_NM = oracle(x_TN, y_TM)
    sums = sum_up(x_TN, y_TM, policy=policy, layers=(2, 3), unit=25_000)
    error_NM = np.abs(sums.r() - true_NM)
    for low, high in [(0, 0.5), (0.5, 0.99), (0.99, 0.9999), (0.9999, 1.01)]:
        inside_NM = (np.abs(true_NM) >= low) & (np.abs(true_NM) < high)
        assert inside_NM.any()
        assert error_NM[inside_NM].max() < BOUNDS[policy]


def test_the_policies_differ_as_they_should():
    x_TN, y_TM = activations(6_000)
    true_NM = oracle(x_TN, y_TM)
    error = {p: np.abs(sum_up(x_TN, y_TM, policy=p).r() - true_NM).max() for p in POLICIES}
    assert error["fp16"] > 10 * error["split"]


def test_sums_are_those_of_numpy():
    x_TN, y_TM = activations(3_000)
    kept_T = np.random.default_rng(1).random(3_000) < 0.7
    sums = sum_up(x_TN, y_TM, kept_T, layers=(2, 3))
    fit = calibrate(torch.from_numpy(x_TN[:500]), torch.from_numpy(kept_T[:500]), 2)
    u_TN = (x_TN[kept_T].astype(np.float64) - fit.shift_N.numpy()) / fit.scale_N.numpy()
    for layer, part in enumerate(sums.left):
        u_TD = u_TN[:, layer * 12 : (layer + 1) * 12]
        assert float(part["n"]) == kept_T.sum()
        np.testing.assert_allclose(part["sum"], u_TD.sum(0), atol=2e-3)
        np.testing.assert_allclose(part["gram"], u_TD.T @ u_TD, atol=1e-6 * len(u_TD))
        np.testing.assert_array_equal(part["minimum"], u_TD.min(0).astype(np.float32))
        np.testing.assert_array_equal(part["maximum"], u_TD.max(0).astype(np.float32))
        centred_DD = (u_TD - u_TD.mean(0)).T @ (u_TD - u_TD.mean(0))
        np.testing.assert_allclose(centred_gram(part), centred_DD, atol=1e-6 * len(u_TD))


def test_row_blocks_of_a_product_are_the_product():
    rng = np.random.default_rng(9)
    a_TN, b_TM = (torch.from_numpy(rng.integers(-9, 9, (5, n))).float() for n in (2_500, 3))
    sums_NM = torch.ones(2_500, 3)
    accumulate_(sums_NM, (a_TN,), (b_TM,), 2_500)
    assert torch.equal(sums_NM, 1 + a_TN.T @ b_TM)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("width", [24, 1_500])
def test_layers_summed_apart_or_together_have_the_same_bits(policy, width):
    rng = np.random.default_rng(10)
    left = operands(torch.from_numpy(rng.standard_normal((300, 3 * width))).float(), policy)
    right = operands(torch.from_numpy(rng.standard_normal((300, 70))).float(), policy)
    together_NM, apart_NM = torch.zeros(2, 3 * width, 70)
    for _ in range(2):
        accumulate_(together_NM, left, right, width)
        for layers in (slice(0, width), slice(width, 3 * width)):  # one, then two
            accumulate_(apart_NM[layers], tuple(a[:, layers] for a in left), right, width)
    assert torch.equal(together_NM, apart_NM)
    assert together_NM.abs().max() > 1


@pytest.mark.parametrize("width", [5, 256, 300, 700])
def test_a_gram_made_of_its_upper_blocks_is_whole_and_symmetric(width):
    u_TN = torch.from_numpy(np.random.default_rng(11).integers(-9, 9, (40, 2 * width))).float()
    model = ModelMoments(2, width, "cpu")
    model.update(u_TN.clone(), torch.ones(40, dtype=torch.bool), "fp32")
    for layer, u_TD in enumerate(u_TN.split(width, dim=1)):
        assert torch.equal(model.layer_sums(layer)["gram"], u_TD.T @ u_TD)


def test_a_model_whose_grams_are_summed_elsewhere_gives_the_same_operands_and_n():
    u_TN = torch.randn(10, 6)
    kept_T = torch.arange(10) != 4
    bare, full = ModelMoments(2, 3, "cpu", gram=False), ModelMoments(2, 3, "cpu")
    first, second = (m.update(u_TN.clone(), kept_T, "split") for m in (bare, full))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert bare.n == full.n == 9
    u_TN[2, 5] = torch.inf
    bare.update(u_TN, kept_T, "split")
    with pytest.raises(NumericalError, match="layer 1, neuron 2"):
        bare.check_range("split")


def test_correlations_of_a_row_block_are_rows_of_the_whole():
    x_TN, y_TM = activations(2_000)
    sums = sum_up(x_TN, y_TM, layers=(2, 3))
    rows, columns = (neuron_moments(side, "fp32") for side in (sums.left, sums.right))
    centred_DM = centred_cross(sums.cross_NM[12:], rows, columns, first=12)
    block_DM = correlation(centred_DM, rows, columns, first=12, policy="fp32")
    np.testing.assert_array_equal(block_DM, sums.r()[12:])


@pytest.mark.parametrize("policy", POLICIES)
def test_scaling_by_powers_of_two_changes_no_bit(policy):
    x_TN, y_TM = activations(2_000)
    scale_N = 2.0 ** np.random.default_rng(2).integers(-3, 4, x_TN.shape[1])
    # One layer per neuron, so that no neighbour's scale decides.
    plain = sum_up(x_TN, y_TM, policy=policy, layers=(24, 24)).r()
    scaled = sum_up(x_TN * scale_N, y_TM, policy=policy, layers=(24, 24)).r()
    np.testing.assert_array_equal(plain, scaled)


@pytest.mark.parametrize("policy", POLICIES)
def test_shift_and_scale_leave_r_unchanged(policy):
    rng = np.random.default_rng(3)
    x_TN, y_TM = activations(4_000)
    x_TN -= x_TN.mean(0)
    scale_N = 10 ** rng.uniform(-1, 1, x_TN.shape[1])
    moved_TN = (x_TN * scale_N + 100 * scale_N * x_TN.std(0)).astype(np.float32)
    r_NM = sum_up(moved_TN, y_TM, policy=policy).r()
    # float32 activations with a mean of 100 deviations hold five digits of them at best.
    np.testing.assert_allclose(r_NM, oracle(x_TN, y_TM), atol=BOUNDS[policy] + 1e-5)
    np.testing.assert_allclose(r_NM, oracle(moved_TN, y_TM), atol=BOUNDS[policy])


@pytest.mark.parametrize("drift", [0.5, 3])
@pytest.mark.parametrize("policy", POLICIES)
def test_means_that_drift_after_calibration_cost_little(policy, drift):
    rng = np.random.default_rng(4)
    x_TN, y_TM = activations(6_000)
    # Nearly always at one value, some deviations away from where calibration saw it, so that all
    # tokens round the same way: only sums of what is multiplied let that cancel.
    x_TN = np.where(rng.random(x_TN.shape) < 0.9, 0, x_TN - x_TN.mean(0))
    x_TN[500:] += drift * x_TN.std(0)
    x_TN = x_TN.astype(np.float32)
    bound = 1e-4 if policy == "fp16" else BOUNDS[policy] * (1 + drift**2)
    r_NM = sum_up(x_TN, y_TM, policy=policy).r()
    np.testing.assert_allclose(r_NM, oracle(x_TN, y_TM), atol=bound)


# Excluded tokens


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("junk", [1e30, np.nan, np.inf, -np.inf])
def test_excluded_tokens_do_not_count_whatever_they_hold(policy, junk):
    x_TN, y_TM = activations(2_000)
    kept_T = np.random.default_rng(5).random(2_000) < 0.6
    kept_T[0] = False
    clean = sum_up(np.where(kept_T[:, None], x_TN, 0), y_TM, kept_T, policy, layers=(2, 2))
    dirty_TN = np.where(kept_T[:, None], x_TN, junk).astype(np.float32)
    dirty = sum_up(dirty_TN, y_TM, kept_T, policy, layers=(2, 2))
    for one, other in zip(clean.left, dirty.left, strict=True):
        for name in one:
            torch.testing.assert_close(one[name], other[name], rtol=0, atol=0)
    np.testing.assert_array_equal(clean.r(), dirty.r())
    np.testing.assert_allclose(dirty.r(), oracle(x_TN[kept_T], y_TM[kept_T]), atol=BOUNDS[policy])


def test_a_batch_without_a_kept_token_adds_nothing():
    x_TN, y_TM = activations(2_000)
    kept_T = np.ones(2_000, bool)
    kept_T[500:1_000] = False  # the whole second batch
    x_TN[600] = np.nan
    sums = sum_up(x_TN, y_TM, kept_T)
    assert float(sums.left[0]["n"]) == 1_500
    np.testing.assert_allclose(sums.r(), oracle(x_TN[kept_T], y_TM[kept_T]), atol=1e-6)


def test_a_unit_without_a_kept_token_is_neutral():
    empty = ModelMoments(1, 3, "cpu")
    factors = empty.update(torch.full((4, 3), torch.nan), torch.zeros(4, dtype=torch.bool), "fp32")
    assert all((factor == 0).all() for factor in factors)
    nothing = neuron_moments([merge([empty.layer_sums(0)])], "fp32")
    assert (nothing.null_N == CONSTANT).all()
    full = ModelMoments(1, 3, "cpu")
    full.update(torch.randn(4, 3), torch.ones(4, dtype=torch.bool), "fp32")
    both = merge([empty.layer_sums(0), full.layer_sums(0), empty.layer_sums(0)])
    for name, value in merge([full.layer_sums(0)]).items():
        torch.testing.assert_close(both[name], value, rtol=0, atol=0)


# The edges of r


def moments_of(squares: float, n: float = 100.0) -> NeuronMoments:
    zero_N = torch.zeros(1, dtype=torch.float64)
    return NeuronMoments(n, zero_N, zero_N + squares, zero_N.byte())


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("sign", [1, -1])
def test_r_beyond_one_is_clipped_within_the_bound_and_an_error_beyond(policy, sign):
    one = moments_of(4.0)
    within = torch.full((1, 1), sign * 4 * (1 + 0.5 * OVERSHOOT[policy]), dtype=torch.float64)
    assert correlation(within, one, one, first=0, policy=policy).item() == sign
    beyond = torch.full((1, 1), sign * 4 * (1 + 2 * OVERSHOOT[policy]), dtype=torch.float64)
    with pytest.raises(NumericalError, match=f"exceeds 1 by more than precision.moments={policy}"):
        correlation(beyond, one, one, first=0, policy=policy)


@quickly
@hypothesis.given(index=st.integers(0, 10**9), width=st.integers(1, 10**5))
def test_split_index_is_divmod(index, width):
    layer, neuron = split_index(torch.tensor([index]), width)
    assert (layer.item(), neuron.item()) == divmod(index, width)
