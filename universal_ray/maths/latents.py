"""Latents of sparse autoencoders and transcoders: what an encoder makes of what it reads. Pure.

ReLU, JumpReLU (Rajamanoharan et al., arXiv 2407.14435), gated (2404.16014), and of every token the
largest k (TopK, Gao et al., arXiv 2406.04093) or the largest of each of k groups.

Shapes: T tokens, C channels that are read, D latents, K latents of a token.
"""

import math
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

RELU, JUMP, GATED, TOPK, GROUPS = "relu", "jump", "gated", "topk", "groups"
"""What makes latents of pre-activations."""
AS_IT_IS, STANDARD, LENGTH = "none", "layer_norm", "constant_norm_rescale"
"""What is done to what is read: nothing, its own mean and deviation taken out, its length made √C.
"""
SMALL = 1e-5
"""Beside the deviation (SAELens)."""


@dataclass(frozen=True, kw_only=True)
class Encoder:
    """The weights of one encoder, all of one dtype."""

    activation: str
    weight_CD: Tensor
    bias_D: Tensor
    """of what a gated latent is large by, where it is gated"""
    before: str = AS_IT_IS
    centre_C: Tensor | None = None
    """taken from what is read, after `before`"""
    threshold_D: Tensor | None = None
    """that a pre-activation has to exceed"""
    k: int | None = None
    gate_D: Tensor | None = None
    """bias of the gates"""
    gain_D: Tensor | None = None
    """of a gated latent's magnitude, beside its gate"""
    scale_D: Tensor | None = None
    """that latents are told in, positive; the largest k are the largest in it"""

    def to(self, device: torch.device, dtype: torch.dtype) -> "Encoder":
        """Its weights elsewhere, or of another dtype."""
        given = {each.name: getattr(self, each.name) for each in fields(self)}
        moved: dict[str, Any] = {
            name: value.to(device, dtype)
            for name, value in given.items()
            if isinstance(value, Tensor)
        }
        return replace(self, **moved)

    @property
    def silent(self) -> int:
        """How many latents cannot fire, whatever is read: they read nothing, and their bias alone
        does not exceed what it has to.
        """
        reads_D = (self.weight_CD != 0).any(0)
        least_D = torch.zeros_like(self.bias_D) if self.threshold_D is None else self.threshold_D
        alone_D = self.bias_D > least_D.clamp_min(0)
        if self.gate_D is not None:
            alone_D &= self.gate_D > 0
        return int((~reads_D & ~alone_D).sum())


def encode(x_TC: Float[Tensor, "T C"], encoder: Encoder) -> Float[Tensor, "T D"]:
    """The latents of every token, none below zero, in the dtype of the encoder."""
    read_TC = _prepared(x_TC.to(encoder.weight_CD.dtype), encoder.before)
    if encoder.centre_C is not None:
        read_TC = read_TC - encoder.centre_C
    if encoder.activation == GATED:
        assert encoder.gate_D is not None and encoder.gain_D is not None
        shared_TD = read_TC @ encoder.weight_CD
        open_TD = shared_TD > -encoder.gate_D
        latent_TD = shared_TD.mul_(encoder.gain_D).add_(encoder.bias_D).relu_().mul_(open_TD)
    else:
        latent_TD = torch.addmm(encoder.bias_D, read_TC, encoder.weight_CD)
        if encoder.activation == JUMP:
            assert encoder.threshold_D is not None
            latent_TD.masked_fill_(latent_TD <= encoder.threshold_D, 0)
        latent_TD.relu_()
    if encoder.scale_D is not None:
        latent_TD.mul_(encoder.scale_D)
    return _largest(latent_TD, encoder) if encoder.k is not None else latent_TD


def _prepared(x_TC: Tensor, before: str) -> Tensor:
    if before == STANDARD:
        apart_TC = x_TC - x_TC.mean(1, keepdim=True)
        return apart_TC / (apart_TC.std(1, keepdim=True) + SMALL)
    if before == LENGTH:
        length_T1: Tensor = x_TC.norm(dim=1, keepdim=True)
        return x_TC * (math.sqrt(x_TC.shape[1]) / length_T1)
    return x_TC


def _largest(latent_TD: Tensor, encoder: Encoder) -> Tensor:
    """The k largest of each token, or the largest of each of k groups; zero for all others."""
    assert encoder.k is not None
    if encoder.activation == GROUPS:
        value_TK, within_TK = latent_TD.unflatten(1, (encoder.k, -1)).max(-1)
        step = latent_TD.shape[1] // encoder.k
        place_TK = within_TK + torch.arange(encoder.k, device=within_TK.device) * step
    else:
        value_TK, place_TK = latent_TD.topk(encoder.k, dim=1, sorted=False)
    return latent_TD.zero_().scatter_(1, place_TK, value_TK)
