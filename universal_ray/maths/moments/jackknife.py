"""The standard error of r, from sums that leave out one group of tokens at a time. Pure."""


from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class GroupedSums:
    """Of R neurons, by group of tokens; float64."""

    sum_GR: Tensor
    """Σu"""
    squares_GR: Tensor
    """Σu²"""


def jackknife_error(
    n_G: Float[Tensor, "G"],
    cross_GR: Float[Tensor, "G R"],
    *,
    left: GroupedSums,
    right: GroupedSums,
) -> Float[Tensor, "R"]:
    """Standard error of r by leaving out one group of tokens at a time.

    Groups may differ in size (the delete-m_j jackknife of Busing, Meijer and van der Leeden 1999).
    `left`, `right`: of the first and the second neuron of each pair. Groups without tokens do not
    count; NaN for one group.
    """
    used_G = n_G > 0
    n_G, cross_GR = n_G[used_G], cross_GR[used_G]
    if n_G.numel() < 2:
        return cross_GR.new_full(cross_GR.shape[1:], torch.nan)
    sums_GR = [side.sum_GR[used_G] for side in (left, right)]
    squares_GR = [side.squares_GR[used_G] for side in (left, right)]
    n = n_G.sum()
    r_R = _r_of(n, cross_GR.sum(0), [s.sum(0) for s in sums_GR], [q.sum(0) for q in squares_GR])
    left_out_GR = _r_of(
        (n - n_G)[:, None],
        cross_GR.sum(0) - cross_GR,
        [s.sum(0) - s for s in sums_GR],
        [q.sum(0) - q for q in squares_GR],
    )
    return error_of(n_G, r_R, left_out_GR)


def error_of(
    n_G: Float[Tensor, "G"], value_R: Float[Tensor, "R"], left_out_GR: Float[Tensor, "G R"]
) -> Float[Tensor, "R"]:
    """Standard error of what all tokens give, from what they give without one group at a time.

    Every group has tokens, and there are two at least.
    """
    groups, n = n_G.numel(), n_G.sum()
    weight_G1 = (n / n_G)[:, None]
    pseudo_GR = weight_G1 * value_R - (weight_G1 - 1) * left_out_GR
    estimate_R = groups * value_R - ((1 - 1 / weight_G1) * left_out_GR).sum(0)
    variance_R = ((pseudo_GR - estimate_R) ** 2 / (weight_G1 - 1)).sum(0) / groups
    return variance_R.sqrt()


def _r_of(n: Tensor, cross: Tensor, sums: list[Tensor], squares: list[Tensor]) -> Tensor:
    """Pearson's r from `n` tokens, Σuv, and Σu and Σu² of both sides."""
    covariance = cross - sums[0] * sums[1] / n
    variances = [q - s * s / n for s, q in zip(sums, squares, strict=True)]
    return covariance / (variances[0].clamp_min(0) * variances[1].clamp_min(0)).sqrt()
