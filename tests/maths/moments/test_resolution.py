"""What sums cannot resolve, and what lies beyond their range: right, null with why, or refused.

Shapes: T tokens, N neurons of the first model, M of the second.
"""


import numpy as np
import pytest
import torch
from helpers_moments import BOUNDS, activations, gelu, oracle, sum_up

from universal_ray.errors import NumericalError
from universal_ray.maths.moments.accumulate import (
    POLICIES,
    ModelMoments,
)
from universal_ray.maths.moments.correlation import (
    CONSTANT,
    FAINT,
    MOVED,
    NeuronMoments,
    centred_cross,
)

# Dead neurons, late neurons, range


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("value", [0.0, -0.17, 1234.5678])
def test_dead_neurons_have_no_correlation_and_harm_no_other(policy, value):
    x_TN, y_TM = activations(2_000)
    kept_T = np.random.default_rng(6).random(2_000) < 0.8
    x_TN[:, 3] = value
    x_TN[kept_T, 7] = value  # it varies, but only where tokens do not count
    y_TM[:, 5] = value
    sums = sum_up(x_TN, y_TM, kept_T, policy, layers=(2, 3))
    assert sums.null() == [CONSTANT if neuron in (3, 7) else 0 for neuron in range(24)]
    r_NM = sums.r()
    assert np.isnan(r_NM[[3, 7]]).all() and np.isnan(r_NM[:, 5]).all()
    live_N, live_M = (~np.isin(np.arange(24), dead) for dead in ([3, 7], [5]))
    true_NM = oracle(x_TN[kept_T][:, live_N], y_TM[kept_T][:, live_M])
    np.testing.assert_allclose(r_NM[live_N][:, live_M], true_NM, atol=BOUNDS[policy])


def test_centred_sums_of_dead_neurons_are_zero_whatever_rounding_left():
    sum_N = torch.tensor([3.0, 5.0], dtype=torch.float64)
    moments = NeuronMoments(7.0, sum_N, sum_N, torch.tensor([0, CONSTANT]))
    cross_NN = torch.full((2, 2), 1.25, dtype=torch.float64)
    centred_NN = centred_cross(cross_NN, moments, moments, first=0)
    assert centred_NN.tolist() == [[1.25 - 9 / 7, 0], [0, 0]]


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("rest", [0.0, 1e-5])
def test_a_neuron_silent_in_calibration_that_fires_later_is_right(policy, rest):
    rng = np.random.default_rng(7)
    x_TN, y_TM = activations(6_000, neurons=12)
    x_TN = (x_TN - x_TN.mean(0)) / x_TN.std(0)
    # It rests at (nearly) nothing, then fires with 3e5 times the deviation it was seen to have.
    x_TN[:, 2] = rest * rng.standard_normal(6_000)
    fires_T = (np.arange(6_000) >= 500) & (y_TM[:, 4] > np.quantile(y_TM[:, 4], 0.97))
    x_TN[fires_T, 2] += 3 + rng.random(fires_T.sum())
    sums = sum_up(x_TN, y_TM, policy=policy)
    true_NM = oracle(x_TN, y_TM)
    assert np.abs(true_NM[2, 4]) > 0.3
    np.testing.assert_allclose(sums.r(), true_NM, atol=BOUNDS[policy])


@pytest.mark.parametrize("policy", POLICIES)
def test_firing_far_beyond_its_layer_is_right_or_refused(policy):
    x_TN, y_TM = activations(2_000, neurons=12)
    x_TN = (x_TN - x_TN.mean(0)) / x_TN.std(0)
    x_TN[:, 8] = 0
    x_TN[1_000::50, 8] = 3e5  # 3e5 deviations of its neighbours: beyond half precision
    if policy == "fp32":
        np.testing.assert_allclose(sum_up(x_TN, y_TM).r(), oracle(x_TN, y_TM), atol=1e-6)
    else:
        with pytest.raises(NumericalError, match=r"layer 1, neuron 2 has an activation .* fp32"):
            sum_up(x_TN, y_TM, policy=policy, layers=(2, 2))


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (np.nan, "that is not finite: check the model"),
        (np.inf, "that is not finite: check the model"),
        (-np.inf, "that is not finite: check the model"),
        (1e30, "too large for precision.moments={policy}: "),
        (-1e30, "too large for precision.moments={policy}: "),
    ],
)
def test_values_without_finite_squares_are_refused_by_layer_and_neuron(policy, wrong, sentence):
    model = ModelMoments(3, 4, "cpu")
    u_TN = torch.randn(6, 12)
    u_TN[4, 9] = wrong
    model.update(u_TN, torch.ones(6, dtype=torch.bool), policy)
    said = f"layer 2, neuron 1 has an activation {sentence.format(policy=policy)}"
    with pytest.raises(NumericalError, match=said):
        model.check_range(policy)


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
@pytest.mark.parametrize("batches", [1, 2])
def test_what_is_not_finite_at_an_excluded_token_first_is_said_to_be(wrong, batches):
    model = ModelMoments(3, 4, "cpu")
    u_TN = torch.randn(6, 12)
    u_TN[1, 6] = wrong  # layer 1, excluded
    u_TN[5, 9] = wrong  # layer 2, counts
    kept_T = torch.arange(6) != 1
    for rows in torch.arange(6).chunk(batches):
        model.update(u_TN[rows], kept_T[rows], "fp32")
    said = "layer 1, neuron 2 .* not finite at an excluded token; tokens that count"
    with pytest.raises(NumericalError, match=said):
        model.check_range("fp32")


