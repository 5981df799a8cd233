"""Small studies on models made on the spot, and the float64 truth about them."""

import json
import sys
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from helpers_models import make_gpt2
from helpers_stages import Sending
from transformers import GPT2LMHeadModel

from universal_ray.config.study import (
    BaselineConfig,
    ClusterConfig,
    CorpusConfig,
    ModelsConfig,
    RunConfig,
    Study,
    UnitsConfig,
)
from universal_ray.runtime import driver
from universal_ray.runtime.executor import Executor
from universal_ray.runtime.scheduler import Scheduler
from universal_ray.stages import registry
from universal_ray.stages.correlations.plan import Plan
from universal_ray.stages.inputs import Inputs, prepare
from universal_ray.stages.profile.artifacts import Profile, profile
from universal_ray.storage.finished import CORRELATIONS, PROFILE, REPORT, ROLES
from universal_ray.storage.store import Store

ROOT = Path(__file__).parents[1]
CONTEXT, ROWS, VOCABULARY, LAYERS, WIDTH = 32, 97, 300, 2, 32
WORKERS = tuple(
    f"ray::{name}" for name in ("Host", "calibrate-", "unit-", "fold-", "reduce-", "tables-")
)
"""How the processes of workers call themselves, idle or at one of these tasks."""
ALL = CORRELATIONS, PROFILE, ROLES, REPORT
DEAD = 5
"""A neuron of layer 0 of model `a` that never varies."""


def make_models(folder: Path, names: str = "abc") -> list[str]:
    """Random GPT-2s with both of the Stanford seeds' flags; `a` has one dead neuron."""
    paths = []
    for seed, name in enumerate(names):
        path = folder / name
        make_gpt2(
            path,
            seed,
            layers=LAYERS,
            width=WIDTH,
            vocabulary=VOCABULARY,
            context=CONTEXT,
            scale_attn_by_inverse_layer_idx=True,
            reorder_and_upcast_attn=True,
        )
        if name == "a":
            model: Any = GPT2LMHeadModel.from_pretrained(path)
            with torch.no_grad():
                model.transformer.h[0].mlp.c_fc.weight[:, DEAD] = 0
                model.transformer.h[0].mlp.c_fc.bias[DEAD] = 0
            model.save_pretrained(path)
        paths.append(str(path))
    return paths


def make_tokens(path: Path, rows: int = ROWS, seed: int = 0) -> str:
    """Random rows, begin-of-text first; the first rows do not depend on how many follow."""
    tokens = np.random.default_rng(seed).integers(1, VOCABULARY, (1000, CONTEXT))[:rows]
    tokens[:, 0] = 0
    tokens[:, 7] = np.where(np.arange(rows) % 3 == 0, 0, tokens[:, 7])
    datasets.Dataset.from_dict({"tokens": tokens.tolist()}).save_to_disk(str(path))
    return str(path)


def make_study(folder: Path, models: list[str], tokens: str, **cluster) -> Study:
    """97 rows in units of 8: six blocks of two units and one short unit after them."""
    return Study(
        run=RunConfig(dir=str(folder)),
        models=ModelsConfig(reference=models[0], compared=models[1:]),
        corpus=CorpusConfig(path=tokens),
        units=UnitsConfig(tokens=8 * CONTEXT + 5, batch=3 * CONTEXT, fold=2),
        cluster=ClusterConfig(**{"workers": 1, **cluster}),
        baseline=BaselineConfig(rotations=3),
    )


def command(study: Study, *more: str) -> list[str]:
    """The correlation stage of such a study, as a user types it."""
    compared = "[" + ",".join(study.models.compared) + "]"
    return [
        sys.executable, str(ROOT / "jobs" / "run.py"), "stages=[correlations]", "corpus=tokens",
        f"corpus.path={study.corpus.path}", f"run.dir={study.run.dir}",
        f"models.reference={study.models.reference}", f"models.compared={compared}",
        f"units.tokens={study.units.tokens}", f"units.batch={study.units.batch}",
        f"units.fold={study.units.fold}", f"cluster.workers={study.cluster.workers}",
        f"baseline.rotations={study.baseline.rotations}", *more,
    ]


# The one place in tests that knows how stages are prepared and run


def inputs_of(study: Study) -> Inputs:
    """What is found before any model runs, or refused."""
    return prepare(study, Store(study.run.dir))


def plan_of(study: Study) -> Plan:
    """Of the correlations."""
    return stages(study)[0].plan


def profile_of(study: Study, found: Inputs | None = None) -> Profile:
    return profile(found or inputs_of(study), Store(study.run.dir))


def stages(study: Study, *wanted: str) -> list[Any]:
    """Prepared: those of the names given, or of the correlations alone."""
    store, found = Store(study.run.dir), inputs_of(study)
    return [registry.stage(name)(found, store) for name in wanted or (CORRELATIONS,)]


def make(study: Study, *wanted: str, executor: Executor | None = None) -> Store:
    """Run such stages without a cluster."""
    store = Store(study.run.dir)
    driver.run(lambda: stages(study, *wanted), store, executor or Sending())
    return store


def run(study: Study, *wanted: str) -> Store:
    """Run such stages on Ray."""
    store = Store(study.run.dir)
    driver.run(lambda: stages(study, *wanted), store, Scheduler(study.cluster))
    return store


def table_bytes(store: Store) -> dict[str, bytes]:
    """What a user reads; the markers of stages beside it are unlike in every run."""
    return {
        path: store.get(path)
        for path in store.list("tables")
        if path.endswith(".parquet") or path == "tables/summary.json"
    }


def computed(store: Store) -> list[int]:
    """Unit indices in the order they were computed, over all runs of the directory."""
    return [json.loads(line)["unit"] for line in store.get("metrics.jsonl").decode().splitlines()]


def true_activations(path: str, tokens_BP: np.ndarray) -> np.ndarray:
    """Post-activations [T, N] of a plain Hugging Face model in float64."""
    model = GPT2LMHeadModel.from_pretrained(path).double().eval()
    kept = []
    for block in model.transformer.h:
        block.mlp.c_proj.register_forward_pre_hook(
            lambda _, inputs: kept.append(inputs[0].flatten(0, 1))
        )
    with torch.inference_mode():
        model(torch.from_numpy(tokens_BP))
    return torch.cat(kept, dim=1).numpy()
