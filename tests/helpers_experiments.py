"""The experiments as they are configured, on the shapes of their models: no hub, no weights."""

import hashlib
from functools import cache
from pathlib import Path

from helpers_models import make_tokenizer

from universal_ray.cli.options import composed
from universal_ray.config.study import Study, check, model_groups
from universal_ray.models.source import ModelSource
from universal_ray.planning.costs import Cost
from universal_ray.stages import registry
from universal_ray.stages.inputs import Outline, outline
from universal_ray.stages.models import Models
from universal_ray.storage.store import Store

GPT2 = {"kind": "gpt2", "architecture": "GPT2LMHeadModel", "vocabulary": 50_257, "context": 1024}
PYTHIA = {
    "kind": "gpt_neox", "architecture": "GPTNeoXForCausalLM", "vocabulary": 50_304,
    "context": 2048,
}  # fmt: skip
SMALL = {"layers": 12, "d_model": 768, "d_mlp": 3072}
MEDIUM = {"layers": 24, "d_model": 1024, "d_mlp": 4096}
SHAPES = {
    "gpt2_small": {**GPT2, **SMALL},
    "gpt2_medium": {**GPT2, **MEDIUM},
    "gpt2_medium_all": {**GPT2, **MEDIUM},
    "pythia_160m": {**PYTHIA, **SMALL},
    "pythia_410m": {**PYTHIA, **MEDIUM},
}
"""Of the models of the experiments on GPUs (arXiv 2401.12181, table 1; their own config.json)."""
IDS = {"gpt2": 50_257, "gpt_neox": 50_277}
"""Tokens of the tokenizers, which Pythia's models pad."""


@cache
def _tokenizer(folder: Path):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(make_tokenizer(folder / "tokenizer"))


def outlined(name: str, folder: Path, *options: str) -> tuple[Outline, Store]:
    """What is known of an experiment before its tokens are read, in an empty run directory."""
    store = Store(str(folder / "run"))
    study = composed([f"experiment={name}", f"run.dir={store.url}", *options], "config", Study)
    check(study)
    shape = SHAPES[name]
    groups = tuple(
        tuple(
            ModelSource(
                name=each, location=each, commit="0" * 40, gated=False, files=(), heads=1,
                head_width=1,
                identity=hashlib.sha256(each.encode()).hexdigest(), **shape,  # type: ignore[arg-type]
            )
            for each in names
        )
        for names in model_groups(study.models)
    )  # fmt: skip
    models = Models(study, groups, _tokenizer(folder), "0" * 64, IDS[str(shape["kind"])])
    found = outline(models, store)
    assert found is not None
    return found, store


def costs(name: str, folder: Path, *options: str) -> tuple[Outline, dict[str, Cost]]:
    """What each of its stages takes, as the command would say."""
    found, store = outlined(name, folder, *options)
    return found, {each: registry.stage(each).cost(found, store) for each in registry.STAGES}
