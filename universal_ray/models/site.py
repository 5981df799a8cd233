"""What a unit is: where in a model it shows its values, how many there are, what it can be asked.

All that is particular to a site is told here; capture, planning and stages take any. A new one is a
subclass of `Site`, and a line in `SITES` where a study is to name it.

Shapes: B rows, P positions, L layers, D units per layer, M neurons of an MLP, C channels of the
residual stream, H heads, K values of a head.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from functools import partial
from typing import Any

import torch

from universal_ray.config.site import LATENTS, content_of
from universal_ray.errors import ModelError
from universal_ray.maths.latents import encode
from universal_ray.models import places
from universal_ray.models.coder import load
from universal_ray.models.latents import labelled, with_coders
from universal_ray.models.source import ModelSource, resolve

Show = Callable[[int, torch.Tensor], None]
"""Receives the values [B, P, D] of a layer as the model makes them, by the layer's index."""


class Ask(Enum):
    """What a stage may ask of units, in words for people, that not all have."""

    weights = "weights that they read and write by"
    roles = "roles and interventions"


@dataclass(frozen=True)
class Shape:
    """The units of a site in one model."""

    layers: int
    width: int
    signed: bool
    """whether their values are of either sign, so that both ends of these are responses"""


@dataclass(frozen=True, kw_only=True)
class Site(ABC):
    """Where in a model a unit is, the same for every model that has such a place."""

    name: str
    unit: str
    """what one of them is called"""
    lacks: Mapping[Ask, str] = field(hash=False)
    """what cannot be asked of them, and why"""
    floor: str = ""
    """why the lower end of their values is no response, where these are not of either sign"""

    def find(self, name: str) -> ModelSource:
        """A model with all that its units are made by. Raises as `resolve`, and what is wrong with
        what is beside the model.
        """
        return resolve(name)

    def reads(self, source: ModelSource) -> int:
        """Channels that each unit is made of by weights beside the model's; 0 where there are none.
        """
        return 0

    @abstractmethod
    def shape(self, source: ModelSource) -> Shape:
        """Its units in a model, by its configuration alone. Raises ModelError where a model has no
        such place.
        """

    @abstractmethod
    def attach(self, source: ModelSource, bridge: Any, show: Show) -> None:
        """Give `show` the values of every layer, once in each forward pass, from now on.

        `bridge`: transformer_lens' bridge to the model, with the model's own attention and norms.
        Raises ModelError where what is loaded is not what the configuration says.
        """

    def pair(self) -> tuple[Site, Site]:
        """Sites of the same units: what tells when they fire, being above zero, and what they
        write. For a unit that no activation function makes, both are its value.
        """
        return self, self

    def check_has(self, *asked: Ask) -> None:
        """Raises ModelError for the first that cannot be asked of its units."""
        for ask in asked:
            if ask in self.lacks:
                raise ModelError(
                    f"{self.why_not(ask)}: leave out the stage that asks for it, or choose another "
                    "site."
                )

    def why_not(self, ask: Ask) -> str:
        """Of what its units lack, in words for people."""
        return f"The {self.unit}s of site {self.name} have no {ask.value}, as {self.lacks[ask]}"


@dataclass(frozen=True, kw_only=True)
class InMLP(Site):
    """Values in a plain or gated MLP, one MLP in each block."""

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
            self.watch(source.name, block.mlp, partial(show, layer))

    def watch(self, name: str, mlp: Any, show: Callable[[torch.Tensor], None]) -> None:
        """Give `show` the values of one MLP of the model `name`."""
        getattr(mlp, self.hook).add_hook(partial(_hooked, show))


@dataclass(frozen=True, kw_only=True)
class Neurons(InMLP):
    """Neurons, whose pre-activation tells when they fire, whichever of the two is correlated."""

    def pair(self) -> tuple[Site, Site]:
        return MLP_PRE, MLP_POST


@dataclass(frozen=True, kw_only=True)
class Factor(InMLP):
    """A factor of a gated neuron's activation, act(gate) or up."""

    signed: bool

    def shape(self, source: ModelSource) -> Shape:
        if not source.gated:
            raise ModelError(
                f"Model {source.name!r} has no site {self.name}, as its MLPs have no gate: choose "
                "the site mlp_post or mlp_pre, or models with gated MLPs."
            )
        return Shape(source.layers, source.d_mlp, self.signed)


class Gate(Factor):
    """How far the gate of a neuron is open: act(gate)."""

    def watch(self, name: str, mlp: Any, show: Callable[[torch.Tensor], None]) -> None:
        inside = mlp.original_component
        found = (getattr(inside, each, None) for each in ACTIVATION_FUNCTIONS)
        function: Any = next(filter(callable, found), None)
        if function is None:
            raise ModelError(
                f"Model {name!r} has MLPs of {type(inside).__name__}, whose activation function "
                f"has none of the usual names: its architecture is not supported for {self.name}."
            )
        super().watch(name, mlp, lambda gate_BPM: show(function(gate_BPM)))


