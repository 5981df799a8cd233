"""The weights of one model that its neurons meet, in a named convention."""

from typing import Any

import numpy as np
import torch

from universal_ray.errors import ModelError
from universal_ray.maths.statistics.weights import CONVENTIONS, ModelWeights
from universal_ray.models.bridge import boot
from universal_ray.models.source import ModelSource

UNGATED = "its MLP has no gate"
UNBIASED = "its MLP has no input bias"
NORMALISED = "its queries and keys are normalised, so that no matrix joins them"
NARROW = "its embeddings are narrower than its residual stream"
NO_HEADS = "its attention has no such matrices of single heads"

PLACES = {
    "w_in": ("mlp", "W_in"),
    "bias": ("mlp", "b_in"),
    "w_out": ("mlp", "W_out"),
    "query": ("attn", "W_Q"),
    "key": ("attn", "W_K"),
    "value": ("attn", "W_V"),
    "output": ("attn", "W_O"),
}
GATED_PLACES = {
    "w_in": ("mlp", "W_gate"),
    "bias": ("mlp", "b_gate"),
    "up": ("mlp", "W_in"),
    "up_bias": ("mlp", "b_in"),
}
ABSENT = {
    **dict.fromkeys(("bias", "up_bias"), UNBIASED),
    **dict.fromkeys(("query", "key", "value", "output"), NO_HEADS),
}


def load_weights(
    source: ModelSource,
    convention: str = "folded",
    device: str = "cpu",
    *,
    dtype: torch.dtype = torch.float32,
    ids: int | None = None,
) -> ModelWeights:
    """Load a model and take its weights, no part of which the caller shares with anyone.

    `ids`: how many ids of the vocabulary stand for something, all where None; what a model unembeds
    beyond them is padding.
    Raises ModelError for a convention that is none, or that the architecture does not allow.
    """
    if convention not in CONVENTIONS:
        raise ModelError(
            f"Weights convention {convention!r} is unknown: choose one of {', '.join(CONVENTIONS)}."
        )
    bridge = boot(source, device, dtype)
    if convention == "folded":
        _check_absorbs(source, bridge)
        bridge.enable_compatibility_mode(disable_warnings=True)
    blocks: Any = bridge.blocks
    gated = getattr(blocks[0].mlp, "W_gate", None) is not None
    places = PLACES | (GATED_PLACES if gated else {})
    found = {name: _stacked(blocks, *place) for name, place in places.items()}
    w_in_LCD, w_out_LDC = found.pop("w_in"), found.pop("w_out")
    if w_in_LCD is None or w_out_LDC is None:
        raise ModelError(
            f"Model {source.name!r} has layers without a plain or gated MLP: choose a decoder "
            "whose every layer has one."
        )
    missing = {name: ABSENT[name] for name, stacked in found.items() if stacked is None}
    if not gated:
        missing |= {"up": UNGATED, "up_bias": UNGATED}
    if getattr(blocks[0].attn, "q_norm", None) is not None:
        missing |= {"query": NORMALISED, "key": NORMALISED}
    embed_VC = bridge.W_E.detach()[:ids].clone()
    if embed_VC.shape[1] != w_in_LCD.shape[1]:
        missing["embed"] = NARROW
    for name in missing:
        found[name] = None
    bias_LD, up_LCD, up_bias_LD = found["bias"], found["up"], found["up_bias"]
    return ModelWeights(
        convention=convention,
        layers=source.layers,
        parallel=bool(bridge.cfg.parallel_attn_mlp),
        w_in_NC=w_in_LCD.transpose(1, 2).flatten(0, 1),
        w_out_NC=_after_norm(bridge, w_out_LDC).flatten(0, 1),
        bias_N=None if bias_LD is None else bias_LD.flatten(),
        up_NC=None if up_LCD is None else up_LCD.transpose(1, 2).flatten(0, 1),
        up_bias_N=None if up_bias_LD is None else up_bias_LD.flatten(),
        unembed_CV=_unpadded(bridge, ids, convention),
        embed_CV=None if "embed" in missing else embed_VC.T,
        query_HCK=_every_head(found["query"], found["query"]),
        key_HCK=_every_head(found["key"], found["query"]),
        value_HCK=_every_head(found["value"], found["output"]),
        output_HKC=_every_head(found["output"], found["output"]),
        missing=missing,
    )


def _after_norm(bridge: Any, w_out_LDC: torch.Tensor) -> torch.Tensor:
    """W_out as it reaches the residual stream: through the norm after the MLP, where there is one,
    but for the scale that this takes from the token."""
    gain_LC = _stacked(bridge.blocks, "ln2_post", "weight")
    if gain_LC is None:
        return w_out_LDC
    if bridge.cfg.rmsnorm_uses_offset:
        gain_LC = gain_LC + 1
    if not bridge.cfg.uses_rms_norm:
        w_out_LDC = w_out_LDC - w_out_LDC.mean(2, keepdim=True)
    return w_out_LDC * gain_LC[:, None]


def _unpadded(bridge: Any, ids: int | None, convention: str) -> torch.Tensor:
    """Without padding, which transformer_lens has counted where it took the mean out."""
    unembed_CV = bridge.W_U.detach()[:, :ids].clone()
    centred = convention == "folded" and not bridge.cfg.output_logits_soft_cap > 0
    if centred and unembed_CV.shape != bridge.W_U.shape:
        unembed_CV -= unembed_CV.mean(1, keepdim=True)
    return unembed_CV


def _check_absorbs(source: ModelSource, bridge: Any) -> None:
    """Raise ModelError where transformer_lens would leave norms as they are, with no more than a
    warning."""
    needed = ("supports_compatibility_mode", "supports_fold_ln", "supports_center_writing_weights")
    if not all(getattr(bridge.adapter, name, True) for name in needed):
        raise ModelError(
            f"The norms of model {source.name!r} cannot be absorbed into its weights, as "
            "transformer_lens does not support it for this architecture: choose the convention raw "
            "(taxonomy.convention)."
        )


def _stacked(blocks: Any, part: str, weight: str) -> torch.Tensor | None:
    """A weight of every layer, one after the other; None where a layer lacks it."""
    found = [getattr(getattr(block, part, None), weight, None) for block in blocks]
    layers = [each.detach() for each in found if each is not None]
    return torch.stack(layers) if len(layers) == len(found) else None


def _every_head(shared: torch.Tensor | None, heads: torch.Tensor | None) -> torch.Tensor | None:
    """All layers' heads in a row; a key or value that several queries share, once for each."""
    if shared is None or heads is None:
        return None
    return shared.repeat_interleave(heads.shape[1] // shared.shape[1], dim=1).flatten(0, 1)


def embedding_norms(source: ModelSource, size: int) -> np.ndarray:
    """Length of each token's embedding, float64 [size]; beyond `size` a vocabulary is padding."""
    bridge = boot(source, "cpu", torch.float32)
    return bridge.W_E.detach()[:size].double().norm(dim=1).numpy()
