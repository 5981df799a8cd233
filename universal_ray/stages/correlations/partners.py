"""Who goes with whom, of all neurons of two models and more: matchings, and partners that agree."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int64
from torch import Tensor

from universal_ray.maths.similarity.matching import assign_lists
from universal_ray.stages.correlations.artifacts import Matched
from universal_ray.stages.correlations.reduce import Direction

NOBODY = -1
"""In the place of a neuron."""


@dataclass(frozen=True, kw_only=True)
class Partners:
    """Of every neuron of one direction of a pair."""

    mutual_N: Tensor
    """whether its best partner's best partner is this neuron"""
    assigned_N: Tensor
    """partner in the matching of both models, by its flat index; NOBODY where it has none"""
    assigned_corr_N: Tensor


def matched(rows: Direction, columns: Direction) -> Matched:
    """The one-to-one matching of two models with the largest sum of correlations."""
    pairs_2P, r_P = assign_lists(
        (rows.summary.top_RK, rows.summary.top_index_RK),
        (columns.summary.top_RK, columns.summary.top_index_RK),
    )
    return Matched(pairs_2P[0], pairs_2P[1], r_P)


def mutual_partners(rows: Direction, columns: Direction) -> tuple[Tensor, Tensor]:
    """Whether each neuron is the best partner of its best partner, in both directions."""
    forth, back = rows.summary.top_index_RK[:, 0], columns.summary.top_index_RK[:, 0]
    return (
        back[forth] == torch.arange(forth.numel()),
        forth[back] == torch.arange(back.numel()),
    )


def partners(rows: Direction, columns: Direction, found: Matched) -> tuple[Partners, Partners]:
    """Of both directions."""
    made = []
    for direction, mutual_N, own_P, other_P in zip(
        (rows, columns), mutual_partners(rows, columns),
        (found.row_P, found.column_P), (found.column_P, found.row_P), strict=True,
    ):  # fmt: skip
        count = direction.model.neurons
        assigned_N = torch.full((count,), NOBODY)
        assigned_N[own_P] = other_P
        corr_N = torch.full((count,), torch.nan, dtype=torch.float64)
        corr_N[own_P] = found.corr_P
        made.append(Partners(mutual_N=mutual_N, assigned_N=assigned_N, assigned_corr_N=corr_N))
    return made[0], made[1]


def mutual_best(direction: Direction, mutual_N: Tensor) -> Int64[Tensor, "N"]:
    """Each neuron's best partner where it is mutual, else NOBODY."""
    alive_N = (direction.null_N == 0) & direction.summary.top_RK[:, 0].isfinite()
    return torch.where(alive_N & mutual_N, direction.summary.top_index_RK[:, 0], NOBODY)


def anchors(
    best: Mapping[tuple[str, str], Tensor], model: str, other: str, everyone: Sequence[str]
) -> Int64[Tensor, "N"] | None:
    """Of each neuron of a model, how many further models have a neuron that is the mutual best
    partner both of it and of its own mutual best partner in the other model.

    `best`: by models, as `mutual_best` tells. None where no further model is compared with both.
    """
    partner_N = best[model, other]
    further = [
        third for third in everyone
        if third not in (model, other) and (model, third) in best and (other, third) in best
    ]  # fmt: skip
    if not further:
        return None
    count_N = torch.zeros_like(partner_N)
    for third in further:
        mine_N, theirs_N = best[model, third], best[other, third][partner_N.clamp_min(0)]
        count_N += (partner_N != NOBODY) & (mine_N != NOBODY) & (mine_N == theirs_N)
    return count_N
