"""Every measure of two layers by its name, from their sums, with what chance gives. Pure.

Shapes: D and E neurons of two layers that have correlations; X measures; 2 directions, of the first
layer beside the second and back; K draws of what chance gives; P pairs of a matching.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from universal_ray.maths.similarity import matching, subspaces
from universal_ray.maths.similarity.subspaces import Both, Components

OF_SUBSPACES = "cka", *subspaces.OF_COMPONENTS
OF_NEURONS = "best", "mutual", "matching", "partial"
MEASURES = (*OF_SUBSPACES, *OF_NEURONS)
INVERTING = {"svcca", "pwcca", "regression"}
"""Measures that any components reach the largest value of, where tokens are fewer than these."""
_NEITHER: Both = (torch.nan, torch.nan)


@dataclass(frozen=True, kw_only=True)
class Beside:
    """Two layers over some tokens: sums of their raw activations, centred; float64."""

    n: float
    cross_DE: Tensor
    squares_D: Tensor
    squares_E: Tensor
    left_DD: Tensor | None = None
    right_EE: Tensor | None = None
    """of either layer with itself; None where no measure of OF_SUBSPACES is asked for"""

    @property
    def empty(self) -> bool:
        """Whether one of the layers has no neuron with a correlation."""
        return not self.cross_DE.numel()

    @cached_property
    def grams(self) -> tuple[Tensor, Tensor]:
        assert self.left_DD is not None and self.right_EE is not None
        return self.left_DD, self.right_EE

    @cached_property
    def r_DE(self) -> Tensor:
        """On the CPU; zero where a neuron does not vary over these tokens."""
        deviation_D, deviation_E = (
            each.clamp_min(0).sqrt() for each in (self.squares_D, self.squares_E)
        )
        r_DE = self.cross_DE / deviation_D[:, None] / deviation_E
        return r_DE.nan_to_num(0, 0, 0).clamp_(-1, 1).cpu()

    @cached_property
    def components(self) -> tuple[Components, Components]:
        left_DD, right_EE = self.grams
        return subspaces.components(left_DD), subspaces.components(right_EE)

    def inverts(self) -> bool:
        """Whether there are more tokens than components."""
        return self.n - 1 > sum(len(each.squares_P) for each in self.components)


Matchings = Mapping[str, Tensor]
"""Pairs [2, P] of `matching` and `partial`."""


def matchings(names: Sequence[str], r_DE: Tensor, worth: float) -> Matchings:
    """Those that measures are of; `worth`: what a pair of `partial` has to exceed."""
    found = {}
    if "matching" in names:
        found["matching"] = matching.assign(r_DE)
    if "partial" in names:
        found["partial"] = matching.assign_partly(r_DE, worth)
    return found


def measured(
    names: Sequence[str], beside: Beside, pairs: Matchings, worth: float
) -> Float[Tensor, "2 X"]:
    """Every measure; NaN where a layer has no neuron, or there are too few tokens.

    `pairs`: of all tokens, where `beside` is of some: so a jackknife holds who is paired.
    """
    found = []
    between_PQ = None
    for name in names:
        if beside.empty:
            found.append(_NEITHER)
        elif name == "cka":
            value = subspaces.cka(beside.cross_DE, *beside.grams)
            found.append((value, value))
        elif name in OF_NEURONS:
            found.append(_of_neurons(name, beside.r_DE, pairs, worth))
        elif name in INVERTING and not beside.inverts():
            found.append(_NEITHER)
        else:
            if between_PQ is None:
                between_PQ = subspaces.between(beside.cross_DE, *beside.components)
            found.append(subspaces.OF_COMPONENTS[name](between_PQ, *beside.components))
    return torch.tensor(found, dtype=torch.float64).T


def by_chance(
    names: Sequence[str],
    beside: Beside,
    rotated: tuple[Sequence[Tensor], Sequence[Tensor]],
    *,
    worth: float,
    draws: int,
    seed: str,
) -> Float[Tensor, "2 X K"]:
    """What chance gives: of neurons, the same with one layer rotated or at other tokens; of
    subspaces, which a rotation leaves as they are, with the tokens of one in a random order.

    `rotated`: by direction, correlations of a layer's neurons with every draw of the other so.
    """
    found = torch.full((2, len(names), draws), torch.nan, dtype=torch.float64)
    if beside.empty:
        return found
    between: list[Tensor] = []
    for place, name in enumerate(names):
        if name == "cka":
            found[:, place] = subspaces.shuffled_cka(
                *beside.grams, n=beside.n, draws=draws, entropy=subspaces.entropy_of(seed, "cka")
            )
        elif name in OF_NEURONS:
            for side, drawn in enumerate(rotated):
                for draw, r_RC in enumerate(drawn):
                    pairs = matchings([name], r_RC, worth)
                    found[side, place, draw] = _of_neurons(name, r_RC, pairs, worth)[0]
        elif name not in INVERTING or beside.inverts():
            between = between or [
                subspaces.shuffled_between(
                    *beside.components, n=beside.n, entropy=subspaces.entropy_of(seed, draw)
                )
                for draw in range(draws)
            ]
            for draw, between_PQ in enumerate(between):
                both = subspaces.OF_COMPONENTS[name](between_PQ, *beside.components)
                found[:, place, draw] = torch.tensor(both)
    return found


def worth_of(rotated: tuple[Sequence[Tensor], Sequence[Tensor]]) -> float:
    """What a pair of `partial` has to exceed: the mean best correlation by chance, over both
    directions and all draws.
    """
    found = [matching.best(r_RC)[0] for drawn in rotated for r_RC in drawn]
    return sum(found) / len(found) if found else 0.0


def _of_neurons(name: str, r_RC: Tensor, pairs: Matchings, worth: float) -> Both:
    if name == "best":
        return matching.best(r_RC)
    if name == "mutual":
        return matching.mutual(r_RC)
    r_P = r_RC[pairs[name][0], pairs[name][1]]
    if name == "matching":
        mean = float(r_P.mean())
        return mean, mean
    count = float((r_P > worth).sum())
    return count / len(r_RC), count / r_RC.shape[1]
