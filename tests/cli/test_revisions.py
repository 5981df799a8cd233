"""A seed followed through its training, from the checkpoints that the training keeps."""

import contextlib
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pytest
from helpers_jobs import enter
from helpers_study import make
from helpers_summary import differences

from universal_ray.cli.options import composed
from universal_ray.config.study import Study
from universal_ray.report.screen import console, show_results
from universal_ray.report.tables import SUMMARY
from universal_ray.storage.store import Store
from universal_ray.testbed import text, training

SEEDS, REVISIONS = "abc", (2, 20)
MICRO = training.Settings(
    layers=2, width=16, heads=2, context=16, vocabulary=300, batch=8, steps=20, warmup=2,
    checkpoint_every=50, keep=list(REVISIONS),
)


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A directory where seeds were trained, as `jobs/train_seeds.py` does."""
    folder = tmp_path_factory.mktemp("persistence")
    output = folder / "runs" / "testbed"
    words = ["one", "neuron", "of", "every", "layer", "fires", "when", "a", "token", "returns"]
    generator = np.random.default_rng(0)
    made = [
        text.Document("docstrings", " ".join(generator.choice(words, 60))) for _ in range(200)
    ]
    training.prepare(MICRO, output, made)
    for name in SEEDS:
        training.train_seed(MICRO, name, output)
    return folder


def made(home: Path, directory: str, *options: str) -> Store:
    """The experiment of fewer seeds, without a cluster."""
    given = ["experiment=persistence", f"run.dir={directory}", "universal.threshold=0.02", *options]
    study = composed(given, "config", Study)
    study.models.compared = study.models.compared[: len(SEEDS) - 1]
    with contextlib.chdir(home):
        make(study)
    return Store(str(home / directory))


def universal(store: Store, model: str) -> list[bool]:
    table = store.get_table("tables/neurons.parquet")
    mine = table.filter(pc.equal(table["model"], model))
    return pc.fill_null(mine["is_universal"], False).to_pylist()


@pytest.mark.thorough
def test_universal_sets_by_revision_and_what_stays(home, capsys):
    revisions = "[" + ",".join(map(str, REVISIONS)) + "]"
    store = made(home, "followed", f"models.revisions={revisions}")
    summary = store.get_json("tables/summary.json")
    assert differences(summary, SUMMARY["correlations"]) == (set(), set())
    (followed,) = summary["followed"]
    assert followed["model"] == "a-step{revision}"
    assert followed["revisions"] == [str(each) for each in REVISIONS]
    sets = [universal(store, f"a-step{each}") for each in REVISIONS]
    assert followed["universal"] == [sum(each) for each in sets]
    assert sum(sets[-1]) > 0
    both = sum(a and b for a, b in zip(*sets, strict=True))
    assert followed["overlap"][0][1] == both
    assert sum(row["overlap"][0][1] for row in followed["layers"]) == both
    # A revision is a model like any other: the same table as a study of its own.
    names = [f"runs/testbed/{seed}-step{REVISIONS[-1]}" for seed in SEEDS]
    alone = made(
        home, "alone", "models.revisions=[]", f"models.reference={names[0]}",
        f"models.compared=[{','.join(names[1:])}]",
    )
    together = store.get_table("tables/neurons.parquet")
    mine = together.filter(pc.equal(together["model"], Path(names[0]).name))
    assert mine.equals(alone.get_table("tables/neurons.parquet"))
    show_results(console(), store)
    shown = capsys.readouterr().out
    assert f"at {REVISIONS[-1]}" in shown and "layer 1" in shown


@pytest.mark.thorough
def test_a_name_without_a_place_for_the_revision_is_refused(home):
    found = enter(
        "jobs/run.py", "stages=[correlations]", "run.dir=x", "experiment=persistence",
        "models.reference=runs/testbed/a", folder=home,
    )  # fmt: skip
    assert found.returncode == 1
    assert "write {revision} where its name holds the revision" in found.stderr
    assert not (home / "x").exists()
