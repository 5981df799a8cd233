"""How well features explain neurons, from sums over tokens.

Variance reduction of a binary feature f (arXiv 2401.12181, eq. 4), with population variances, is
the squared correlation of f and x: it follows from n, Σf, Σx, Σx² and Σfx.

Shapes: F features, N neurons. All float64.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from universal_ray.errors import NumericalError

MINIMUM_SUPPORT = 30
"""Fewer tokens with, or without, a feature tell nothing about it."""
DEAD = 1e-12
"""Share of Σx² below which Σ(x − mean)² is rounding."""
EXCEEDS = 1e-6

NO_TOKENS, ONE_CLASS, RARE, DEAD_NEURON = "no tokens", "one class", "rare", "dead neuron"
"""Why there is no score: no token or every token has the feature, too few do, x does not vary."""


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Scores of every feature on every neuron; NaN where `reason` says why there is none."""

    variance_reduction_FN: Tensor
    mean_difference_FN: Tensor
    """Mean of x with the feature minus mean without."""
    support_F: Tensor
    """Tokens with the feature."""
    feature_reasons: tuple[str | None, ...]
    dead_N: Tensor

    def reason(self, feature: int, neuron: int) -> str | None:
        """Why this pair has no score, None where it has one."""
        return self.feature_reasons[feature] or (DEAD_NEURON if self.dead_N[neuron] else None)


def score(
    n: float,
    *,
    f_F: Float[Tensor, "F"],
    x_N: Float[Tensor, "N"],
    xx_N: Float[Tensor, "N"],
    fx_FN: Float[Tensor, "F N"],
    minimum_support: int = MINIMUM_SUPPORT,
) -> Scores:
    """Scores from n, Σf, Σx, Σx², Σfx. Raises NumericalError where these sums disagree."""
    f_F, x_N, xx_N, fx_FN = (sums.double() for sums in (f_F, x_N, xx_N, fx_FN))
    reasons = tuple(why_none(n, support, minimum_support) for support in f_F.tolist())
    squares_N, dead_N = _squares(n, x_N, xx_N)
    variance_f_F = f_F * (n - f_F) / n
    covariance_FN = fx_FN - f_F[:, None] * (x_N / n)
    reduction_FN = covariance_FN**2 / (variance_f_F[:, None] * squares_N)
    difference_FN = covariance_FN / variance_f_F[:, None]
    null_FN = torch.tensor([r is not None for r in reasons])[:, None] | dead_N
    reduction_FN = reduction_FN.masked_fill(null_FN, torch.nan)
    if not bool((null_FN | (reduction_FN <= 1 + EXCEEDS)).all()):
        raise NumericalError(
            f"a variance reduction is {float(reduction_FN[~null_FN].max())}, but none is beyond 1: "
            "the sums of features and of neurons must be finite and over the same tokens"
        )
    return Scores(
        variance_reduction_FN=reduction_FN.clamp_max(1),
        mean_difference_FN=difference_FN.masked_fill(null_FN, torch.nan),
        support_F=f_F,
        feature_reasons=reasons,
        dead_N=dead_N,
    )


def _squares(
    n: float, x_N: Float[Tensor, "N"], xx_N: Float[Tensor, "N"]
) -> tuple[Float[Tensor, "N"], Bool[Tensor, "N"]]:
    """Σ(x − mean)², and which neurons have none."""
    squares_N = xx_N - x_N**2 / n
    return squares_N.clamp_min(0), squares_N <= DEAD * xx_N


def why_none(n: float, support: float, minimum: int) -> str | None:
    """Why a feature that `support` of n tokens have gets no score, None where it gets one."""
    if support == 0:
        return NO_TOKENS
    if support == n:
        return ONE_CLASS
    return RARE if min(support, n - support) < minimum else None