class Signs(Factor):
    """Four units for each neuron: its activation where gate and up have one case of signs, zero
    elsewhere. First those of all neurons for gate and up above zero, then for the gate alone, for
    up alone, and for neither (gate being what enters the activation function).
    """

    def shape(self, source: ModelSource) -> Shape:
        one = super().shape(source)
        return Shape(one.layers, 4 * one.width, one.signed)

    def watch(self, name: str, mlp: Any, show: Callable[[torch.Tensor], None]) -> None:
        above: dict[str, torch.Tensor] = {}

        def keep(factor: str, x_BPM: torch.Tensor) -> None:
            above[factor] = x_BPM > 0

        def cases(post_BPM: torch.Tensor) -> None:
            gate_BPM, up_BPM = above.pop("gate"), above.pop("up")
            kept = [(one_BPM & other_BPM) for one_BPM in (gate_BPM, ~gate_BPM)
                    for other_BPM in (up_BPM, ~up_BPM)]  # fmt: skip
            show(torch.cat([post_BPM.masked_fill(~each, 0) for each in kept], dim=-1))

        mlp.hook_pre.add_hook(partial(_hooked, partial(keep, "gate")))
        mlp.hook_pre_linear.add_hook(partial(_hooked, partial(keep, "up")))
        super().watch(name, mlp, cases)


class HeadValues(Site):
    """What the heads of a block's attention hand to W_O: of each head its values, head by head."""

    def shape(self, source: ModelSource) -> Shape:
        return Shape(source.layers, source.heads * self._width(source), signed=True)

    def _width(self, source: ModelSource) -> int:
        if source.head_width is None:
            raise ModelError(
                f"Model {source.name!r} has no site {self.name}, as not every block has an "
                "attention whose heads write by one matrix: choose another site."
            )
        return source.head_width

    def attach(self, source: ModelSource, bridge: Any, show: Show) -> None:
        for layer, block in enumerate(bridge.blocks):
            output = getattr(getattr(block.attn, "o", None), "original_component", None)
            if output is None:
                raise ModelError(
                    f"Model {source.name!r} has no attention with a matrix W_O in layer {layer}: "
                    f"its architecture is not supported for {self.name}."
                )
            self.watch(source, output, partial(show, layer))

    def watch(
        self, source: ModelSource, output: torch.nn.Module, show: Callable[[torch.Tensor], None]
    ) -> None:
        """Give `show` the values of one block, whose W_O is that of `output`."""
        # Not by the bridge's hook: GPT-2's own attention calls what the bridge has wrapped.
        output.register_forward_pre_hook(lambda _, given: show(given[0]))


class HeadNorms(HeadValues):
    """How much each head writes: the length of its values times its part of W_O."""

    def shape(self, source: ModelSource) -> Shape:
        self._width(source)
        return Shape(source.layers, source.heads, signed=False)

    def watch(
        self, source: ModelSource, output: torch.nn.Module, show: Callable[[torch.Tensor], None]
    ) -> None:
        size = source.heads, self._width(source)
        out_XC = _in_out(output).detach()
        if len(out_XC) != size[0] * size[1]:
            raise ModelError(
                f"Model {source.name!r} has a W_O of {len(out_XC)} rows where its configuration "
                f"says {size[0]} heads of {size[1]}: its architecture is not supported for "
                f"{self.name}."
            )
        # Of W = RᵀQᵀ, whose Qᵀ keeps lengths: K numbers of each head in the place of C.
        out_HCK = out_XC.double().unflatten(0, size).transpose(1, 2)
        keeping_HJK = torch.linalg.qr(out_HCK, mode="r").R.to(out_XC.dtype)

        def norms(z_BPX: torch.Tensor) -> None:
            z_BPHK = z_BPX.unflatten(-1, size)
            show(torch.einsum("bphk,hjk->bphj", z_BPHK, keeping_HJK).norm(dim=-1))

        super().watch(source, output, norms)


class Residual(Site):
    """The residual stream after each block."""

    def shape(self, source: ModelSource) -> Shape:
        return Shape(source.layers, source.d_model, signed=True)

    def attach(self, source: ModelSource, bridge: Any, show: Show) -> None:
        for layer, block in enumerate(bridge.blocks):
            block.hook_out.add_hook(partial(_hooked, partial(show, layer)))


