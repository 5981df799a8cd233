"""Activations of tokens as activations of segments: the last token's, or their mean.

Pure. Shapes: T tokens, S segments, D units.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor


@dataclass(frozen=True)
class Pool:
    """Which tokens a segment's activation is made of."""

    last_S: Tensor
    """the last token of each, int64"""
    length_S: Tensor | None
    """of how many tokens, with that one, it is the mean, float32; None: that one alone"""
    earlier: tuple[tuple[Tensor, Tensor], ...]
    """tokens further and further back from the last: which segments have one, and which it is"""

    def of(self, x_TD: Float[Tensor, "T D"]) -> Float[Tensor, "S D"]:
        """Activations of segments, in the order of their tokens: no bit depends on the device's
        order of additions.
        """
        x_SD = x_TD[self.last_S]
        if self.length_S is None:
            return x_SD
        for segments, tokens in self.earlier:
            x_SD[segments] += x_TD[tokens]
        return x_SD.div_(self.length_S[:, None])

    def to(self, device: str) -> "Pool":
        """On a device."""
        length_S = None if self.length_S is None else self.length_S.to(device)
        earlier = tuple((a.to(device), b.to(device)) for a, b in self.earlier)
        return Pool(self.last_S.to(device), length_S, earlier)


def last_of(last_S: Int64[Tensor, "S"]) -> Pool:
    """The last token's."""
    return Pool(last_S, None, ())


def mean_of(last_S: Int64[Tensor, "S"], length_S: Int64[Tensor, "S"]) -> Pool:
    """The mean of so many tokens that end with the last one."""
    earlier = []
    for back in range(1, int(length_S.max()) if len(length_S) else 0):
        segments = torch.nonzero(length_S > back).flatten()
        earlier.append((segments, last_S[segments] - back))
    return Pool(last_S, length_S.float(), tuple(earlier))
