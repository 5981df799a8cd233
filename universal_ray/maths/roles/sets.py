"""Sets of neurons to ablate, and random ones to compare them with.

Shapes: N neurons of a model, layer by layer, R neurons of a set.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool
from torch import Tensor

from universal_ray.errors import ConfigurationError


def by_layer(neurons: Sequence[int], width: int) -> dict[int, tuple[int, ...]]:
    """A set split by layer, `width` neurons a layer, ascending: to ablate layer by layer."""
    found: dict[int, tuple[int, ...]] = {}
    for neuron in sorted(neurons):
        layer = neuron // width
        found[layer] = (*found.get(layer, ()), neuron)
    return found


def matched_random(
    neurons: Sequence[int],
    *,
    width: int,
    eligible_N: Bool[Tensor, "N"],
    draws: int,
    seed: int = 0,
) -> list[tuple[int, ...]]:
    """Random sets with as many neurons of each layer as a set has, none of them in it.

    Raises ConfigurationError where a layer has too few eligible neurons besides.
    """
    free_N = eligible_N.clone().cpu()
    free_N[list(neurons)] = False
    generator = torch.Generator().manual_seed(seed)
    sets: list[tuple[int, ...]] = [()] * draws
    for layer, chosen in by_layer(neurons, width).items():
        free_R = layer * width + torch.nonzero(free_N[layer * width :][:width]).flatten()
        if len(free_R) < len(chosen):
            raise ConfigurationError(
                f"Layer {layer} has {len(free_R)} neurons to draw from besides the {len(chosen)} "
                "of the set: make the set smaller, or more neurons eligible."
            )
        for draw in range(draws):
            drawn = torch.randperm(len(free_R), generator=generator)[: len(chosen)]
            sets[draw] += tuple(sorted(free_R[drawn].tolist()))
    return sets