# What a policy cannot resolve


SMALL = 3 * 10.0 ** -np.arange(1, 10)
"""Deviations beside those of other neurons, which are one."""


def shrunk(tokens: int) -> tuple[np.ndarray, np.ndarray]:
    """The activations made up here, the first of which deviate less and less."""
    x_TN, y_TM = activations(tokens)
    x_TN = ((x_TN - x_TN.mean(0)) / x_TN.std(0)).astype(np.float32)
    x_TN[:, : len(SMALL)] *= SMALL
    return x_TN, y_TM


@pytest.mark.parametrize("tokens", [2_000, 6_000, 30_000])
@pytest.mark.parametrize("policy", POLICIES)
def test_a_small_neuron_keeps_the_bound_or_has_no_correlation(policy, tokens):
    x_TN, y_TM = shrunk(tokens)
    true_NM = oracle(x_TN, y_TM)
    sums = sum_up(x_TN, y_TM, policy=policy)
    faint_N = np.array(sums.null()) == FAINT
    # The scale is a 64th; halves resolve a deviation of a quarter of that by the root of tokens.
    least = 0 if policy == "fp32" else 2**-8 / tokens**0.5
    assert faint_N[: len(SMALL)].tolist() == (least > SMALL).tolist()
    assert not faint_N[len(SMALL) :].any()
    r_NM = sums.r()
    assert np.isnan(r_NM[faint_N]).all()
    bound = {**BOUNDS, "fp16": 3e-3 / tokens**0.5}[policy]
    np.testing.assert_allclose(r_NM[~faint_N], true_NM[~faint_N], atol=bound)


@pytest.mark.parametrize("policy", POLICIES)
def test_neurons_that_hardly_ever_fire_keep_the_bound_or_have_no_correlation(policy):
    """GELUs below zero by so many deviations: nearly all they are is nearly nothing."""
    rng = np.random.default_rng(12)
    cause_TN = rng.standard_normal((20_000, 12))
    bias_N = np.repeat([0, 6, 7, 12], [6, 2, 2, 2])
    own_TM = rng.standard_normal((20_000, 12)) * 0.1
    x_TN, y_TM = (gelu(v - bias_N).astype(np.float32) for v in (cause_TN, cause_TN + own_TM))
    sums = sum_up(x_TN, y_TM, policy=policy, first=4_000)
    r_NM, live_N = sums.r(), np.array(sums.null()) == 0
    assert live_N[:10].all()
    live_M = ~np.isnan(r_NM[0])
    bound = {**BOUNDS, "fp16": 5e-5}[policy]  # it rounds the few tokens that count
    true_NM = oracle(x_TN[:, live_N], y_TM[:, live_M])
    np.testing.assert_allclose(r_NM[live_N][:, live_M], true_NM, atol=bound)


@pytest.mark.parametrize("policy", POLICIES)
def test_a_neuron_below_all_resolution_is_not_said_to_be_constant(policy):
    x_TN, y_TM = activations(2_000)
    x_TN[:, 4] = x_TN[:, 4] * np.float32(1e-30)
    x_TN[:, 6] = 1e-30
    assert len(np.unique(x_TN[:, 4])) > 1_000
    sums = sum_up(x_TN, y_TM, policy=policy)
    assert [sums.null()[neuron] for neuron in (3, 4, 5, 6)] == [0, FAINT, 0, CONSTANT]
    others_N = ~np.isin(np.arange(24), [4, 6])
    true_NM = oracle(x_TN[:, others_N], y_TM)
    np.testing.assert_allclose(sums.r()[others_N], true_NM, atol=BOUNDS[policy])


@pytest.mark.parametrize("policy", POLICIES)
def test_a_mean_that_moved_too_far_for_the_bound_leaves_no_correlation(policy):
    x_TN, y_TM = activations(40_000)
    x_TN = (x_TN - x_TN.mean(0)) / x_TN.std(0)
    x_TN[500:, 2] += 300  # hundreds of deviations: of Σu² so little is r's that rounding shows
    sums = sum_up(x_TN, y_TM, policy=policy)
    assert sums.null() == [MOVED if neuron == 2 else 0 for neuron in range(24)]
    others_N = np.arange(24) != 2
    true_NM = oracle(x_TN, y_TM)[others_N]
    np.testing.assert_allclose(sums.r()[others_N], true_NM, atol=BOUNDS[policy])
