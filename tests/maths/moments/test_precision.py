"""The error of r by policy, chunk and |r|, and under kernels that round otherwise than a CPU's."""

import numpy as np
import pytest
import torch
from helpers_tiers import tiers

from universal_ray.benchmark.exactness import (
    activations,
    correlations,
    exact_correlations,
    rectified,
)
from universal_ray.maths.moments.accumulate import accumulate_, operands

BOUNDS = {"fp32": 1e-6, "split": 1e-6, "fp16": 1e-5}
"""Largest error of r over the tokens tried here (that of fp16 falls as they grow)."""


def test_the_reference_is_numpys():
    x_TN, y_TM = activations(3_000, 2, 8, "cpu")
    both = np.concatenate([x_TN, y_TM[:, :5]], 1).astype(np.float64)
    true_NM = np.corrcoef(both, rowvar=False)[:16, 16:]
    np.testing.assert_allclose(exact_correlations(x_TN, y_TM[:, :5]), true_NM, atol=1e-12)


@pytest.mark.parametrize("made", [activations, rectified])
@pytest.mark.parametrize(
    "chunk", tiers([1_024, 4_096, 16_384, 65_536], [4_096, 16_384, 65_536])
)
@pytest.mark.parametrize("policy", BOUNDS)
def test_every_policy_keeps_its_bound_at_every_chunk_and_r(policy, chunk, made):
    x_TN, y_TM = made(65_536, 2, 12, "cpu")
    exact_NM = exact_correlations(x_TN, y_TM)
    error_NM = (correlations(x_TN, y_TM, 2, policy, chunk) - exact_NM).abs()
    for low, high in [(0, 0.5), (0.5, 0.99), (0.99, 0.9999), (0.9999, 1.01)]:
        inside_NM = (exact_NM.abs() >= low) & (exact_NM.abs() < high)
        assert inside_NM.any()
        assert error_NM[inside_NM].max() < BOUNDS[policy]


@pytest.mark.parametrize("tokens", [1_500, 16_384])
@pytest.mark.parametrize("policy", ["fp32", "split"])
def test_zeros_of_relus_cost_nothing(policy, tokens):
    """Before their shifts were numbers of few bits they cost 3e-6."""
    x_TN, y_TM = rectified(tokens, 2, 24, "cpu")
    error_NM = correlations(x_TN, y_TM, 2, policy, 4_096) - exact_correlations(x_TN, y_TM)
    assert error_NM.abs().max() < 5e-7


@pytest.mark.parametrize("policy", tiers(["fp32", "split"], ["fp32"]))
def test_a_long_unit_of_many_additions_keeps_the_bound(policy):
    """Of r: what a kernel rounds in one direction is in the squares too, and cancels."""
    rng = np.random.default_rng(8)
    noise_N = 10 ** np.linspace(1, -4, 48)
    sums_NN, exact_NN = torch.zeros(96, 96), torch.zeros(96, 96, dtype=torch.float64)
    for _ in range(256):
        cause_TN = rng.standard_normal((1_024, 48))
        own_TN = cause_TN + noise_N * rng.standard_normal((1_024, 48))
        u_TN = torch.from_numpy(np.concatenate([cause_TN, own_TN], 1)).float()
        factors = operands(u_TN, policy)
        accumulate_(sums_NN, factors, factors, 96)
        exact_NN += u_TN.double().T @ u_TN.double()
    r_NN, exact_r_NN = (s / torch.outer(s.diagonal(), s.diagonal()).sqrt()
                        for s in (sums_NN.double(), exact_NN))
    assert (r_NN - exact_r_NN).abs().max() < BOUNDS[policy]


def truncating(left: torch.Tensor, right: torch.Tensor, out: None = None) -> torch.Tensor:
    """A product [.., R, T] · [.., T, M] as tensor cores make it: 16 tokens are added at a time, and
    each time the sum is cut to float32 towards zero.
    """
    total = torch.zeros(1)
    for a_RK, b_KM in zip(left.split(16, -1), right.split(16, -2), strict=True):
        sum_RM = total.double() + a_RK.double() @ b_KM.double()
        total = sum_RM.float()
        beyond_RM = total.abs() > sum_RM.abs()
        total = torch.where(beyond_RM, total.nextafter(torch.zeros(1)), total)
    return total


@pytest.mark.parametrize("made", [activations, rectified])
@pytest.mark.parametrize(
    ("policy", "chunk"),
    tiers([("split", 4_096), ("fp16", 16_384)], [("split", 4_096)]),
)
def test_what_tensor_cores_truncate_cancels_in_r(policy, chunk, made, monkeypatch):
    """Squares and products lose nearly the same share of themselves, whatever r is."""
    x_TN, y_TM = made(chunk, 1, 24, "cpu")
    u_TN = (x_TN - x_TN.mean(0)) / x_TN.std(0)
    lost_N = 1 - truncating(u_TN.T, u_TN).diagonal() / u_TN.double().square().sum(0)
    plain_NM = correlations(x_TN, y_TM, 1, policy, chunk)
    for product in ("mm", "bmm"):
        monkeypatch.setattr(torch, product, truncating)
    for product in ("addmm_", "baddbmm_"):
        monkeypatch.setattr(torch.Tensor, product, lambda self, *two: self.add_(truncating(*two)))
    moved_NM = (correlations(x_TN, y_TM, 1, policy, chunk) - plain_NM).abs()
    assert moved_NM.max() < min(BOUNDS[policy], lost_N.min() / 3)
