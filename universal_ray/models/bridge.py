"""The only module that boots transformer_lens' bridge."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import torch

from universal_ray.models.gelu import Gelu

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge
from universal_ray.models.source import ModelSource, load_model


def boot(source: ModelSource, device: str, dtype: torch.dtype) -> TransformerBridge:
    """A bridge to the loaded model, which needs no tokenizer here."""
    from transformer_lens.model_bridge.sources import build_bridge_from_module

    model = load_model(source, device, dtype)
    with warnings.catch_warnings():
        # Optional hooks that an architecture does not have, none of them ours.
        warnings.filterwarnings("ignore", message="Hook alias .* did not resolve")
        return build_bridge_from_module(
            model, source.architecture, hf_config=model.config, dtype=dtype, device=device,
            model_name=source.name,
        )  # fmt: skip


def unwrap(bridge: TransformerBridge) -> None:
    """Put the model's own attention and normalization back where the bridge replaced them, and
    this project's GELU in the place of GPT-2's, which passes over memory eight times.

    The bridge computes both anew, operation by operation, so that every intermediate value can be
    hooked: a fifth to a third more time, and rounding that differs. No site asks for what is inside
    of them, so they run as transformers wrote them, with its fused attention where it has one
    (which keeps scores in float32, as `reorder_and_upcast_attn` asks).
    """
    from transformer_lens.model_bridge.generalized_components import (
        AttentionBridge,
        NormalizationBridge,
    )
    from transformer_lens.model_bridge.generalized_components.base import GeneralizedComponent
    from transformers.activations import NewGELUActivation

    model: Any = bridge.original_model
    for parent in list(model.modules()):
        if isinstance(parent, GeneralizedComponent):
            continue
        for name, child in list(parent.named_children()):
            if isinstance(child, AttentionBridge | NormalizationBridge):
                setattr(parent, name, child.original_component)
            elif isinstance(child, NewGELUActivation):
                setattr(parent, name, Gelu())
    if getattr(model, "_supports_sdpa", False):
        model.set_attn_implementation("sdpa")
