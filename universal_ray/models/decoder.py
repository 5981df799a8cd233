"""A model as interventions need it: its layers one by one, its heads, its readout.

GPT-2 and GPT-NeoX (Pythia) as transformers runs them, with its fused attention. Weights are those
of the model as trained: nothing is absorbed or centred.

Shapes: B rows, P positions, T tokens, L layers, D neurons of a layer, N = L · D, C channels of the
residual stream, H heads of a layer, K channels of a head, V vocabulary.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from universal_ray.errors import ModelError
from universal_ray.models.source import ModelSource, load_model

See = Callable[[Tensor], None]
"""Is shown what enters W_out, [B, P, D], and may change it in place."""


class Decoder(ABC):
    """The layers of one model; what architectures do in ways of their own is in the subclasses."""

    def __init__(self, model: Any, ids: int | None = None) -> None:
        self._base = model.base_model
        self.blocks: Any = self._blocks()
        self.layers = len(self.blocks)
        self.width = self.w_out(0).shape[0]  # D
        self.final_norm: nn.LayerNorm = self._final_norm()
        self.unembed = _unpadded(model.get_output_embeddings(), ids)
        self.context: int = model.config.max_position_embeddings

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.unembed.weight.device

    def block(
        self, layer: int, x_BPC: Float[Tensor, "B P C"], see: See | None = None
    ) -> Float[Tensor, "B P C"]:
        """The residual stream after a layer, from the one before it."""
        if see is None:
            return self._block(layer, x_BPC)
        handle = self._projection(layer).register_forward_pre_hook(lambda _, inputs: see(inputs[0]))
        try:
            return self._block(layer, x_BPC)
        finally:
            handle.remove()

    def centre(self, x_TC: Float[Tensor, "T C"]) -> tuple[Tensor, Tensor]:
        """The stream less its mean [T, C], and the final LayerNorm's scale √(mean x² + ε) [T]."""
        centred_TC = x_TC - x_TC.mean(1, keepdim=True)
        return centred_TC, (centred_TC.square().mean(1) + self.final_norm.eps).sqrt()

    def logits(self, centred_TC: Tensor, scale_T: Tensor) -> Float[Tensor, "T V"]:
        """Logits by a scale of the final LayerNorm that need not be the residual stream's own."""
        norm = self.final_norm
        return self.unembed(centred_TC / scale_T[:, None] * norm.weight + norm.bias)

    def written(self, w_MC: Float[Tensor, "M C"]) -> Float[Tensor, "M V"]:
        """Logits that writes to the last residual stream add, times the final scale."""
        return self.unembed((w_MC - w_MC.mean(1, keepdim=True)) * self.final_norm.weight)

    def lone_keys(self, token: int) -> Float[Tensor, "heads K"]:
        """Keys of all layers' heads for a row of this one token: k_BOS of arXiv 2401.12181."""
        with torch.inference_mode():
            x_11C = self.embed(torch.tensor([[token]], device=self.device))
            keys = []
            for layer in range(self.layers):
                keys.append(self.heads(layer, x_11C)[1][0, :, 0])
                x_11C = self.block(layer, x_11C)
        return torch.cat(keys)

    def constant_values(self, layer: int) -> Float[Tensor, "H K"]:
        """What each head's value is whatever the token, W_V b_LN + b_V: as attention sums to one,
        the head writes it whatever it attends to."""
        bias_11C = self._attention_norm(layer).bias[None, None]
        return self._projected(layer, bias_11C)[2][0, :, 0]

    @abstractmethod
    def embed(self, tokens_BP: Int[Tensor, "B P"]) -> Float[Tensor, "B P C"]:
        """The residual stream before the first layer."""

    @abstractmethod
    def heads(self, layer: int, x_BPC: Float[Tensor, "B P C"]) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys, values [B, H, P, K] as they meet, turned by position where rotary."""

    @abstractmethod
    def _attention_norm(self, layer: int) -> nn.LayerNorm:
        """The norm that heads read through."""

    @abstractmethod
    def _projected(self, layer: int, read_BPC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys, values [B, H, P, K] of what the norm gives, not turned."""

    @abstractmethod
    def scaling(self, layer: int) -> float:
        """What the products of queries and keys are multiplied by."""

    @abstractmethod
    def w_out(self, layer: int) -> Float[Tensor, "D C"]:
        """What the layer's neurons write."""

    @abstractmethod
    def activation(self, layer: int) -> nn.Module:
        """The function that makes what neurons write of what they read."""

    @abstractmethod
    def head_output(self, layer: int, head: int) -> Float[Tensor, "K C"]:
        """What a head writes by its channels."""

    @abstractmethod
    def _blocks(self) -> Any: ...

    @abstractmethod
    def _final_norm(self) -> nn.LayerNorm: ...

    @abstractmethod
    def _projection(self, layer: int) -> nn.Module:
        """The module that neurons enter."""

    @abstractmethod
    def _block(self, layer: int, x_BPC: Tensor) -> Tensor: ...


