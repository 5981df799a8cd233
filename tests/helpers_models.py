"""Small random models and tokenizers, made on the spot as ordinary Hugging Face directories."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from pathlib import Path

from universal_ray.planning.items import Model

TEXT = """The quick brown fox jumps over the lazy dog. "Good morning," said the dog; the fox ran on.
One, two, three: the number of neurons that two models share is 12 of 384, or so the text says.
def share(first, second):
    return [neuron for neuron in first if neuron in second]

In the beginning there were five seeds, and every seed learned the same few tricks.
"""
END = "<|endoftext|>"


@cache
def _trained(texts: tuple[str, ...], vocabulary: int):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def make_tokenizer(
    directory: Path, text: str | Iterable[str] = TEXT, vocabulary: int = 300
) -> Path:
    """Train a byte-level BPE tokenizer (`<|endoftext|>` is id 0) on `text`; save it in `directory`.

    Its length is at most `vocabulary`, and less where the text has too few distinct words.
    """
    from transformers import PreTrainedTokenizerFast

    texts = (text,) if isinstance(text, str) else tuple(text)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=_trained(texts, vocabulary), bos_token=END, eos_token=END, pad_token=END
    )
    tokenizer.save_pretrained(str(directory))
    return Path(directory)


def save_model(model, directory: Path, tokenizer: bool = True) -> Path:
    """Save a transformers model, with the default tokenizer beside it unless told not to."""
    directory = Path(directory)
    model.eval().save_pretrained(str(directory))
    if tokenizer:
        make_tokenizer(directory, vocabulary=min(300, model.config.vocab_size))
    return directory


def make_gpt2(
    directory: Path,
    seed: int,
    layers: int = 2,
    width: int = 32,
    heads: int = 2,
    vocabulary: int = 300,
    context: int = 32,
    tokenizer: bool = True,
    **config,
) -> Path:
    """Save a random GPT-2 with `4 * width` neurons per layer (its residual stream is `width` wide).

    Weights are ten times GPT-2's usual start, so that activations are far from linear. `config`
    goes to GPT2Config: `scale_attn_by_inverse_layer_idx=True`, `n_inner=...`.
    """
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    settings = {
        "vocab_size": vocabulary, "n_positions": context, "n_embd": width, "n_layer": layers,
        "n_head": heads, "initializer_range": 0.2, "bos_token_id": 0, "eos_token_id": 0, **config,
    }  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = GPT2LMHeadModel(GPT2Config(**settings))
    return save_model(model, Path(directory), tokenizer)


def gpt2_shape(name: str, identity: str, layers: int, width: int) -> Model:
    """What planning needs of a GPT-2, of which there is no more."""
    return Model(
        name=name, given=name, identity=identity, layers=layers, width=width,
        d_model=width // 4, d_mlp=width
    )


def values(capture, tokens_BP):
    """Every unit's values [T, N] at the one site of a capture."""
    import torch

    found = []
    capture.read(tokens_BP, lambda name, layer, x_TD: found.append(x_TD.clone()))
    return torch.cat(found, dim=1)
