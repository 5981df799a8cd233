"""A study of the roles on two planted models, and where what it told is found."""

from pathlib import Path

import datasets
import numpy as np
import pyarrow.compute as pc
import pytest
import yaml
from helpers_planted import (
    MEMBERS,
    plant,
)
from helpers_study import make
from helpers_whole import copied, whole_study
from transformers import AutoTokenizer

from universal_ray.config.study import Bound, RolesConfig, Study
from universal_ray.storage.finished import CORRELATIONS, PROFILE
from universal_ray.storage.finished import ROLES as ROLES_STAGE
from universal_ray.storage.store import Store

CONTEXT, ROWS, INTERVENED = 32, 240, 16
CANDIDATES, LISTED = 2, 7
SEEDS = 3, 4
NAMED = ["0.5", f"seed-{SEEDS[0]}:2.11"]
"""Of which one is the entropy neuron, and a candidate too."""


def make_study(folder: Path, models: list[str], tokens: str, words: str) -> Study:
    return whole_study(
        folder, models, tokens, units__tokens=60 * CONTEXT, units__batch=30 * CONTEXT,
        taxonomy__words=[words], taxonomy__listed=LISTED, roles__tokens=INTERVENED * CONTEXT,
        roles__sweep=RolesConfig().sweep, roles__candidates=CANDIDATES, roles__controls=3,
        roles__sets=2, roles__null_share=0.8, roles__neurons=NAMED,
        roles__paths=["2", "0.5>2.3", ">2.1"], roles__sweep_pre=[-0.4], roles__bounds=list(Bound),
    )  # fmt: skip


def make_inputs(folder: Path) -> None:
    for seed in SEEDS:
        plant(folder / f"seed-{seed}", seed)
    rng = np.random.default_rng(0)
    tokenizer = AutoTokenizer.from_pretrained(folder / f"seed-{SEEDS[0]}")
    tokens_BP = rng.integers(1, len(tokenizer), (ROWS, CONTEXT))  # beyond it ids are padding
    tokens_BP[:, 0] = 0
    datasets.Dataset.from_dict({"tokens": tokens_BP.tolist()}).save_to_disk(str(folder / "tokens"))
    texts = [tokenizer.decode([index]) for index in MEMBERS]
    feature = {"description": "ids that were planted", "words": texts}
    (folder / "words.yaml").write_text(yaml.safe_dump(
        {"family": "planted", "match": "case", "features": {"planted_class": feature}}
    ))


@pytest.fixture(scope="module")
def inputs(once):
    """Two planted models, random tokens, and a list of what the promoter writes."""
    folder = once("inputs-of-roles", make_inputs)
    models = [str(folder / f"seed-{seed}") for seed in SEEDS]
    return models, str(folder / "tokens"), str(folder / "words.yaml")


@pytest.fixture(scope="module")
def several_shards():
    """Of four rows each, where so few would be one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("universal_ray.stages.roles.plan.SHARD_TOKENS", 4 * CONTEXT)
        yield


@pytest.fixture(scope="module")
def run(once, inputs, several_shards):
    """The whole study; beside it, as it was before the roles."""

    def make_run(folder: Path) -> None:
        study = make_study(folder / "run", *inputs)
        make(study, CORRELATIONS, PROFILE)
        copied(folder / "run", folder / "profiled")
        make(study, ROLES_STAGE)

    study = make_study(once("run-of-roles", make_run) / "run", *inputs)
    return study, Store(study.run.dir)


def rows_of(store: Store, table: str, model: str) -> list[dict]:
    found = store.get_table(f"tables/{table}.parquet")
    return found.filter(pc.equal(found["model"], Path(model).name)).to_pylist()
