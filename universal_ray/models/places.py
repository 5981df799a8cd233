"""Where in a block of a model something is read that is no unit of its own: by encoders.

Shapes: B rows, P positions, C channels.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from universal_ray.errors import ModelError
from universal_ray.models.source import ModelSource

Show = Callable[[torch.Tensor], None]
"""Receives what is read [B, P, C] of one layer."""


def width(source: ModelSource, place: str) -> int:
    """C, by the configuration alone. Raises ModelError where a model has no such place."""
    if place == "mlp_post":
        return source.d_mlp
    if place == "attn_z":
        if source.head_width is None:
            raise ModelError(
                f"Model {source.name!r} has no attn_z, as not every block has an attention whose "
                "heads write by one matrix: choose sparse autoencoders of another place."
            )
        return source.heads * source.head_width
    return source.d_model


def watch(source: ModelSource, bridge: Any, layer: int, place: str, show: Show) -> None:
    """Give `show` what is at a place of one layer, once in each forward pass, from now on.

    Raises ModelError where the model that is loaded has no such place.
    """
    block = bridge.blocks[layer]
    hooked = {
        "resid_pre": (block, "hook_in"), "resid_post": (block, "hook_out"),
        "mlp_in": (getattr(block, "mlp", None), "hook_in"),
        "mlp_out": (getattr(block, "mlp", None), "hook_out"),
        "mlp_post": (getattr(block, "mlp", None), "hook_post"),
    }  # fmt: skip
    shape = bridge.cfg
    doubled = place in ("mlp_out", "attn_out") and getattr(
        shape, "use_normalization_before_and_after", False
    )
    beside = place == "resid_mid" and getattr(shape, "parallel_attn_mlp", False)
    if place in hooked and not doubled:
        component, name = hooked[place]
        if component is not None:
            getattr(component, name).add_hook(partial(_hooked, show))
            return
    attention = getattr(block, "attn", None)
    # Not by hooks of the bridge: attention and norms run as the model has them.
    if place == "attn_out" and attention is not None and not doubled:
        attention.original_component.register_forward_hook(
            lambda _, given, out: show(out[0] if isinstance(out, tuple) else out)
        )
        return
    output = getattr(attention, "o", None)
    if place == "attn_z" and output is not None:
        output.original_component.register_forward_pre_hook(lambda _, given: show(given[0]))
        return
    if place == "resid_mid" and not beside and getattr(block, "ln2", None) is not None:
        block.ln2.original_component.register_forward_pre_hook(lambda _, given: show(given[0]))
        return
    raise ModelError(
        f"Model {source.name!r} has no {place} in layer {layer}, as its blocks are of another "
        "kind: choose sparse autoencoders of another place."
    )


def _hooked(show: Show, x_BPC: torch.Tensor, hook: Any) -> None:
    show(x_BPC)
