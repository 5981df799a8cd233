"""What is summed over the paths from neurons into the queries of heads. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from universal_ray.errors import ConfigurationError

QUANTITIES = {
    "activation": ("activation", "activation of the neuron"),
    "bos": ("share", "attention of the head to the first token of the row"),
    "bos_change": ("share", "its change when the path is cut"),
    "norm": ("1", "length of what the head writes, centred and less what it writes whatever it "
             "attends to"),
    "norm_change": ("percent", "its change when the path is cut"),
}  # fmt: skip
"""Of one position, by name: unit and meaning."""
POINTS = 64
"""Positions of a batch whose quantities are kept one by one."""


@dataclass(frozen=True)
class Path:
    """From a neuron to a head of a later layer."""

    neuron: int
    """flat index, layer · D + neuron"""
    layer: int
    """of the head"""
    head: int


@dataclass(frozen=True, kw_only=True)
class PathSums:
    """Sums over the positions that count; float64. Those of disjoint positions add."""

    paths: tuple[Path, ...]
    count: float
    totals_IQ: Tensor
    """Σ by `QUANTITIES`"""
    products_IQQ: Tensor
    """Σ of their products"""
    points_IXQ: Tensor
    """some of the positions, evenly spaced, to look at"""


def merge_paths(parts: Sequence[PathSums]) -> PathSums:
    """Sums together, added in the order given.

    Raises ConfigurationError where parts are not of the same paths.
    """
    first = parts[0]
    if any(part.paths != first.paths for part in parts):
        raise ConfigurationError(
            "Sums of different paths do not merge: declare the same ones, in the same order, for "
            "every part of the corpus."
        )
    totals_IQ, products_IQQ = first.totals_IQ.clone(), first.products_IQQ.clone()
    for part in parts[1:]:
        totals_IQ += part.totals_IQ
        products_IQQ += part.products_IQQ
    points_IXQ = torch.cat([part.points_IXQ for part in parts], dim=1)
    count = sum(part.count for part in parts)
    return PathSums(
        paths=first.paths,
        count=count,
        totals_IQ=totals_IQ,
        products_IQQ=products_IQQ,
        points_IXQ=points_IXQ,
    )
