"""The sums of one pass: what models and pairs add up to over one unit of tokens. Pure."""

import torch

from universal_ray.maths.moments.accumulate import LayerSums, ModelMoments, accumulate_
from universal_ray.maths.moments.shift import partners
from universal_ray.planning.capacity import Part, Pass
from universal_ray.planning.items import Model

Factors = dict[str, tuple[torch.Tensor, ...]]
"""Operands [T, N] of every model of a pass, by identity."""


class Sums:
    """Float32 accumulators of every part of a pass, on one device."""

    def __init__(self, held: Pass, device: str):
        self._pairs = [part for part in held if len(part.item.models) == 2]
        grams = {part.item.models[0].identity for part in held if len(part.item.models) == 1}
        models = {model.identity: model for part in held for model in part.item.models}
        self.models = {
            key: ModelMoments(model.layers, model.width, device, gram=key in grams)
            for key, model in models.items()
        }
        self._cross = {
            part: torch.zeros(
                (part.stop - part.start) * part.item.models[0].width,
                part.item.models[1].neurons,
                device=device,
            )
            for part in self._pairs
        }

    def add_model(
        self, model: Model, u_TN: torch.Tensor, kept_T: torch.Tensor, policy: str
    ) -> tuple[torch.Tensor, ...]:
        """Add a batch of one model's `u`; returns its operands."""
        return self.models[model.identity].update(u_TN, kept_T, policy)

    def add_products(self, factors: Factors, kept_BP: torch.Tensor | None = None) -> None:
        """Add the cross products of one batch, once every model's operands are there; `kept_BP`:
        which of its tokens count, row by row, where a part is shifted.
        """
        for part in self._pairs:
            first, second = part.item.models
            rows = slice(part.start * first.width, part.stop * first.width)
            left = tuple(factor[:, rows] for factor in factors[first.identity])
            right = factors[second.identity]
            if part.item.shift:
                assert kept_BP is not None
                order_T = partners(kept_BP, part.item.shift).to(right[0].device)
                right = tuple(factor[order_T] for factor in right)
            accumulate_(self._cross[part], left, right, first.width)

    def of(self, part: Part, layer: int) -> LayerSums:
        """One layer of a part, as it is stored."""
        model = part.item.models[0]
        moments = self.models[model.identity]
        if len(part.item.models) == 1:
            return moments.layer_sums(layer)
        begin = (layer - part.start) * model.width
        cross_DM = self._cross[part][begin : begin + model.width]
        return {"n": torch.tensor(float(moments.n), dtype=torch.float64), "cross": cross_DM}
