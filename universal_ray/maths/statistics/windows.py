"""Windows of tokens in which a neuron is looked at: around its largest activations, kept while rows
stream by, and around tokens of a sample: at quantiles, at random, and where it is silent.

Shapes: B rows, P positions, T = B·P tokens, D neurons of a layer, K windows of a neuron, C of
some neurons, W tokens of a window.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

NONE = -1
NEURONS_AT_ONCE = 128
"""Whose tokens are put in order together: they stay in a CPU's cache."""


def starts(focus_X: Int[Tensor, "*x"], window: int, context: int) -> Int[Tensor, "*x"]:
    """Where windows begin that have a token in their middle, or as near to it as their row allows.
    """
    return (focus_X - window // 2).clamp(0, context - window)


@dataclass(frozen=True)
class Peaks:
    """The K rows on which every neuron is largest, each by its largest token; descending, ties to
    the first row, and in a row to the first token.
    """

    row_DK: Tensor
    """-1 where there were fewer rows with a token that counts"""
    focus_DK: Tensor
    """position in its row, -1 as well"""
    value_DK: Tensor
    """float32; -inf there"""
    window_DKW: Tensor
    """activations around it, float32"""

    @classmethod
    def none(cls, width: int, count: int, window: int, device: str = "cpu") -> "Peaks":
        return cls(
            torch.full((width, count), NONE, device=device),
            torch.full((width, count), NONE, device=device),
            torch.full((width, count), -torch.inf, device=device),
            torch.zeros(width, count, window, device=device),
        )

    def update_(
        self, x_BPD: Float[Tensor, "B P D"], kept_BP: Bool[Tensor, "B P"], first_row: int
    ) -> None:
        """Add rows, later than all before, in place."""
        count, context = self.row_DK.shape[1], x_BPD.shape[1]
        window = self.window_DKW.shape[2]
        counted_BPD = x_BPD.masked_fill(~kept_BP[:, :, None], -torch.inf)
        value_DM = torch.cat([self.value_DK, counted_BPD.amax(1).T.float()], dim=1)
        order_DK = torch.sort(value_DM, dim=1, descending=True, stable=True).indices[:, :count]
        best_DK = value_DM.gather(1, order_DK)
        kept_DK = order_DK.clamp_max(count - 1)
        neuron_C, place_C = torch.nonzero((order_DK >= count) & best_DK.isfinite(), as_tuple=True)
        batch_C = order_DK[neuron_C, place_C] - count
        at_CP = counted_BPD[batch_C, :, neuron_C] == best_DK[neuron_C, place_C][:, None]
        focus_C = at_CP.to(torch.uint8).cumsum(1).eq(0).sum(1)  # the first
        for mine, new_C in (
            (self.row_DK, batch_C + first_row),
            (self.focus_DK, focus_C),
        ):
            mine.copy_(mine.gather(1, kept_DK))
            mine[neuron_C, place_C] = new_C
        self.value_DK.copy_(best_DK)
        self.window_DKW.copy_(self.window_DKW[torch.arange(len(kept_DK))[:, None], kept_DK])
        self.window_DKW[neuron_C, place_C] = windows(
            x_BPD, batch_C, starts(focus_C, window, context), neuron_C, window
        )


def windows(
    x_BPD: Float[Tensor, "B P D"],
    batch_C: Int[Tensor, "C"],
    start_C: Int[Tensor, "C"],
    neuron_C: Int[Tensor, "C"],
    window: int,
) -> Float[Tensor, "C W"]:
    """Values of some neurons in windows of some rows."""
    place_CW = start_C[:, None] + torch.arange(window, device=start_C.device)
    return x_BPD[batch_C[:, None], place_CW, neuron_C[:, None]].float()


def merge_peaks(parts: list[Peaks]) -> Peaks:
    """The peaks of disjoint rows together; parts in the order of their rows."""
    count = parts[0].row_DK.shape[1]
    value_DM = torch.cat([part.value_DK for part in parts], dim=1)
    order_DK = torch.sort(value_DM, dim=1, descending=True, stable=True).indices[:, :count]
    window_DMW = torch.cat([part.window_DKW for part in parts], dim=1)
    return Peaks(
        torch.cat([part.row_DK for part in parts], dim=1).gather(1, order_DK),
        torch.cat([part.focus_DK for part in parts], dim=1).gather(1, order_DK),
        value_DM.gather(1, order_DK),
        window_DMW[torch.arange(len(order_DK))[:, None], order_DK],
    )


def at_quantiles(
    x_TD: Float[Tensor, "T D"], kept_T: Bool[Tensor, "T"], count: int
) -> Int[Tensor, "D K"]:
    """Tokens at the quantiles (k + 1/2) / K of each neuron's positive activations, ascending; -1
    for all but the first of those that are one token, and where there is no positive activation.
    """
    share_K = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    found = []
    for x_TR in x_TD.split(NEURONS_AT_ONCE, dim=1):
        positive_RT = torch.where((x_TR > 0) & kept_T[:, None], x_TR, torch.inf).T.contiguous()
        order_RT = torch.sort(positive_RT, dim=1, stable=True).indices
        number_R = (positive_RT < torch.inf).sum(1)
        place_RK = (number_R[:, None] * share_K.to(number_R.device)).long()
        again_RK = torch.zeros_like(place_RK, dtype=torch.bool)
        again_RK[:, 1:] = place_RK[:, 1:] == place_RK[:, :-1]
        token_RK = order_RT.gather(1, place_RK)
        found.append(token_RK.masked_fill(again_RK | (number_R == 0)[:, None], NONE))
    return torch.cat(found)


def drawn(
    among_TD: Bool[Tensor, "T D"], count: int, generator: torch.Generator
) -> Int[Tensor, "D K"]:
    """Random tokens of those that each neuron may have, with replacement; -1 where it has none."""
    share_DK = torch.rand(among_TD.shape[1], count, generator=generator, dtype=torch.float64)
    found = []
    parts = among_TD.split(NEURONS_AT_ONCE, dim=1), share_DK.split(NEURONS_AT_ONCE)
    for among_TR, share_RK in zip(*parts, strict=True):
        number_RT = among_TR.T.to(torch.int32).cumsum(1, dtype=torch.int32)
        nth_RK = (share_RK.to(number_RT.device) * number_RT[:, -1:]).to(torch.int32) + 1
        token_RK = torch.searchsorted(number_RT, nth_RK)
        found.append(token_RK.masked_fill(number_RT[:, -1:] == 0, NONE))
    return torch.cat(found)
