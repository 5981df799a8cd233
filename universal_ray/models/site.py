"""What a unit is: where in a model it shows its values, how many there are, what it can be asked.

All that is particular to a site is told here; capture, planning and stages take any. A new one is a
subclass of `Site`, and a line in `SITES` where a study is to name it.

Shapes: B rows, P positions, L layers, D units per layer.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from typing import Any

import torch

from universal_ray.errors import ModelError
from universal_ray.models.source import ModelSource

Show = Callable[[int, torch.Tensor], None]
"""Receives the values [B, P, D] of a layer as the model makes them, by the layer's index."""


class Ask(Enum):
    """What a stage may ask of units, in words for people."""

    token_statistics = "statistics by token"
    weights = "weights that they read and write by"
    pre_activation = "pre-activation that tells when they fire"
    roles = "roles and interventions"


@dataclass(frozen=True)
class Shape:
    """The units of a site in one model."""

    layers: int
    width: int
    gated: bool
    """whether what they write is of either sign, as act(gate)·up is"""


@dataclass(frozen=True, kw_only=True)
class Site(ABC):
    """Where in a model a unit is, the same for every model that has such a place."""

    name: str
    unit: str
    """what one of them is called"""
    lacks: Mapping[Ask, str] = field(hash=False)
    """what cannot be asked of them, and why"""

    @abstractmethod
    def shape(self, source: ModelSource) -> Shape:
        """Its units in a model, by its configuration alone."""

    @abstractmethod
    def attach(self, source: ModelSource, bridge: Any, show: Show) -> None:
        """Give `show` the values of every layer, once in each forward pass, from now on.

        `bridge`: transformer_lens' bridge to the model, with the model's own attention and norms.
        Raises ModelError where what is loaded is not what the configuration says.
        """

    def pair(self) -> tuple[Site, Site]:
        """Sites of the same units: what enters their activation function, and what they write.

        Raises ModelError where they have no pre-activation.
        """
        raise self._lacking(Ask.pre_activation)

    def check_has(self, *asked: Ask) -> None:
        """Raises ModelError for the first that cannot be asked of its units."""
        for ask in asked:
            if ask in self.lacks:
                raise self._lacking(ask)

    def _lacking(self, ask: Ask) -> ModelError:
        return ModelError(
            f"The {self.unit}s of site {self.name} have no {ask.value}, as {self.lacks[ask]}: "
            "leave out the stage that asks for it, or choose another site."
        )


@dataclass(frozen=True, kw_only=True)
class MLP(Site):
    """The neurons of a plain or gated MLP, one in each block."""

    hook: str
    """of the bridge's MLP"""

    def shape(self, source: ModelSource) -> Shape:
        return Shape(source.layers, source.d_mlp, source.gated)

    def attach(self, source: ModelSource, bridge: Any, show: Show) -> None:
        widths = _widths(source.name, bridge)
        if widths != [source.d_mlp] * source.layers:
            raise ModelError(
                f"Model {source.name!r} has MLP layers of {widths} neurons where its configuration "
                f"says {source.layers} of {source.d_mlp}: choose a model whose layers are alike."
            )
        if any((getattr(b.mlp, "W_gate", None) is not None) != source.gated for b in bridge.blocks):
            raise ModelError(f"Model {source.name!r} mixes kinds of MLPs: choose one of one kind.")
        for layer, block in enumerate(bridge.blocks):
            getattr(block.mlp, self.hook).add_hook(partial(_hooked, show, layer))

    def pair(self) -> tuple[Site, Site]:
        return MLP_PRE, MLP_POST


def _hooked(show: Show, layer: int, x_BPD: torch.Tensor, hook: Any) -> None:
    show(layer, x_BPD)


def _widths(name: str, bridge: Any) -> list[int]:
    """D of each layer, read off W_out [D, d_model]."""
    try:
        return [block.mlp.W_out.shape[0] for block in bridge.blocks]
    except AttributeError as error:
        raise ModelError(
            f"Model {name!r} has layers without a plain or gated MLP: choose a decoder whose every "
            "layer has one."
        ) from error


MLP_POST = MLP(name="mlp_post", unit="neuron", lacks={}, hook="hook_post")
"""What enters W_out, for a gated MLP the product act(gate) * up."""
MLP_PRE = MLP(name="mlp_pre", unit="neuron", lacks={}, hook="hook_pre")
"""What enters the activation function, for a gated MLP the gate's."""
SITES: dict[str, Site] = {"post": MLP_POST, "pre": MLP_PRE}
"""By the values of `models.activation`."""


def site_of(activation: str) -> Site:
    """The site that a value of `models.activation` means. Raises ModelError for one that is none.
    """
    if activation not in SITES:
        raise ModelError(f"Activation {activation!r} is unknown: choose of {', '.join(SITES)}.")
    return SITES[activation]
