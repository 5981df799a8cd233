"""Moment sums and correlations against numpy in float64.

Shapes: T tokens, N neurons of the first model, M of the second.
"""

from dataclasses import dataclass

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import torch

from universal_ray.errors import NumericalError
from universal_ray.maths.moments.accumulate import (
    POLICIES,
    LayerSums,
    ModelMoments,
    accumulate_,
    merge,
    operands,
)
from universal_ray.maths.moments.calibration import calibrate, normalise
from universal_ray.maths.moments.correlation import (
    CONSTANT,
    FAINT,
    MOVED,
    OVERSHOOT,
    NeuronMoments,
    centred_cross,
    centred_gram,
    correlation,
    neuron_moments,
    split_index,
)

BOUNDS = {"fp32": 1e-6, "split": 1e-6, "fp16": 1e-3}
"""Largest error of r that each precision policy may make."""

quickly = hypothesis.settings(
    max_examples=25, deadline=None, database=None, derandomize=True
)


@dataclass
class Sums:
    """What a run holds of a pair of models before it correlates."""

    left: list[LayerSums]
    right: list[LayerSums]
    cross_NM: torch.Tensor
    policy: str

    def r(self) -> np.ndarray:
        rows, columns = (neuron_moments(side, self.policy) for side in (self.left, self.right))
        centred_NM = centred_cross(self.cross_NM, rows, columns, first=0)
        return correlation(centred_NM, rows, columns, first=0, policy=self.policy).numpy()

    def null(self) -> list[int]:
        """Why neurons of the first model have no correlation."""
        return neuron_moments(self.left, self.policy).null_N.tolist()


def sum_up(
    x_TN, y_TM, kept_T=None, policy="fp32", layers=(1, 1), batch=500, unit=10**9, first=500
) -> Sums:
    """Calibrate on the `first` tokens, sum in batches, store by unit, merge: as a worker does."""
    x_TN, y_TM = (torch.as_tensor(v, dtype=torch.float32) for v in (x_TN, y_TM))
    kept_T = torch.ones(len(x_TN), dtype=torch.bool) if kept_T is None else torch.as_tensor(kept_T)
    fits = [
        calibrate(v[:first], kept_T[:first], depth)
        for v, depth in zip((x_TN, y_TM), layers, strict=True)
    ]
    sums: list[list[list[LayerSums]]] = [[], []]
    crosses = []
    for begin in range(0, len(x_TN), unit):
        end = min(begin + unit, len(x_TN))
        models = [
            ModelMoments(depth, v.shape[1] // depth, "cpu")
            for v, depth in zip((x_TN, y_TM), layers, strict=True)
        ]
        cross_NM = torch.zeros(x_TN.shape[1], y_TM.shape[1])
        for start in range(begin, end, batch):
            rows = slice(start, min(start + batch, end))
            factors = [
                model.update(normalise(v[rows], fit), kept_T[rows], policy)
                for model, v, fit in zip(models, (x_TN, y_TM), fits, strict=True)
            ]
            accumulate_(cross_NM, factors[0], factors[1], x_TN.shape[1] // layers[0])
        for model in models:
            model.check_range(policy)
        crosses.append({"cross": cross_NM})
        for held, model in zip(sums, models, strict=True):
            held.append([model.layer_sums(layer) for layer in range(model.layers)])
    left, right = ([merge(parts) for parts in zip(*held, strict=True)] for held in sums)
    return Sums(left, right, merge(crosses)["cross"], policy)


def oracle(x_TN, y_TM) -> np.ndarray:
    """numpy's Pearson correlations in float64."""
    x_TN, y_TM = np.asarray(x_TN, np.float64), np.asarray(y_TM, np.float64)
    return np.corrcoef(x_TN, y_TM, rowvar=False)[: x_TN.shape[1], x_TN.shape[1] :]


def gelu(x):
    return x * 0.5 * (1 + np.tanh(0.79788456 * (x + 0.044715 * x**3)))


def activations(tokens: int, neurons: int = 24, seed: int = 0):
    """Two models of GELU-like neurons that share causes; scales over 100, large means.

    Partners have correlations from 0 up to 1 - 1e-9; the last two are equal and opposite.
    """
    rng = np.random.default_rng(seed)
    cause_TN = rng.standard_normal((tokens, neurons))
    noise_N = 10 ** np.linspace(1, -4.5, neurons)
    own_TM = rng.standard_normal((tokens, neurons)) * noise_N
    x_TN = gelu(cause_TN - 0.5)
    y_TM = gelu(cause_TN - 0.5) + own_TM * x_TN.std()
    y_TM[:, -2], y_TM[:, -1] = x_TN[:, -2], -x_TN[:, -1]
    scale_N = 10 ** rng.uniform(-1, 1, neurons)
    mean_N = rng.uniform(-30, 30, neurons) * scale_N
    x_TN, y_TM = x_TN * scale_N + mean_N, y_TM * scale_N[::-1] + mean_N
    return x_TN.astype(np.float32), y_TM.astype(np.float32)


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
