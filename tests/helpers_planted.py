"""A model with planted neurons: an entropy neuron, a switch of a head, a promoter, a suppressor.

Shapes: C channels, H heads of a layer, K channels of a head, V vocabulary.
"""

from pathlib import Path

import torch
from helpers_models import TEXT, make_gpt2, make_tokenizer, save_model
from helpers_roles import load

CHANNELS, WIDTH, LAYERS, HEADS, VOCABULARY = 128, 96, 3, 4, 512
SWITCH, ENTROPY, PROMOTER, SUPPRESSOR = 7, 2 * WIDTH + 11, 2 * WIDTH + 30, 2 * WIDTH + 31
SWITCHED_LAYER, SWITCHED_HEAD = 1, 2
MEMBERS = range(66, 82)
"""Ids of single letters."""
WORDS = " ".join(
    first + middle + last
    for first in ("pre", "con", "sub", "tri")
    for middle in ("lu", "mo", "ra", "ti", "so", "ne")
    for last in ("ment", "tion", "ly", "ness", "ful", "ing", "er")
)
"""Enough of them that every id of the vocabulary stands for something."""


def plant(directory: Path, seed: int = 3) -> Path:
    """A GPT-2 of random weights with the neurons above planted, each by hand."""
    make_gpt2(
        directory, seed=seed, layers=LAYERS, width=CHANNELS, heads=HEADS, n_inner=WIDTH,
        vocabulary=VOCABULARY, tie_word_embeddings=False,
    )  # fmt: skip
    model = load(directory, torch.float32)
    with torch.no_grad():
        first, second, last = model.base_model.h
        head = model.lm_head.weight  # [V, C]
        head.copy_(torch.randn(head.shape, generator=torch.Generator().manual_seed(0)) * 0.1)
        head[:, -2:] = 0  # no logit reads these two channels
        last.mlp.c_proj.weight[11] = 0
        last.mlp.c_proj.weight[11, -2:] = torch.tensor([6.0, -6.0])
        alike_C = torch.randn(CHANNELS, generator=torch.Generator().manual_seed(1))
        alike_C[-2:] = 0
        alike_C -= alike_C.mean() * (alike_C != 0)
        head[list(MEMBERS)] += 0.5 * alike_C
        last.mlp.c_proj.weight[30] = alike_C
        last.mlp.c_proj.weight[31] = -alike_C
        # The lone BOS as head 2 of layer 1 meets it.
        bos_C = model(torch.tensor([[0]]), output_hidden_states=True).hidden_states[1][0, 0]
        read_C = second.ln_1(bos_C)
        weight_C3HK = second.attn.c_attn.weight.unflatten(1, (3, HEADS, -1))
        bias_3HK = second.attn.c_attn.bias.unflatten(0, (3, HEADS, -1))
        key_K = read_C @ weight_C3HK[:, 1, 2] + bias_3HK[1, 2]
        first.mlp.c_proj.weight[7] = 0.5 * weight_C3HK[:, 0, 2] @ key_K
        first.mlp.c_proj.weight[7] -= first.mlp.c_proj.weight[7].mean()
        value_CK = weight_C3HK[:, 2, 2]  # it has nothing to say there, the constant aside
        value_CK -= torch.outer(read_C, read_C @ value_CK) / read_C.square().sum()
    save_model(model, directory, tokenizer=False)
    return make_tokenizer(directory, TEXT + WORDS, VOCABULARY)