class GPT2(Decoder):
    """Learned positions; the MLP after attention."""

    def __init__(self, model: Any, ids: int | None = None) -> None:
        from transformers.activations import NewGELUActivation

        super().__init__(model, ids)
        for block in self.blocks:
            if isinstance(block.mlp.act, NewGELUActivation):
                block.mlp.act = nn.GELU(approximate="tanh")  # the same formula, in one pass

    def _blocks(self) -> Any:
        return self._base.h

    def _final_norm(self) -> nn.LayerNorm:
        return self._base.ln_f

    def _projection(self, layer: int) -> nn.Module:
        return self.blocks[layer].mlp.c_proj

    def _block(self, layer: int, x_BPC: Tensor) -> Tensor:
        return self.blocks[layer](x_BPC)

    def embed(self, tokens_BP: Int[Tensor, "B P"]) -> Float[Tensor, "B P C"]:
        position_P = torch.arange(tokens_BP.shape[1], device=tokens_BP.device)
        return self._base.wte(tokens_BP) + self._base.wpe(position_P)

    def heads(self, layer: int, x_BPC: Float[Tensor, "B P C"]) -> tuple[Tensor, Tensor, Tensor]:
        return self._projected(layer, self.blocks[layer].ln_1(x_BPC))

    def _attention_norm(self, layer: int) -> nn.LayerNorm:
        return self.blocks[layer].ln_1

    def _projected(self, layer: int, read_BPC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        attention = self.blocks[layer].attn
        shape = (3, attention.num_heads, attention.head_dim)
        joined_BP3HK = attention.c_attn(read_BPC).unflatten(2, shape)
        query, key, value = joined_BP3HK.permute(2, 0, 3, 1, 4)
        return query, key, value

    def scaling(self, layer: int) -> float:
        return self.blocks[layer].attn.scaling

    def w_out(self, layer: int) -> Float[Tensor, "D C"]:
        return self.blocks[layer].mlp.c_proj.weight.detach()

    def activation(self, layer: int) -> nn.Module:
        return self.blocks[layer].mlp.act

    def head_output(self, layer: int, head: int) -> Float[Tensor, "K C"]:
        attention = self.blocks[layer].attn
        return attention.c_proj.weight.detach().unflatten(0, (attention.num_heads, -1))[head]


class GPTNeoX(Decoder):
    """Rotary positions; the MLP beside attention, or after it."""

    def _blocks(self) -> Any:
        return self._base.layers

    def _final_norm(self) -> nn.LayerNorm:
        return self._base.final_layer_norm

    def _projection(self, layer: int) -> nn.Module:
        return self.blocks[layer].mlp.dense_4h_to_h

    def _turns(self, x_BPC: Tensor) -> tuple[Tensor, Tensor]:
        position_1P = torch.arange(x_BPC.shape[1], device=x_BPC.device)[None]
        return self._base.rotary_emb(x_BPC, position_1P)

    def _block(self, layer: int, x_BPC: Tensor) -> Tensor:
        turns = self._turns(x_BPC)
        return self.blocks[layer](x_BPC, attention_mask=None, position_embeddings=turns)

    def embed(self, tokens_BP: Int[Tensor, "B P"]) -> Float[Tensor, "B P C"]:
        return self._base.embed_in(tokens_BP)

    def heads(self, layer: int, x_BPC: Float[Tensor, "B P C"]) -> tuple[Tensor, Tensor, Tensor]:
        from transformers.models.gpt_neox.modeling_gpt_neox import apply_rotary_pos_emb

        query, key, value = self._projected(layer, self.blocks[layer].input_layernorm(x_BPC))
        query, key = apply_rotary_pos_emb(query, key, *self._turns(x_BPC))
        return query, key, value

    def _attention_norm(self, layer: int) -> nn.LayerNorm:
        return self.blocks[layer].input_layernorm

    def _projected(self, layer: int, read_BPC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        attention = self.blocks[layer].attention
        joined_BPC = attention.query_key_value(read_BPC)
        query, key, value = joined_BPC.unflatten(2, (-1, 3, attention.head_size)).permute(
            3, 0, 2, 1, 4
        )
        return query, key, value

    def scaling(self, layer: int) -> float:
        return self.blocks[layer].attention.scaling

    def w_out(self, layer: int) -> Float[Tensor, "D C"]:
        return self.blocks[layer].mlp.dense_4h_to_h.weight.detach().T

    def activation(self, layer: int) -> nn.Module:
        return self.blocks[layer].mlp.act

    def head_output(self, layer: int, head: int) -> Float[Tensor, "K C"]:
        attention = self.blocks[layer].attention
        first = head * attention.head_size
        return attention.dense.weight.detach().T[first : first + attention.head_size]


ARCHITECTURES: dict[str, type[Decoder]] = {"gpt2": GPT2, "gpt_neox": GPTNeoX}


def _unpadded(unembed: nn.Linear, ids: int | None) -> nn.Linear:
    """Logits of the first ids alone: what a model has beyond them only pads its vocabulary."""
    if ids is None or ids >= unembed.out_features:
        return unembed
    cut = nn.Linear(unembed.in_features, ids, bias=unembed.bias is not None, device="meta")
    cut.weight = nn.Parameter(unembed.weight.detach()[:ids])
    if unembed.bias is not None:
        cut.bias = nn.Parameter(unembed.bias.detach()[:ids])
    return cut


def load_decoder(
    source: ModelSource,
    device: str = "cpu",
    *,
    dtype: torch.dtype = torch.float32,
    ids: int | None = None,
) -> Decoder:
    """Load a model for interventions, which predicts the first `ids` of its vocabulary, or all.

    Raises ModelError for an architecture not known here.
    """
    if source.kind not in ARCHITECTURES:
        raise ModelError(
            f"Model {source.name!r} is of type {source.kind!r}, which interventions do not know: "
            f"choose one of type {' or '.join(ARCHITECTURES)}."
        )
    return ARCHITECTURES[source.kind](load_model(source, device, dtype, attention="sdpa"), ids)
