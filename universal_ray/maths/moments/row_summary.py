"""What is kept of a row of correlations: its extremes, its histogram, its first four moments.

Shapes: R rows, M columns, K entries of a top list, B = 101 bins.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from universal_ray.maths.moments.correlation import row_parts

BINS = 101
EDGES = torch.linspace(-1, 1, BINS - 1, dtype=torch.float64)
"""Bin b holds edges[b-1] < r <= edges[b]; the first holds r = -1, the last stays empty."""


@dataclass(frozen=True)
class RowSummary:
    """Summary of R rows over some columns; summaries over disjoint columns merge."""

    top_RK: Tensor
    """float64, descending; -inf where fewer than K columns are live"""
    top_index_RK: Tensor
    bottom_RK: Tensor
    """float64, ascending; +inf where fewer than K columns are live"""
    bottom_index_RK: Tensor
    histogram_RB: Tensor
    powers_R5: Tensor
    """float64: Σ r⁰, Σ r¹, … Σ r⁴ over the columns that have a correlation"""


def largest(
    values_RM: Float[Tensor, "R M"], index_RM: Int[Tensor, "R M"] | None, count: int
) -> tuple[Float[Tensor, "R K"], Int[Tensor, "R K"]]:
    """The `count` largest values of each row in descending order, ties to the lowest index.

    `index_RM` (ascending in each row among equal values) names the columns, by default 0 … M-1.
    """
    columns = values_RM.shape[1]
    kept = min(count, columns)
    probe = torch.topk(values_RM, min(kept + 1, columns), dim=1)
    chosen_RK = probe.indices[:, :kept].sort(dim=1).values
    if columns > kept:  # topk is free to choose among values equal to the last one
        tied_R = probe.values[:, kept - 1] == probe.values[:, kept]
        for row in torch.nonzero(tied_R).flatten().tolist():
            order = torch.sort(values_RM[row], descending=True, stable=True).indices
            chosen_RK[row] = order[:kept].sort().values
    top = torch.sort(values_RM.gather(1, chosen_RK), dim=1, descending=True, stable=True)
    place_RK = chosen_RK.gather(1, top.indices)
    return top.values, place_RK if index_RM is None else index_RM.gather(1, place_RK)


def summarise(
    r_RM: Float[Tensor, "R M"], live_M: Bool[Tensor, "M"], *, first: int, count: int
) -> RowSummary:
    """Summarise correlations over the live columns, which are numbered from `first` on.

    Rows of NaN (dead neurons) give a summary that means nothing; the tables null it.
    """
    parts = [
        _summarised(r_RM[part].contiguous(), live_M, first, count)
        for part in row_parts(*r_RM.shape)
    ]
    return joined(parts)


def joined(parts: Sequence[RowSummary]) -> RowSummary:
    """Summaries of some rows after those of others, over the same columns."""
    return RowSummary(
        **{
            field.name: torch.cat([getattr(part, field.name) for part in parts])
            for field in fields(RowSummary)
        }
    )


def _summarised(r_RM: Tensor, live_M: Tensor, first: int, count: int) -> RowSummary:
    rows = r_RM.shape[0]
    top_RK, top_index_RK = largest(r_RM.masked_fill(~live_M, -torch.inf), None, count)
    bottom_RK, bottom_index_RK = largest(
        r_RM.neg().masked_fill(~live_M, -torch.inf), None, count
    )
    live_RM = r_RM[:, live_M].nan_to_num(0)
    bin_RM = torch.bucketize(live_RM, EDGES)
    bin_RM += torch.arange(rows)[:, None] * BINS
    histogram_RB = torch.bincount(bin_RM.flatten(), minlength=rows * BINS).view(rows, BINS)
    powers, power_RM = [torch.full((rows,), float(live_M.sum()), dtype=torch.float64)], live_RM
    for exponent in range(1, 5):
        powers.append(power_RM.sum(1))
        if exponent < 4:
            power_RM = power_RM * live_RM
    return RowSummary(
        top_RK=top_RK,
        top_index_RK=top_index_RK + first,
        bottom_RK=-bottom_RK,
        bottom_index_RK=bottom_index_RK + first,
        histogram_RB=histogram_RB.to(torch.int32),
        powers_R5=torch.stack(powers, dim=1),
    )


def merge_summaries(parts: list[RowSummary], count: int) -> RowSummary:
    """Merge summaries of the same rows over disjoint columns, given in order of the columns."""
    top_index = torch.cat([part.top_index_RK for part in parts], dim=1)
    bottom_index = torch.cat([part.bottom_index_RK for part in parts], dim=1)
    top = largest(torch.cat([part.top_RK for part in parts], dim=1), top_index, count)
    bottom = largest(-torch.cat([part.bottom_RK for part in parts], dim=1), bottom_index, count)
    return RowSummary(
        top_RK=top[0],
        top_index_RK=top[1],
        bottom_RK=-bottom[0],
        bottom_index_RK=bottom[1],
        histogram_RB=torch.stack([part.histogram_RB for part in parts]).sum(0, dtype=torch.int32),
        powers_R5=torch.stack([part.powers_R5 for part in parts]).sum(0),
    )


def distribution_moments(powers_R5: Float[Tensor, "R 5"]) -> dict[str, Float[Tensor, "R"]]:
    """Population mean, variance, skewness and (Gaussian = 3) kurtosis from power sums."""
    mean, second, third, fourth = (powers_R5[:, k] / powers_R5[:, 0] for k in range(1, 5))
    variance = (second - mean**2).clamp_min(0)
    skew = (third - 3 * mean * second + 2 * mean**3) / variance**1.5
    kurtosis = (fourth - 4 * mean * third + 6 * mean**2 * second - 3 * mean**4) / variance**2
    return {"mean": mean, "var": variance, "skew": skew, "kurt": kurtosis}
