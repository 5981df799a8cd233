"""How alike two layers are whatever their basis, from centred sums: CKA, CCA, Procrustes, R². Pure.

All are of raw activations: those of a neuron of large scale count for more. A rotation of a layer
changes none of them, so that a rotated layer is no null; theirs are the tokens of one layer in
another order. Of a random order of n tokens the cross sums have the mean 0 and, exactly,
Cov(C_de, C_fg) = A_df B_eg / (n - 1) with A and B the sums of either layer with itself, and are
normal where n is large: they are drawn as such, and no token is read again. Tokens of a row are
more alike than those of others, so that text which is merely different would give somewhat more.

Shapes: D and E neurons of two layers, P and Q components of them.
"""

import hashlib
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

RESOLVED = 1e-3
"""Variance of a component that counts, beside the mean of all: below it the rounding of sums of
float32 would show. All that are left out hold less than this share of the variance."""
LEADING = 0.99
"""Share of the variance in the components of SVCCA (Raghu et al. 2017)."""
Both = tuple[float, float]
"""A measure of the first layer beside the second, and of the second beside the first."""


@dataclass(frozen=True)
class Components:
    """Principal components of one layer, float64; the largest first."""

    squares_P: Tensor
    """Σ of the squares of each"""
    vectors_DP: Tensor

    @property
    def leading(self) -> int:
        """How many of them hold LEADING of the variance."""
        share_P = self.squares_P.cumsum(0) / self.squares_P.sum()
        return int((share_P < LEADING).sum()) + 1


def components(gram_DD: Float[Tensor, "D D"]) -> Components:
    """Those that are resolved, of the centred sums of a layer with itself."""
    squares_D, vectors_DD = torch.linalg.eigh(gram_DD)
    resolved_D = squares_D > RESOLVED * squares_D.mean().clamp_min(0)
    return Components(squares_D[resolved_D].flip(0), vectors_DD[:, resolved_D].flip(1))


def between(
    cross_DE: Float[Tensor, "D E"], left: Components, right: Components
) -> Float[Tensor, "P Q"]:
    """Centred sums of the components of two layers with each other."""
    found_PQ: Tensor = left.vectors_DP.T @ cross_DE @ right.vectors_DP
    return found_PQ


def cka(
    cross_DE: Float[Tensor, "D E"], left_DD: Float[Tensor, "D D"], right_EE: Float[Tensor, "E E"]
) -> float:
    """Linear centred kernel alignment, ‖C‖² / (‖A‖·‖B‖) (Kornblith et al. 2019); NaN where a layer
    does not vary.
    """
    return float(cross_DE.square().sum() / (left_DD.norm() * right_EE.norm()))


def shuffled_cka(
    left_DD: Float[Tensor, "D D"],
    right_EE: Float[Tensor, "E E"],
    *,
    n: float,
    draws: int,
    entropy: int,
) -> Float[Tensor, "K"]:
    """CKA with the tokens of one layer in a random order: gamma variates of its mean and variance.

    The mean of ‖C‖² is tr A · tr B / (n - 1), its variance 2 ‖A‖²‖B‖² / (n - 1)².
    """
    norms = float(left_DD.norm() * right_EE.norm())
    mean = float(left_DD.trace() * right_EE.trace()) / norms / (n - 1)
    variance = 2 / (n - 1) ** 2
    generator = np.random.Generator(np.random.PCG64(entropy))
    return torch.from_numpy(generator.gamma(mean**2 / variance, variance / mean, draws))


def shuffled_between(
    left: Components, right: Components, *, n: float, entropy: int
) -> Float[Tensor, "P Q"]:
    """What `between` gives with the tokens of one layer in a random order, one draw."""
    generator = np.random.Generator(np.random.PCG64(entropy))
    shape = len(left.squares_P), len(right.squares_P)
    normal_PQ = torch.from_numpy(generator.standard_normal(shape)).to(left.squares_P.device)
    scale_PQ = left.squares_P.sqrt()[:, None] * right.squares_P.sqrt()
    drawn_PQ: Tensor = normal_PQ * scale_PQ / (n - 1) ** 0.5
    return drawn_PQ


def entropy_of(*told: str | int) -> int:
    """The seed of what is drawn, by what it is drawn for and never by a place in a list."""
    return int.from_bytes(hashlib.sha256("|".join(map(str, told)).encode()).digest()[:16], "little")


def svcca(between_PQ: Float[Tensor, "P Q"], left: Components, right: Components) -> Both:
    """Mean canonical correlation of the leading components of both (Raghu et al. 2017)."""
    count, other = left.leading, right.leading
    white_PQ = _white(between_PQ, left, right)[:count, :other]
    mean = float(torch.linalg.svdvals(white_PQ).clamp_max(1).mean())
    return mean, mean


def pwcca(between_PQ: Float[Tensor, "P Q"], left: Components, right: Components) -> Both:
    """Mean canonical correlation of all components, each weighted by what its variate has to do
    with the neurons of the layer that is asked about (Morcos et al. 2018).
    """
    left_PR, r_R, right_RQ = torch.linalg.svd(_white(between_PQ, left, right), full_matrices=False)
    found = []
    for variates_RP, side in ((left_PR.T, left), (right_RQ, right)):
        products_RD = (variates_RP * side.squares_P.sqrt()) @ side.vectors_DP.T
        weight_R = products_RD.abs().sum(1)
        found.append(float((weight_R * r_R.clamp_max(1)).sum() / weight_R.sum()))
    return found[0], found[1]


def procrustes(between_PQ: Float[Tensor, "P Q"], left: Components, right: Components) -> Both:
    """‖C‖₁ / √(tr A · tr B), the sum of the singular values of C: 1 where a rotation and a scale
    make one layer of the other (orthogonal Procrustes, as the cosine of its angle).
    """
    whole = left.squares_P.sum() * right.squares_P.sum()
    value = float(torch.linalg.svdvals(between_PQ).sum() / whole.sqrt())
    return value, value


def regression(between_PQ: Float[Tensor, "P Q"], left: Components, right: Components) -> Both:
    """Share of the other layer's variance that a linear map of the layer asked about explains."""
    squares_PQ = between_PQ.square()
    forth = (squares_PQ / left.squares_P[:, None]).sum() / right.squares_P.sum()
    back = (squares_PQ / right.squares_P).sum() / left.squares_P.sum()
    return float(forth.clamp_max(1)), float(back.clamp_max(1))


def _white(
    between_PQ: Float[Tensor, "P Q"], left: Components, right: Components
) -> Float[Tensor, "P Q"]:
    white_PQ: Tensor = between_PQ / left.squares_P.sqrt()[:, None] / right.squares_P.sqrt()
    return white_PQ


OF_COMPONENTS = {
    "svcca": svcca, "pwcca": pwcca, "procrustes": procrustes, "regression": regression,
}  # fmt: skip
