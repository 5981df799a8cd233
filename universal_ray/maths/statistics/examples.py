"""The tokens on which each neuron is largest, kept while tokens stream by; of negated activations
those on which it is smallest.

Shapes: T tokens of a batch, D neurons, K examples of a neuron, C candidates,
U neurons that have one.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Examples:
    """The K largest values of every neuron, descending, ties to the lowest token."""

    value_DK: Tensor
    """float32; -inf where there were fewer tokens"""
    token_DK: Tensor
    """index of the token in the corpus, row · context + position; -1 where there is none"""

    @classmethod
    def none(cls, width: int, count: int, device: str = "cpu") -> "Examples":
        return cls(
            torch.full((width, count), -torch.inf, device=device),
            torch.full((width, count), -1, device=device),
        )

    def place(self, context: int) -> tuple[Tensor, Tensor]:
        """Row and position of each example; -1 where there is none."""
        row_DK = torch.div(self.token_DK, context, rounding_mode="floor")
        return row_DK, torch.where(row_DK < 0, -1, self.token_DK % context)

    def update_(self, x_TD: Float[Tensor, "T D"], token_T: Int[Tensor, "T"]) -> None:
        """Add tokens, ascending and later than all before, in place.

        The first tokens come in spans no longer than what was before them, so that no more than
        about K of a span are expected to be kept for a neuron.
        """
        first = bool(self.token_DK[0, -1] < 0)
        start, span = 0, self.value_DK.shape[1] if first else len(token_T)
        while start < len(token_T):
            self._update_span(x_TD[start : start + span], token_T[start : start + span])
            start, span = start + span, start + span

    def _update_span(self, x_TD: Tensor, token_T: Tensor) -> None:
        # What equals the last value kept is later than it, and so not better.
        last_D = self.value_DK[:, -1].contiguous()
        place_C, neuron_C = torch.nonzero(x_TD > last_D, as_tuple=True)
        if not len(place_C):
            return
        neuron_C, order_C = torch.sort(neuron_C, stable=True)
        place_C = place_C[order_C]
        changed_U, counts_U = torch.unique_consecutive(neuron_C, return_counts=True)
        rank_C = torch.arange(len(neuron_C), device=neuron_C.device) - (
            counts_U.cumsum(0) - counts_U
        ).repeat_interleave(counts_U)
        row_C = torch.arange(len(changed_U), device=neuron_C.device).repeat_interleave(counts_U)
        more = Examples.none(len(changed_U), int(counts_U.max()), str(neuron_C.device))
        more.value_DK[row_C, rank_C] = x_TD[place_C, neuron_C].float()
        more.token_DK[row_C, rank_C] = token_T[place_C]
        value_UK, token_UK = _best(
            torch.cat([self.value_DK[changed_U], more.value_DK], dim=1),
            torch.cat([self.token_DK[changed_U], more.token_DK], dim=1),
            self.value_DK.shape[1],
        )
        self.value_DK[changed_U], self.token_DK[changed_U] = value_UK, token_UK


def _best(value_DM: Tensor, token_DM: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The largest values with their tokens; of equal ones the first in the row."""
    value_DM, order_DM = torch.sort(value_DM, dim=1, descending=True, stable=True)
    return value_DM[:, :count], token_DM.gather(1, order_DM[:, :count])


def merge_examples(parts: list[Examples]) -> Examples:
    """The examples of disjoint tokens together; the order of the parts does not matter."""
    token_DM, order_DM = torch.sort(torch.cat([part.token_DK for part in parts], dim=1), dim=1)
    value_DM = torch.cat([part.value_DK for part in parts], dim=1).gather(1, order_DM)
    return Examples(*_best(value_DM, token_DM, parts[0].value_DK.shape[1]))
