"""Small models of both architectures, and plain Hugging Face passes with hooks to hold against.

Shapes: B rows, P positions, D neurons of a layer, C channels, V vocabulary.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from helpers_models import make_gpt2, save_model
from torch import Tensor

LAYERS, CHANNELS, HEADS, WIDTH, VOCABULARY, CONTEXT = 3, 32, 4, 48, 320, 24
STANFORD = {"scale_attn_by_inverse_layer_idx": True, "reorder_and_upcast_attn": True}


def randomise(model: Any) -> None:
    """Norms and biases random as well, which a new model has as 1 and 0."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        for key, value in model.state_dict().items():
            if key.endswith("bias") or "norm" in key or ".ln_" in key:
                value.copy_(torch.randn(value.shape) * 0.3 + key.endswith("weight"))


def load(directory: Path, dtype: torch.dtype = torch.float64, **options: Any) -> Any:
    """The plain model, as the oracle of a test."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(directory, dtype=dtype, **options).eval()


def gpt2(directory: Path, **config: Any) -> Path:
    settings = {
        "layers": LAYERS, "width": CHANNELS, "heads": HEADS, "n_inner": WIDTH,
        "vocabulary": VOCABULARY, "context": CONTEXT,
    }  # fmt: skip
    make_gpt2(directory, seed=1, **(settings | config))
    model = load(directory, torch.float32)
    randomise(model)
    return save_model(model, directory)


def neox(directory: Path, **config: Any) -> Path:
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    settings = {
        "vocab_size": VOCABULARY, "max_position_embeddings": CONTEXT, "hidden_size": CHANNELS,
        "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "intermediate_size": WIDTH,
        "initializer_range": 0.2, "bos_token_id": 0, "eos_token_id": 0,
    }  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        model = GPTNeoXForCausalLM(GPTNeoXConfig(**(settings | config)))
    randomise(model)
    return save_model(model, directory)


MODELS: dict[str, Callable[[Path], Path]] = {
    "gpt2": gpt2,
    "stanford": lambda directory: gpt2(directory, **STANFORD),
    "pythia": neox,
    "sequential": lambda directory: neox(directory, use_parallel_residual=False),
}


def blocks(model: Any) -> Any:
    return model.base_model.h if hasattr(model.base_model, "h") else model.base_model.layers


def down(model: Any, layer: int) -> Any:
    """The module that neurons enter."""
    mlp = blocks(model)[layer].mlp
    return mlp.c_proj if hasattr(mlp, "c_proj") else mlp.dense_4h_to_h


def final_norm(model: Any) -> Any:
    base = model.base_model
    return base.ln_f if hasattr(base, "ln_f") else base.final_layer_norm


def rows(shape: tuple[int, int] = (3, 16), seed: int = 0) -> Tensor:
    """Random rows that begin with BOS, id 0."""
    tokens_BP = torch.randint(1, VOCABULARY, shape, generator=torch.Generator().manual_seed(seed))
    tokens_BP[:, 0] = 0
    return tokens_BP


def up(model: Any, layer: int) -> Any:
    """The module that makes pre-activations."""
    mlp = blocks(model)[layer].mlp
    return mlp.c_fc if hasattr(mlp, "c_fc") else mlp.dense_h_to_4h


def hooked_logits(
    model: Any, tokens_BP: Tensor, held: dict[int, dict[int, float]],
    scale_BP: Tensor | None = None,
    read: dict[int, dict[int, Callable[[Tensor], Tensor]]] | None = None,
) -> tuple[Tensor, Tensor]:
    """Logits [B, P, V] and final scales [B, P] of a plain pass with neurons held by hooks.

    `held`: values by neuron, by layer; `scale_BP`: in place of the final LayerNorm's own; `read`:
    what becomes of pre-activations, by neuron, by layer.
    """
    handles, scales = [], []

    def hold(neurons: dict[int, float]) -> Callable:
        def hook(_: Any, inputs: tuple) -> tuple:
            x_BPD = inputs[0].clone()
            for neuron, value in neurons.items():
                x_BPD[:, :, neuron] = value
            return (x_BPD,)

        return hook

    def norm(module: Any, inputs: tuple, output: Tensor) -> Tensor:
        own_BP = (inputs[0].var(-1, correction=0) + module.eps).sqrt()
        scales.append(own_BP if scale_BP is None else scale_BP)
        centred_BPC = inputs[0] - inputs[0].mean(-1, keepdim=True)
        return centred_BPC / scales[0][:, :, None] * module.weight + module.bias

    def change(neurons: dict[int, Callable[[Tensor], Tensor]]) -> Callable:
        def hook(_: Any, __: tuple, output: Tensor) -> Tensor:
            x_BPD = output.clone()
            for neuron, function in neurons.items():
                x_BPD[:, :, neuron] = function(x_BPD[:, :, neuron])
            return x_BPD

        return hook

    for layer, functions in (read or {}).items():
        handles.append(up(model, layer).register_forward_hook(change(functions)))
    for layer, neurons in held.items():
        handles.append(down(model, layer).register_forward_pre_hook(hold(neurons)))
    handles.append(final_norm(model).register_forward_hook(norm))
    try:
        with torch.inference_mode():
            logits_BPV = model(tokens_BP).logits
    finally:
        for handle in handles:
            handle.remove()
    return logits_BPV, scales[0]