@dataclass(frozen=True, kw_only=True)
class Latents(Site):
    """Latents of sparse autoencoders or transcoders, one of each of some layers of a model, which
    are the layers of the site.
    """

    where: str = field(default="", compare=False)
    """a folder, or on the hub"""

    def find(self, name: str) -> ModelSource:
        plain, label = labelled(name, self.where)
        return replace(with_coders(self.where, resolve(plain), label), name=name)

    def shape(self, source: ModelSource) -> Shape:
        assert source.coders is not None
        return Shape(len(source.coders.each), source.coders.width, signed=False)

    def reads(self, source: ModelSource) -> int:
        assert source.coders is not None
        return source.coders.channels

    def attach(self, source: ModelSource, bridge: Any, show: Show) -> None:
        coders = source.coders
        assert coders is not None
        directory, sha256 = coders.directory, dict(coders.files)
        parameter = next(bridge.original_model.parameters())
        dtype = torch.promote_types(parameter.dtype, torch.float32)
        for index, coder in enumerate(coders.each):
            encoder = load(directory, coder, sha256[coder.weights])
            encoder = encoder.to(parameter.device, dtype)

            def read(
                x_BPC: torch.Tensor, index: int = index, encoder: Any = encoder
            ) -> None:
                latent_TD = encode(x_BPC.flatten(0, -2), encoder)
                show(index, latent_TD.unflatten(0, x_BPC.shape[:-1]))

            places.watch(source, bridge, coder.layer, coder.place, read)


def _hooked(show: Callable[[torch.Tensor], None], x_BPD: torch.Tensor, hook: Any) -> None:
    show(x_BPD)


def _in_out(linear: torch.nn.Module) -> torch.Tensor:
    """The weight of a linear map, its inputs first."""
    from transformers.pytorch_utils import Conv1D

    weight: Any = linear.weight
    return weight if isinstance(linear, Conv1D) else weight.T


def _widths(name: str, bridge: Any) -> list[int]:
    """D of each layer, read off W_out [D, d_model]."""
    try:
        return [block.mlp.W_out.shape[0] for block in bridge.blocks]
    except AttributeError as error:
        raise ModelError(
            f"Model {name!r} has layers without a plain or gated MLP: choose a decoder whose every "
            "layer has one."
        ) from error


ACTIVATION_FUNCTIONS = ("act_fn", "activation_fn", "act", "activation")
"""What MLPs of transformers call theirs."""
ACTIVATION_FLOOR = (
    "its MLP has no gate, so that the lower end of its activations is the floor of the activation "
    "function and no response"
)
GATE_FLOOR = "the lower end of act(gate) is the floor of the activation function and no response"
SPARSE = "a latent has no values below zero"
LENGTH = "a length has no values below zero"
PART = {
    Ask.weights: "each is a part of a neuron, whose weights the site mlp_post tells of",
    Ask.roles: "each is a part of a neuron, whose roles the site mlp_post tells of",
}
HEAD = {
    Ask.weights: "the statistics of weights are of neurons",
    Ask.roles: "roles are of neurons, by what they write to the logits and to heads",
}
CODED = {
    Ask.weights: "each is read by an encoder beside the model, and the statistics of weights are "
    "of neurons",
    Ask.roles: "roles are of neurons, by what they write to the logits and to heads",
}
STREAM = {
    Ask.weights: "every block reads and writes each of them",
    Ask.roles: "roles are of neurons, by what they write to the logits and to heads",
}

MLP_POST = Neurons(
    name="mlp_post", unit="neuron", lacks={}, floor=ACTIVATION_FLOOR, hook="hook_post"
)
"""What enters W_out, for a gated MLP the product act(gate) * up."""
MLP_PRE = Neurons(
    name="mlp_pre", unit="neuron", lacks={}, floor=ACTIVATION_FLOOR, hook="hook_pre"
)
"""What enters the activation function, for a gated MLP the gate's."""
SITES: dict[str, Site] = {
    each.name: each
    for each in (
        MLP_POST,
        MLP_PRE,
        Gate(
            name="mlp_gate", unit="gate", lacks=PART, floor=GATE_FLOOR, hook="hook_pre",
            signed=False,
        ),
        Factor(
            name="mlp_up", unit="up projection", lacks=PART, hook="hook_pre_linear", signed=True
        ),
        Signs(name="mlp_sign", unit="sign case", lacks=PART, hook="hook_post", signed=True),
        HeadValues(name="attention_z", unit="head dimension", lacks=HEAD),
        HeadNorms(name="attention_norm", unit="head", lacks=HEAD, floor=LENGTH),
        Residual(name="residual", unit="dimension", lacks=STREAM),
    )
}
"""By the values of `models.site`, all but that of latents."""


def site_of(name: str) -> Site:
    """The site that a value of `models.site` means, or a record. Raises ModelError for one that is
    none.
    """
    if content_of(name) == LATENTS:
        return Latents(name=LATENTS, unit="latent", lacks=CODED, floor=SPARSE,
                       where=name.partition(":")[2])  # fmt: skip
    if name not in SITES:
        raise ModelError(f"Site {name!r} is unknown: choose of {', '.join(SITES)}.")
    return SITES[name]
