"""One loaded model that gives the values of its neurons.

Shapes: B rows, P positions, T = B * P tokens, L layers, D neurons per layer, N = L * D neurons.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from universal_ray.errors import ModelError

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge
from universal_ray.models.bridge import _unwrap, boot
from universal_ray.models.source import ModelSource

ACTIVATIONS = ("post", "pre")


Take = Callable[[str, int, torch.Tensor], None]
"""Receives the values [T, D] of an activation in a layer: its name, the layer, the values."""


class _Enough(Exception):
    """Every activation is there: what the model would compute from them is not needed."""


class Capture:
    """One loaded model that maps tokens to the values of its MLP neurons, and computes no logits.

    Activation `post`: what enters W_out, for a gated MLP the product act(gate) * up.
    Activation `pre`: what enters the activation function, for a gated MLP the gate's.
    Raises ModelError where the weights loaded do not have the shapes of `source`.
    """

    def __init__(
        self,
        source: ModelSource,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
        activations: Sequence[str] = ("post",),
    ) -> None:
        for activation in activations:
            if activation not in ACTIVATIONS:
                raise ModelError(
                    f"Activation {activation!r} is unknown: choose of {', '.join(ACTIVATIONS)}."
                )
        self.source = source
        self.device = torch.device(device)
        self.dtype = dtype
        bridge = boot(source, device, dtype)
        widths = _widths(source.name, bridge)
        if widths != [source.width] * source.layers:
            raise ModelError(
                f"Model {source.name!r} has MLP layers of {widths} neurons where its configuration "
                f"says {source.layers} of {source.width}: choose a model whose layers are alike."
            )
        if any((getattr(b.mlp, "W_gate", None) is not None) != source.gated for b in bridge.blocks):
            raise ModelError(f"Model {source.name!r} mixes kinds of MLPs: choose one of one kind.")
        _unwrap(bridge)
        for layer, block in enumerate(bridge.blocks):
            for activation in activations:
                hook = getattr(block.mlp, f"hook_{activation}")
                hook.add_hook(partial(self._give, activation, layer))
        self._bridge = bridge.eval()
        self._base_model: Any = bridge.original_model.base_model  # all but the unembedding
        self._count = len(activations)
        self._take: Take = _drop
        self._given = 0
        # A hook that never fires shows here.
        self.read(torch.zeros(1, 2, dtype=torch.int64), _drop)

    def _give(self, activation: str, layer: int, x_BPD: torch.Tensor, hook: Any) -> None:
        self._take(activation, layer, x_BPD.reshape(-1, self.source.width))
        self._given += 1
        if self._given == self._count * self.source.layers:
            raise _Enough

    def read(self, tokens_BP: torch.Tensor, take: Take) -> None:
        """Run tokens [B, P] (int64) and give `take` every activation of every layer as the model
        makes it: values [T, D], tokens row by row, in the dtype and on the device of the model.

        They are the model's own, without a copy: to be kept or read, not to be changed.
        """
        self._take, self._given = take, 0
        try:
            with torch.inference_mode(), suppress(_Enough):
                self._base_model(tokens_BP.to(self.device), use_cache=False)
        finally:
            self._take = _drop
        if self._given != self._count * self.source.layers:
            raise ModelError(
                f"Model {self.source.name!r} showed {self._given // self._count} of its "
                f"{self.source.layers} MLP layers in one pass: its architecture is not supported "
                "for this activation."
            )


def _drop(activation: str, layer: int, x_TD: torch.Tensor) -> None:
    """Take nothing."""


def _widths(name: str, bridge: TransformerBridge) -> list[int]:
    """D of each layer, read off W_out [D, d_model]."""
    try:
        return [block.mlp.W_out.shape[0] for block in bridge.blocks]
    except AttributeError as error:
        raise ModelError(
            f"Model {name!r} has layers without a plain or gated MLP: choose a decoder whose every "
            "layer has one."
        ) from error
