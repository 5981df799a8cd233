"""Activations of some neurons by what their tokens are: sums over groups of tokens that add.

A group is shared by all neurons (a role in the word, a class of the next token), or is each
neuron's own (its best feature, with and without). All sums are float64.

Shapes: B rows, P positions, T = B·P tokens, R neurons of a layer, G shared groups, O own kinds of
groups, S pairs of a subset and an id, H = 257 bins.
"""

from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Float, Int, Int8
from torch import Tensor

from universal_ray.maths.statistics.activations import BINS, ZERO_BIN, bins_from_zero

WITHOUT, WITH, NEITHER = 0, 1, -1
"""What a token is to a neuron's own kind of group."""
TOKENS_AT_ONCE = 512
"""Of one product: float64 copies stay small."""
POWERS = 5
"""Of a group are summed its tokens, pre, pre², post, post²."""


@dataclass(frozen=True, kw_only=True)
class GroupSums:
    """Of the neurons of a layer, by group: see `POWERS`, and histograms of pre-activations."""

    shared_5GR: Tensor
    shared_histogram_GRH: Tensor
    own_52OR: Tensor
    """without and with"""
    own_histogram_2ORH: Tensor
    position_5PR: Tensor
    token_5SR: Tensor

    @classmethod
    def zeros(
        cls, neurons: int, *, shared: int, own: int, context: int, tokens: int, device: str = "cpu"
    ) -> "GroupSums":
        """No tokens yet."""

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.float64, device=device)

        return cls(
            shared_5GR=zeros(POWERS, shared, neurons),
            shared_histogram_GRH=zeros(shared, neurons, BINS),
            own_52OR=zeros(POWERS, 2, own, neurons),
            own_histogram_2ORH=zeros(2, own, neurons, BINS),
            position_5PR=zeros(POWERS, context, neurons),
            token_5SR=zeros(POWERS, tokens, neurons),
        )

    def update_(
        self,
        pre_TR: Float[Tensor, "T R"],
        post_TR: Float[Tensor, "T R"],
        kept_T: Bool[Tensor, "T"],
        *,
        shared_TG: Bool[Tensor, "T G"],
        own_TOR: Int8[Tensor, "T O R"],
        token_T: Int[Tensor, "T"],
    ) -> None:
        """Add the rows of a batch, in place: tokens that are kept count.

        `own_TOR`: with, without or neither; `token_T`: place of the token among the pairs of a
        subset and an id, -1 for none.
        """
        context = self.position_5PR.shape[1]
        kept_BP1 = kept_T.view(-1, context, 1).double()
        for power, x_TR in enumerate(_powers(pre_TR, post_TR)):
            rows_BPR = x_TR.view(-1, context, x_TR.shape[1])
            self.position_5PR[power].add_((kept_BP1 * rows_BPR).sum(0))
        pairs = torch.arange(self.token_5SR.shape[1], device=token_T.device)
        for start in range(0, len(kept_T), TOKENS_AT_ONCE):
            some = slice(start, start + TOKENS_AT_ONCE)
            kept_C = kept_T[some]
            five = list(_powers(pre_TR[some], post_TR[some]))
            shared_GC = (shared_TG[some] & kept_C[:, None]).T
            own = [(own_TOR[some] == which) & kept_C[:, None, None] for which in (WITHOUT, WITH)]
            token_SC = ((token_T[some][:, None] == pairs) & kept_C[:, None]).T
            inside_GC, of_token_SC = shared_GC.double(), token_SC.double()
            inside = [own_COR.double() for own_COR in own]
            for power, x_CR in enumerate(five):
                self.shared_5GR[power].add_(inside_GC @ x_CR)
                self.token_5SR[power].add_(of_token_SC @ x_CR)
                for which, inside_COR in enumerate(inside):
                    self.own_52OR[power, which].add_((inside_COR * x_CR[:, None]).sum(0))
            bin_CR = bins_from_zero(five[1]).long() + ZERO_BIN
            for group, in_C in enumerate(shared_GC):
                inside_CR = in_C[:, None].expand(bin_CR.shape)
                _count_(self.shared_histogram_GRH[group], bin_CR, inside_CR)
            for which, own_COR in enumerate(own):
                for kind in range(own_COR.shape[1]):
                    counts_RH = self.own_histogram_2ORH[which, kind]
                    _count_(counts_RH, bin_CR, own_COR[:, kind])


def _powers(pre_TR: Tensor, post_TR: Tensor) -> list[Tensor]:
    pre_TR, post_TR = pre_TR.double(), post_TR.double()
    return [torch.ones_like(pre_TR), pre_TR, pre_TR**2, post_TR, post_TR**2]


def _count_(counts_RH: Tensor, bin_CR: Tensor, inside_CR: Tensor) -> None:
    """Add the bins of the tokens inside to the counts of every neuron."""
    neurons, bins = counts_RH.shape
    place_CR = bin_CR + torch.arange(neurons, device=bin_CR.device) * bins
    found = torch.bincount(place_CR[inside_CR], minlength=neurons * bins)
    counts_RH.add_(found.view(neurons, bins))


def joined(layers: list[GroupSums]) -> GroupSums:
    """Of all layers, neurons numbered through."""
    return GroupSums(**{
        each.name: torch.cat([getattr(layer, each.name) for layer in layers],
                             dim=-2 if each.name.endswith("H") else -1)
        for each in fields(GroupSums)
    })  # fmt: skip


def merge_groups(parts: list[GroupSums]) -> GroupSums:
    """Sums of disjoint rows together, added in the order given."""
    return GroupSums(**{
        each.name: torch.stack([getattr(part, each.name) for part in parts]).sum(0)
        for each in fields(GroupSums)
    })  # fmt: skip


def moments(sums_5X: Float[Tensor, "5 *x"]) -> dict[str, Tensor]:
    """Tokens, means and deviations by name, NaN where there is no token."""
    n, pre, pre2, post, post2 = sums_5X.unbind()
    found = {"tokens": n}
    for name, total, square in (("pre", pre, pre2), ("post", post, post2)):
        mean = total / n
        found[f"{name}_mean"] = mean
        found[f"{name}_deviation"] = (square / n - mean**2).clamp_min(0).sqrt()
    return found
