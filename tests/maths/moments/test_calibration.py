"""Shift and scale of every neuron, and the factors that a precision policy makes of them.

Shapes: T tokens, N neurons.
"""

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import torch

from universal_ray.errors import NumericalError
from universal_ray.maths.moments.accumulate import operands
from universal_ray.maths.moments.calibration import Calibration, calibrate, normalise


@hypothesis.settings(max_examples=25, deadline=None, database=None, derandomize=True)
@hypothesis.given(seed=st.integers(0, 10**6), layers=st.sampled_from([1, 2, 4]))
def test_scale_is_the_least_power_of_two_above_its_three_bounds(seed, layers):
    rng = np.random.default_rng(seed)
    x_TN = rng.standard_normal((64, 12)) * 10 ** rng.uniform(-6, 4, 12)
    x_TN[rng.integers(64), rng.integers(12)] *= 10**5  # its reach decides
    x_TN[:, rng.integers(12)] = rng.choice([0.0, 5.0])  # the layer's median decides
    x_TN = x_TN.astype(np.float32).astype(np.float64)
    kept_T = rng.random(64) < 0.8
    fit = calibrate(torch.from_numpy(x_TN).float(), torch.from_numpy(kept_T), layers)
    kept_TN = x_TN[kept_T]
    deviation_N = kept_TN.std(0)
    median_L = np.quantile(deviation_N.reshape(layers, -1), 0.5, axis=1, method="lower")
    least_N = np.maximum.reduce(
        [
            deviation_N,
            np.abs(kept_TN - kept_TN.mean(0)).max(0) / 1000,
            np.repeat(median_L, 12 // layers) / 100,
        ]
    )
    scale_N = fit.scale_N.double().numpy()
    np.testing.assert_array_equal(np.frexp(scale_N)[0], 0.5)
    assert (scale_N >= least_N * (1 - 1e-12)).all()
    assert (scale_N < 2 * least_N * (1 + 1e-12))[least_N > 0].all()
    # The shift is the mean, within half an eighth of the deviation's power of two.
    off_N = np.abs(fit.shift_N.double().numpy() - kept_TN.mean(0))
    rounding_N = 1e-7 * np.abs(kept_TN.mean(0))
    assert (off_N <= deviation_N / 8 * (1 + 1e-9) + rounding_N).all()
    assert (off_N > deviation_N / 1000).any()


@pytest.mark.parametrize("scale", [1.0, 0.37, 1e-6, 3e4])
def test_zeros_become_a_number_of_few_bits(scale):
    """So float32 adds up their products exactly, in place of rounding each to the same side."""
    x_TN = torch.relu(torch.randn(4_000, 8) - torch.linspace(-1, 2, 8)) * scale
    zero_N = normalise(torch.zeros(1, 8), calibrate(x_TN, torch.ones(4_000).bool(), 1))[0]
    assert torch.equal(zero_N * 2**10, (zero_N * 2**10).round()) and zero_N.abs().max() <= 4
    assert zero_N.unique().numel() > 2


@pytest.mark.parametrize("value", [0.0, -0.17, 1234.5678, 1e-30])
def test_a_neuron_that_never_varies_is_zero(value):
    x_TN = torch.full((70, 3), value)
    fit = calibrate(x_TN, torch.ones(70).bool(), 1)
    assert not normalise(x_TN, fit).any()


def test_each_bound_of_the_scale_decides_where_it_is_largest():
    x_TN = np.tile([[1.0], [-1.0]], (5_000, 5))  # deviation 1 exactly: a power of two stays
    x_TN[:, 1] *= 1.5
    x_TN[:, 2] *= 1e-9
    x_TN[0, 3], x_TN[1:, 3] = 1e6, 0
    fit = calibrate(torch.from_numpy(x_TN).float(), torch.ones(10_000, dtype=torch.bool), 1)
    # The fourth deviates by 1e4; the median deviation is 1, of which a hundredth is 2^-6 or more.
    assert fit.scale_N.tolist() == [1, 2, 2**-6, 2**14, 1]
    many_TN = np.zeros((2_000_000, 1), np.float32)
    many_TN[0] = 1_100_000  # deviates by 778
    # So many tokens that the reach exceeds a thousand deviations.
    fit = calibrate(torch.from_numpy(many_TN), torch.ones(2_000_000, dtype=torch.bool), 1)
    assert fit.scale_N.tolist() == [2048]


def test_scale_of_vanishing_activations_can_be_inverted():
    x_TN = torch.tensor([[1e-42, 0.0, 0.0], [0.0, 0.0, 0.0]])
    kept_T = torch.ones(2, dtype=torch.bool)
    u_TN = normalise(x_TN, calibrate(x_TN, kept_T, 1))
    assert u_TN.isfinite().all()


def test_calibration_refuses_what_it_cannot_use():
    x_TN = torch.randn(4, 2)
    with pytest.raises(NumericalError, match="no token to keep"):
        calibrate(x_TN, torch.zeros(4, dtype=torch.bool), 1)
    x_TN[2, 1] = torch.nan
    kept_T = torch.ones(4, dtype=torch.bool)
    with pytest.raises(NumericalError, match=r"layer 0, neuron 1 .* not finite: check"):
        calibrate(x_TN, kept_T, 1)
    kept_T[2] = False
    assert calibrate(x_TN, kept_T, 1).shift_N.isfinite().all()


@pytest.mark.parametrize("wrong", [torch.nan, torch.inf])
def test_calibration_says_whether_what_is_not_finite_began_at_an_excluded_token(wrong):
    kept_T = torch.arange(6) != 2
    x_TN = torch.randn(6, 9)
    x_TN[4, 5] = wrong
    x_TN[2, 7] = wrong  # in a later layer: where it came from is not this
    with pytest.raises(NumericalError, match=r"layer 1, neuron 2 .* not finite: check"):
        calibrate(x_TN, kept_T, 3)
    x_TN[2, 1] = wrong
    with pytest.raises(NumericalError, match=r"layer 0, neuron 1 .* at an excluded token; tokens"):
        calibrate(x_TN, kept_T, 3)


def test_normalised_is_exact_and_where_it_is_wanted():
    x_TN = torch.randn(50, 3)
    fit = Calibration(torch.zeros(3), torch.tensor([0.25, 1.0, 64.0]))
    assert torch.equal(normalise(x_TN, fit) * fit.scale_N, x_TN)
    fit = Calibration(torch.tensor([0.1, -3.0, 7.0]), fit.scale_N)
    u_TN = torch.zeros(50, 3)
    columns = slice(1, 3)
    normalise(x_TN[:, columns], fit.of(columns), out=u_TN[:, columns])
    assert torch.equal(u_TN[:, columns], normalise(x_TN, fit)[:, columns])
    assert not u_TN[:, 0].any()


def test_operands_add_up_to_what_their_policy_promises():
    u_TN = torch.randn(1_000, 4) * torch.tensor([1e-3, 1.0, 30.0, 1e4])
    assert operands(u_TN, "fp32")[0] is u_TN
    (half_TN,) = operands(u_TN, "fp16")
    assert torch.equal(half_TN, u_TN.half().float())
    high_TN, low_TN = operands(u_TN, "split")
    assert ((high_TN.double() + low_TN.double() - u_TN).abs() <= 2e-7 * u_TN.abs() + 6e-8).all()
