"""The experiments as they are configured, on the shapes of their models: no hub, no weights."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from helpers_models import make_tokenizer

from universal_ray.cli.options import composed
from universal_ray.config.study import Study, check, model_groups
from universal_ray.models.coder import Coder, Coders
from universal_ray.models.source import ModelSource
from universal_ray.planning.costs import Cost
from universal_ray.stages import registry
from universal_ray.stages.inputs import Outline, outline
from universal_ray.stages.models import Models, OtherTokenizer
from universal_ray.storage.store import Store

GPT2: dict[str, Any] = {
    "kind": "gpt2", "architecture": "GPT2LMHeadModel", "vocabulary": 50_257, "context": 1024
}  # fmt: skip
PYTHIA: dict[str, Any] = {
    "kind": "gpt_neox", "architecture": "GPTNeoXForCausalLM", "vocabulary": 50_304,
    "context": 2048,
}  # fmt: skip
SMALL = {"layers": 12, "d_model": 768, "d_mlp": 3072}
MEDIUM = {"layers": 24, "d_model": 1024, "d_mlp": 4096}
SHAPES = {
    "gpt2_small": SMALL,
    "gpt2_medium": MEDIUM,
    "gpt2_medium_all": MEDIUM,
    "pythia_160m": SMALL,
    "pythia_410m": MEDIUM,
    "polypythias_14m": {"layers": 6, "d_model": 128, "d_mlp": 512},
    "polypythias_31m": {"layers": 6, "d_model": 256, "d_mlp": 1024},
    "polypythias_70m": {"layers": 6, "d_model": 512, "d_mlp": 2048},
    "polypythias_160m": SMALL,
    "cross_tokenizer": SMALL,
    "sae_seeds": SMALL,
}
"""Of the models of the experiments on GPUs (arXiv 2401.12181, table 1; their own config.json)."""
CODERS = {
    "sae_seeds": Coders(
        location="", commit="0" * 40, folder="", files=(), channels=768, width=32_768,
        each=(Coder(configuration="", weights="", place="mlp_out", layer=5, model=None,
                    identity=None, activation="topk", before="none", k=32, tensors=(),
                    latents_first=True, decoder=None, rectified=True),),
    ),
}  # fmt: skip
"""Of those whose units are latents, by the card of the coders."""
FAMILIES = {"stanford-crfm": GPT2, "EleutherAI": PYTHIA}
"""By whose they are."""
IDS = {"gpt2": 50_257, "gpt_neox": 50_277}
"""Tokens of the tokenizers, which Pythia's models pad."""
EMBEDDED = {"gpt2": 50_257 + 1024, "gpt_neox": 2 * 50_304}
"""Rows of matrices of embeddings: of tokens and positions, or of tokens read and written."""


def stored(kind: str, layers: int, d_model: int, d_mlp: int, context: int) -> int:
    """Bytes of a file of weights in half precision: matrices with biases and norms of every block,
    a mask of a byte for each two positions, which older files hold too, and the embeddings.
    """
    block = 4 * d_model * d_model + 2 * d_model * d_mlp + 9 * d_model + d_mlp
    return layers * (2 * block + context**2) + 2 * (EMBEDDED[kind] + 2) * d_model


@cache
def _tokenizer(folder: Path):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(make_tokenizer(folder / "tokenizer"))


def outlined(name: str, folder: Path, *options: str) -> tuple[Outline, Store]:
    """What is known of an experiment before its tokens are read, in an empty run directory."""
    store = Store(str(folder / "run"))
    study = composed([f"experiment={name}", f"run.dir={store.url}", *options], "config", Study)
    check(study)
    coders = CODERS.get(name)
    groups = tuple(
        tuple(replace(source_of(each, SHAPES[name]), coders=coders) for each in names)
        for names in model_groups(study.models)
    )
    kind = groups[0][0].kind
    models = Models(
        study, groups, _tokenizer(folder), "0" * 64, IDS[kind],
        {
            other: OtherTokenizer(None, each)
            for other in IDS
            if other != kind and (each := tuple(m for m in groups[0] if m.kind == other))
        },
    )  # fmt: skip
    found = outline(models, store)
    assert found is not None
    return found, store


def source_of(name: str, sizes: dict[str, int]) -> ModelSource:
    """A model of the hub that has never been here."""
    family = FAMILIES[name.split("/")[0]]
    shape: dict[str, Any] = {**family, **sizes}
    return ModelSource(
        name=name, location=name.split("@")[0], commit="0" * 40, gated=False, heads=1,
        head_width=1, files=(("config.json", "0" * 64),),
        identity=hashlib.sha256(name.encode()).hexdigest(),
        size=stored(family["kind"], context=family["context"], **sizes), **shape,
    )  # fmt: skip


def costs(
    name: str, folder: Path, *options: str, stages: Sequence[str] = registry.STAGES
) -> tuple[Outline, dict[str, Cost]]:
    """What each of some stages takes, as the command would say."""
    found, store = outlined(name, folder, *options)
    return found, {each: registry.stage(each).cost(found, store) for each in stages}
