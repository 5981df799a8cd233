"""From merged sums to Pearson's r in float64. Pure.

Shapes: R rows and M columns of neurons, N neurons, D of a layer.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from universal_ray.errors import NumericalError
from universal_ray.maths.moments.accumulate import LayerSums

OVERSHOOT = {"fp32": 1e-5, "fp16": 2e-3, "split": 1e-5}
"""How far |r| may exceed 1 by rounding before it is an error, per precision policy."""

LEAST_VARIANCE = {"fp32": 2.0**-100, "fp16": 2.0**-30, "split": 2.0**-30}
"""Least variance of u that a policy resolves. Halves are multiples of 2^-24, which errs by 1.7e-8
and at a deviation of 2^-15 weakens r by 2e-7; products of float32 end at 2^-126.
"""
LEAST_SQUARES = {"fp32": 0.0, "fp16": 2.0**-4, "split": 2.0**-4}
"""Least Σ(u - mean)², to whose root the error in r is as those 1.7e-8: 7e-8."""
MOST_MOVED = 32
"""Largest Σu² over Σ(u - mean)²: products are rounded as parts of the first, r is of the second."""

PART, LEAST_ROWS = 2**20, 64
"""Entries of a matrix that are worked on at a time, and rows at least."""
CONSTANT, FAINT, MOVED = 1, 2, 3
NULL_REASONS = {
    CONSTANT: "constant over the kept tokens",
    FAINT: "varies too little beside its layer for precision.moments={policy}",
    MOVED: "its mean moved too far from that of calibration for precision.moments={policy}",
}
"""Why a neuron has no correlation."""


@dataclass(frozen=True)
class NeuronMoments:
    """Merged moments of every neuron of a model, float64 [N], in units of `u`."""

    n: float
    sum_N: Tensor
    squares_N: Tensor
    """Σ(u − mean)²"""
    null_N: Tensor
    """uint8: 0, or the key of NULL_REASONS by which a neuron has no correlation"""


def neuron_moments(layers: list[LayerSums], policy: str) -> NeuronMoments:
    """Moments of every neuron from the merged sums of all layers of a model.

    A neuron without a correlation is constant, or its sums say that what a policy rounds could
    change r by more than the policy promises.
    """
    n = float(layers[0]["n"])
    sum_N = torch.cat([part["sum"] for part in layers])
    raw_N = torch.cat([part["gram"].diagonal() for part in layers])
    squares_N = raw_N - sum_N * sum_N / n
    constant_N = torch.cat([part["minimum"] >= part["maximum"] for part in layers])
    least = max(n * LEAST_VARIANCE[policy], LEAST_SQUARES[policy])
    null_N = torch.zeros(len(sum_N), dtype=torch.uint8)
    null_N[squares_N < least] = FAINT
    null_N[(raw_N >= least) & (raw_N > MOST_MOVED * squares_N)] = MOVED
    null_N[constant_N] = CONSTANT
    return NeuronMoments(n, sum_N, squares_N, null_N)


def of_layers(layers: Sequence[NeuronMoments]) -> NeuronMoments:
    """Those of a model from those of each of its layers."""
    sums, squares, nulls = zip(*((m.sum_N, m.squares_N, m.null_N) for m in layers), strict=True)
    return NeuronMoments(layers[0].n, torch.cat(sums), torch.cat(squares), torch.cat(nulls))


def centred_gram(part: LayerSums) -> Float[Tensor, "D D"]:
    """Σ(u − mean)(u − mean)ᵀ of one layer from its merged sums."""
    return _centred(part["gram"], part["sum"], part["sum"], part["n"])


def row_parts(rows: int, columns: int) -> list[slice]:
    """Rows of a matrix of float64, some at a time, so that what is made of them on the way stays
    small beside the matrix.
    """
    step = max(LEAST_ROWS, PART // max(columns, 1))
    return [slice(start, start + step) for start in range(0, rows, step)]


def centred_cross(
    cross_RM: Float[Tensor, "R M"], rows: NeuronMoments, columns: NeuronMoments, *, first: int
) -> Float[Tensor, "R M"]:
    """Σ(u − mean)(v − mean)ᵀ for the rows from `first` on; zero where one is constant."""
    block = slice(first, first + cross_RM.shape[0])
    centred_RM = _centred(cross_RM, rows.sum_N[block], columns.sum_N, rows.n)
    centred_RM[rows.null_N[block] == CONSTANT] = 0
    centred_RM[:, columns.null_N == CONSTANT] = 0
    return centred_RM


def _centred(products_RM: Tensor, sum_R: Tensor, sum_M: Tensor, n: Tensor | float) -> Tensor:
    """Less what the means alone give."""
    centred_RM = torch.empty_like(products_RM)
    for part in row_parts(*products_RM.shape):
        torch.sub(products_RM[part], torch.outer(sum_R[part], sum_M) / n, out=centred_RM[part])
    return centred_RM


def correlation(
    centred_RM: Float[Tensor, "R M"],
    rows: NeuronMoments,
    columns: NeuronMoments,
    *,
    first: int,
    policy: str,
) -> Float[Tensor, "R M"]:
    """Pearson's r in float64 for the rows from `first` on, NaN where a neuron has none.

    |r| is clipped to 1 within the policy's bound and a NumericalError beyond it.
    """
    block = slice(first, first + centred_RM.shape[0])
    deviation_R = rows.squares_N[block].clamp_min(0).sqrt()
    deviation_M = columns.squares_N.clamp_min(0).sqrt()
    r_RM = (centred_RM / deviation_R[:, None]).div_(deviation_M)
    r_RM[rows.null_N[block] > 0] = torch.nan
    r_RM[:, columns.null_N > 0] = torch.nan
    parts = row_parts(*r_RM.shape)
    largest = max(float(r_RM[part].nan_to_num(0).abs().max()) for part in parts)
    if largest > 1 + OVERSHOOT[policy]:
        raise NumericalError(
            f"a correlation of {largest:.6f} exceeds 1 by more than precision.moments={policy} "
            "allows: use a more exact policy"
        )
    return r_RM.clamp_(-1, 1)


def split_index(index: Int[Tensor, "..."], width: int) -> tuple[Tensor, Tensor]:
    """Layer and neuron within the layer of a flat neuron index."""
    return torch.div(index, width, rounding_mode="floor"), index % width
