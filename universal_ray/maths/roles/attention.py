"""Neurons that switch attention heads on or off, through the key of the first token.

A head that has nothing to do attends to BOS. A neuron that writes along W_Q k_BOS makes a later
head attend to it more, which switches it off; one that writes against it switches it on (arXiv
2401.12181, section 5.3).

Shapes: N neurons of a model, layer by layer, H heads of all layers, layer by layer, C channels of
the residual stream, K channels of a head, R random directions, I paths, Q quantities.
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from universal_ray.maths.roles.path_sums import QUANTITIES, PathSums
from universal_ray.maths.statistics.variance_reduction import DEAD


def bos_directions(
    query_HCK: Float[Tensor, "H C K"], key_HK: Float[Tensor, "H K"]
) -> Float[Tensor, "H C"]:
    """W_Q k_BOS / √K of every head, with the key of a lone BOS (its bias in it); float64."""
    direction_HC = torch.einsum("hck,hk->hc", query_HCK.double(), key_HK.double())
    return direction_HC / math.sqrt(key_HK.shape[1])


def bos_scores(
    w_out_NC: Float[Tensor, "N C"], direction_HC: Float[Tensor, "H C"], layers: int
) -> Float[Tensor, "N H"]:
    """ŵ_out · W_Q k_BOS / √K of every neuron and head of a later layer, NaN for all others.

    Positive: more attention to BOS. With rotary positions the query counts as not turned.
    """
    w_out_NC = w_out_NC.double()
    score_NH: Tensor = (w_out_NC / w_out_NC.norm(dim=1, keepdim=True)) @ direction_HC.T
    layer_N, layer_H = (_layers(count, layers) for count in score_NH.shape)
    earlier_NH = layer_N[:, None] < layer_H
    return score_NH.masked_fill(~earlier_NH.to(score_NH.device), torch.nan)


def _layers(count: int, layers: int) -> Tensor:
    return torch.arange(layers).repeat_interleave(count // layers)


def null_scores(
    direction_HC: Float[Tensor, "H C"], draws: int, seed: int = 0
) -> Float[Tensor, "R H"]:
    """Scores of random directions in the place of neurons: what no neuron at all would have."""
    generator = torch.Generator().manual_seed(seed)
    random_RC = torch.randn(
        draws, direction_HC.shape[1], generator=generator, dtype=torch.float64
    ).to(direction_HC.device)
    score_RH: Tensor = random_RC / random_RC.norm(dim=1, keepdim=True) @ direction_HC.T
    return score_RH


def standardised(
    score_NH: Float[Tensor, "N H"], null_RH: Float[Tensor, "R H"]
) -> Float[Tensor, "N H"]:
    """Scores in standard deviations of the head's null, whose mean is 0 by symmetry."""
    return score_NH / null_RH.square().mean(0).sqrt()


def furthest(null_RH: Float[Tensor, "R H"]) -> Tensor:
    """How far from zero any random direction is in any head's null; a head whose query meets k_BOS
    in no direction has none."""
    return standardised(null_RH, null_RH).abs().nan_to_num(0).max()


def strongest_pairs(
    score_NH: Float[Tensor, "N H"], null_RH: Float[Tensor, "R H"], count: int
) -> Int[Tensor, "pairs 2"]:
    """The (neuron, head) pairs furthest from zero in the head's null, `count` at most.

    Only those further than any random direction of any head is; ties go to the lowest index.
    """
    far_NH = standardised(score_NH, null_RH).abs()
    limit = furthest(null_RH)
    flat = far_NH.masked_fill(~(far_NH > limit), -1).flatten()
    order = torch.sort(flat, descending=True, stable=True).indices[:count]
    order = order[flat[order] >= 0]
    return torch.stack([order // score_NH.shape[1], order % score_NH.shape[1]], dim=1)


def path_means(sums: PathSums) -> dict[str, Float[Tensor, "I"]]:
    """Mean of each of `QUANTITIES` over all positions that count."""
    means_IQ = sums.totals_IQ / sums.count
    return {name: means_IQ[:, place] for place, name in enumerate(QUANTITIES)}


def path_rank_correlation(sums: PathSums, first: str, second: str) -> Float[Tensor, "I"]:
    """Spearman correlation of two of `QUANTITIES` over the positions that are kept one by one; NaN
    where one is constant, or no number somewhere."""
    places = [list(QUANTITIES).index(name) for name in (first, second)]
    points_IXQ = sums.points_IXQ[:, :, places].double()
    found_I = torch.full((len(points_IXQ),), torch.nan, dtype=torch.float64)
    for path, points_XQ in enumerate(points_IXQ):
        if points_XQ.isfinite().all():
            rank_QX = torch.stack([_ranks(value_X) for value_X in points_XQ.T])
            found_I[path] = torch.corrcoef(rank_QX)[0, 1]
    return found_I


def _ranks(value_X: Float[Tensor, "X"]) -> Float[Tensor, "X"]:
    """Places in ascending order, equal values at the mean of theirs."""
    _, group_X, count_G = value_X.unique(return_inverse=True, return_counts=True)
    mean_G: Tensor = (count_G.cumsum(0) - (count_G - 1) / 2).to(value_X)
    return mean_G[group_X]


def path_correlation(sums: PathSums, first: str, second: str) -> Float[Tensor, "I"]:
    """Pearson correlation of two of `QUANTITIES` over all positions; NaN where one is constant.

    The paper has activation with bos_change, bos_change with norm_change, activation with
    norm_change.
    """
    i, j = (list(QUANTITIES).index(name) for name in (first, second))
    mean_IQ = sums.totals_IQ / sums.count
    covariance_IQQ = sums.products_IQQ / sums.count - mean_IQ[:, :, None] * mean_IQ[:, None, :]
    constant_I = torch.zeros(len(mean_IQ), dtype=torch.bool)
    for place in (i, j):
        square_I = sums.products_IQQ[:, place, place] / sums.count
        constant_I |= covariance_IQQ[:, place, place] <= DEAD * square_I
    variance_I = covariance_IQQ[:, i, i] * covariance_IQQ[:, j, j]
    found_I = (covariance_IQQ[:, i, j] / variance_I.sqrt()).clamp(-1, 1)
    return found_I.masked_fill(constant_I, torch.nan)
