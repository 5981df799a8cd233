"""Bootstrap intervals over rows of tokens, which are independent where their tokens are not.

Shapes: R rows, I interventions or other things measured, W draws of the bootstrap and the estimate.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from universal_ray.errors import ConfigurationError


@dataclass(frozen=True)
class Interval:
    """An estimate with the ends of its percentile interval."""

    value_I: Tensor
    low_I: Tensor
    high_I: Tensor


class Bootstrap:
    """One set of resamples, for everything measured on the same rows; the seed alone tells it."""

    def __init__(
        self, rows: int, *, draws: int = 1000, seed: int = 0, level: float = 0.95
    ) -> None:
        """Raises ConfigurationError for fewer than two rows, which have no spread."""
        if rows < 2:
            raise ConfigurationError(
                f"A bootstrap over {rows} rows of tokens has no spread: give two rows or more."
            )
        generator = torch.Generator().manual_seed(seed)
        drawn_WR = torch.randint(rows, (draws, rows), generator=generator)
        weight_WR = torch.zeros(draws, rows, dtype=torch.float64)
        weight_WR.scatter_add_(1, drawn_WR, torch.ones(draws, rows, dtype=torch.float64))
        # The first row weighs all alike: the estimate itself.
        self._weight_WR = torch.cat([torch.ones(1, rows, dtype=torch.float64), weight_WR])
        self._level = level

    def resampled(self, sums_IR: Float[Tensor, "*I R"]) -> Float[Tensor, "*I W"]:
        """Sums over the rows as given, then over every resample."""
        return sums_IR.double().cpu() @ self._weight_WR.T

    def interval(self, values_IW: Float[Tensor, "I W"]) -> Interval:
        """The interval of anything made of `resampled` sums; NaN draws make it NaN."""
        tail = (1 - self._level) / 2
        ends = torch.tensor([tail, 1 - tail], dtype=torch.float64)
        low_I, high_I = values_IW[:, 1:].quantile(ends, dim=1)
        return Interval(values_IW[:, 0], low_I, high_I)

    def mean(self, sums_IR: Float[Tensor, "I R"], count_R: Float[Tensor, "R"]) -> Interval:
        """Mean over tokens. Of differences of two interventions' sums: the paired difference."""
        return self.interval(self.resampled(sums_IR) / self.resampled(count_R))

    def mediated_share(
        self, total_IR: Float[Tensor, "I R"], direct_IR: Float[Tensor, "I R"]
    ) -> Interval:
        """1 - direct / total: the share of an effect that goes through what the direct effect
        freezes (arXiv 2406.16254), from sums of |shifts|. NaN where there is no effect at all."""
        return self.interval(1 - self.resampled(direct_IR) / self.resampled(total_IR))
