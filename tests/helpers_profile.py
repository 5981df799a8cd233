"""Models with planted neurons, a corpus for them, and a study of them."""

from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from helpers_models import make_tokenizer
from helpers_study import make
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

from universal_ray.config.study import (
    BaselineConfig,
    ClusterConfig,
    CorpusConfig,
    ModelsConfig,
    RunConfig,
    Study,
    TaxonomyConfig,
    UnitsConfig,
)
from universal_ray.features.vocabulary import read_vocabulary
from universal_ray.storage.finished import PROFILE
from universal_ray.storage.store import Store

VOCABULARY, CONTEXT, ROWS, NEURONS = 300, 32, 360, 24
STREAM = VOCABULARY + CONTEXT + 2
"""Of the residual stream: the token, its position, and whether the token before is a planted one,
one-hot each.
"""
FIRES = 7.0
"""Half of what a neuron reads of what it fires on, so that it is far above zero or far below."""
WORD, LETTER, BEFORE, EARLY, CODE = range(5)
"""The planted neurons; the rest are random."""


def vocabulary_of(folder: Path):
    return read_vocabulary(AutoTokenizer.from_pretrained(str(folder)), VOCABULARY)


def planted_ids(folder: Path) -> dict[int, list[int]]:
    """Ids on which the neurons of tokens fire."""
    words = vocabulary_of(folder).words
    return {
        WORD: [index for index, word in enumerate(words) if word == "the"],
        LETTER: [index for index, word in enumerate(words) if word.startswith("s")],
        BEFORE: [index for index, word in enumerate(words) if word.isdigit()],
        CODE: list(range(150, VOCABULARY)),
    }


def make_planted(folder: Path, seed: int) -> str:
    """One layer whose head copies the token before, and neurons that read what they are to."""
    make_tokenizer(folder, vocabulary=VOCABULARY)
    torch.manual_seed(seed)
    model: Any = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=VOCABULARY, n_positions=CONTEXT, n_embd=STREAM, n_layer=1, n_head=1,
            n_inner=NEURONS, bos_token_id=0, eos_token_id=0,
        )
    )
    token, position = torch.arange(VOCABULARY), VOCABULARY + torch.arange(CONTEXT)
    planted = planted_ids(folder)
    others, before = STREAM - 2, STREAM - 1
    told = torch.full_like(token, others)
    told[planted[BEFORE]] = before
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        block = model.transformer.h[0]
        for norm in (block.ln_1, block.ln_2, model.transformer.ln_f):
            norm.weight.fill_(1)
        model.transformer.wte.weight[token, token] = 1
        model.transformer.wpe.weight[torch.arange(CONTEXT), position] = 1
        attention = block.attn.c_attn.weight
        attention[position[1:], position[:-1]] = 2
        attention[position, STREAM + position] = 1
        attention[token, 2 * STREAM + told] = (2 / STREAM) ** 0.5  # after LayerNorm a one again
        for place in (others, before):
            block.attn.c_proj.weight[place, place] = 1
            missing = (told == place).sum() * 2 / STREAM  # what LayerNorm takes off: the mean
            block.attn.c_attn.bias[2 * STREAM + place] = missing
        w_in, bias = block.mlp.c_fc.weight, block.mlp.c_fc.bias
        w_in.normal_(0, 0.07)
        w_in[:, :5] = 0
        w_in[VOCABULARY:] = 0  # a random function of the position is explained by the position
        bias[:5] = -FIRES
        weight = 2 * FIRES / (STREAM / 3) ** 0.5  # LayerNorm makes that of three ones
        for neuron, ids in planted.items():
            places = [before] if neuron == BEFORE else ids
            w_in[places, neuron] = weight
            bias[neuron] += 2 * FIRES * len(places) * 3 / STREAM  # the mean again
        w_in[position[: CONTEXT // 3], EARLY] = weight
        block.mlp.c_proj.weight.normal_(0, 0.1)
        model.transformer.wte.weight += 0.001 * torch.randn(VOCABULARY, STREAM)
    model.eval().save_pretrained(str(folder))
    return str(folder)


def make_corpus(path: Path) -> str:
    """Prose of low ids and code of high ones; begin of text first."""
    rng = np.random.default_rng(0)
    subset = np.array(["code", "prose", "talk"])[np.arange(ROWS) % 3]
    tokens_BP = rng.integers(1, 150, (ROWS, CONTEXT))
    code_B = subset == "code"
    tokens_BP[code_B] = rng.integers(150, VOCABULARY, (code_B.sum(), CONTEXT))
    tokens_BP[:, 0] = 0
    datasets.Dataset.from_dict(
        {"tokens": tokens_BP.tolist(), "subset": subset.tolist()}
    ).save_to_disk(str(path))
    return str(path)


def make_inputs(folder: Path) -> None:
    for seed, name in enumerate("ab"):
        make_planted(folder / name, seed)
    make_corpus(folder / "tokens")


def make_study(folder: Path, models: list[str], tokens: str, **cluster) -> Study:
    return Study(
        run=RunConfig(dir=str(folder)),
        models=ModelsConfig(reference=models[0], compared=models[1:]),
        corpus=CorpusConfig(path=tokens),
        units=UnitsConfig(tokens=16 * CONTEXT, batch=8 * CONTEXT, fold=2),
        cluster=ClusterConfig(**{"workers": 1, **cluster}),
        baseline=BaselineConfig(rotations=2),
        taxonomy=TaxonomyConfig(
            topics=2, unigram_ids=0, unigram_occurrences=1, minimum_support=20, examples=50,
            subset_histograms=True,
        ),
    )


def profiled(study: Study) -> Store:
    return make(study, PROFILE)
