"""What a change makes anew: as the artifacts declare, so the directory of a run shows."""

import json
import re
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from helpers_stages import follows
from helpers_study import CONTEXT, make
from helpers_tiers import tiers
from helpers_whole import copied, whole_run

from universal_ray.config.similarity import Measure
from universal_ray.config.study import (
    Baseline,
    Bound,
    Convention,
    Exclusion,
    ForwardType,
    Study,
    keys,
)
from universal_ray.errors import ConfigurationError
from universal_ray.stages import registry
from universal_ray.stages.changes import BY_CONTENT, PLACES, REFUSED, SHOWN, effect, table
from universal_ray.stages.inputs import find_models, outline
from universal_ray.stages.sums import SUMS, bits
from universal_ray.stages.total import described
from universal_ray.storage.artifacts import Artifact
from universal_ray.storage.store import Store

ROOT = Path(__file__).parents[2]
ARTIFACTS = registry.artifacts()
BY_NAME = {each.name: each for each in ARTIFACTS}


def all_of(artifacts) -> set[Artifact]:
    """And what they are made from, stored or not."""
    below = {each for artifact in artifacts for each in (*artifact.made_of, *artifact.chosen_by)}
    return {*artifacts, *(all_of(below) if below else ())}


EVERY = all_of(ARTIFACTS)
FILES = {
    "sums over tokens": "calibration/|moments/",
    "moments of neurons": "reduce/model-",
    "correlations": "reduce/pair-",
    "one-to-one matchings": "similarity/pair-[^/]*/matched",
    "similarities of layers": "similarity/pair-[^/]*/(layer|done)",
    "topics": "profile/topics-",
    "feature bank": "profile/bank-",
    "labels of tokens": "profile/labels-",
    "shifts of neurons": "profile/shifts-",
    "sums of statistics": "profile/sums-",
    "statistics of weights": "profile/weights-",
    "scores of features": "profile/scores-",
    "scores of roles": "roles/scores-",
    "responses to tokens": "roles/responses-",
    "effects of interventions": "roles/effects-",
    "ablated paths": "roles/paths-",
    "windows of the largest activations": "examples/peaks-",
    "windows of a sample": "examples/sample-",
    "windows of examples": "examples/windows-",
    "partners in windows": "examples/partners-",
    "activations by what tokens are": "examples/groups-",
    "descriptions": "examples/descriptions-",
    "transfer of descriptions": "examples/transfer-",
}
"""By artifact, how the paths of its files begin; tables are known by their marker."""
OTHERWISE: dict[str, Any] = {
    "baseline.rotations": 3,
    "baseline.kind": Baseline.orthogonal,
    "baseline.seed": 1,
    "universal.threshold": 0.01,
    "similarity.measures": [Measure.cka],
    "taxonomy.tokens": 6 * CONTEXT,
    "taxonomy.exclude": Exclusion.special,
    "taxonomy.convention": Convention.raw,
    "taxonomy.syntax": "rules",
    "taxonomy.topics": 3,
    "taxonomy.unigram_ids": 1,
    "taxonomy.unigram_occurrences": 2,
    "taxonomy.minimum_support": 4,
    "taxonomy.examples": 3,
    "taxonomy.subset_histograms": True,
    "taxonomy.listed": 3,
    "taxonomy.features": 2,
    "roles.tokens": 5 * CONTEXT,
    "roles.sweep": [0.0, 1.0],
    "roles.candidates": 2,
    "roles.controls": 2,
    "roles.sets": 2,
    "roles.sweep_pre": [-1.0],
    "roles.bounds": [Bound.relu],
    "roles.neurons": ["0.3"],
    "roles.paths": ["0.4>1.0"],
    "roles.kurtosis": 0.5,
    "roles.partition": 0.5,
    "roles.null_share": 0.1,
    "roles.frequency": 0.1,
    "roles.seed": 1,
    "report.window": 6,
    "report.top": 1,
    "report.quantiles": 1,
    "report.random": 2,
    "report.silent": 2,
    "report.sample": 5 * CONTEXT,
    "report.tokens": 7 * CONTEXT,
    "report.neurons": ["1.3"],
    "report.score": 0.9,
    "report.seed": 1,
}
"""Another value of every key that a finished run may be given, but for those that add to it."""
QUICK = {"roles.sweep", "universal.threshold", "report.seed"}


# Declared


def test_every_key_is_declared_once():
    declared = {key for each in EVERY for key in (*each.keys, *each.grows_with)}
    assert declared | set(BY_CONTENT) | set(PLACES) | set(SHOWN) == set(keys())
    assert not declared & {*BY_CONTENT, *PLACES, *SHOWN} and not set(BY_CONTENT) & set(PLACES)


def test_names_tell_artifacts_apart_and_each_follows_what_it_is_made_of():
    assert len(BY_NAME) == len(ARTIFACTS)
    for place, each in enumerate(ARTIFACTS):
        assert all_of([each]) & set(ARTIFACTS) <= set(ARTIFACTS[: place + 1])


@pytest.mark.parametrize("key", SUMS.keys)
def test_bits_change_exactly_with_refused_keys(key):
    settled = dict.fromkeys(keys(), 0)
    before, after = bits(settled), bits({**settled, key: 1})
    assert [name for name in before if before[name] != after[name]] == [key]
    assert effect(key, ARTIFACTS) == REFUSED


def test_the_readme_says_what_the_artifacts_declare():
    assert table(ARTIFACTS) in (ROOT / "README.md").read_text(encoding="utf-8")


# Shown


def pieces(folder: Path) -> dict[str, Any]:
    """Markers of all that is stored, by path and which file it is; tables by what they are of."""
    found: dict[str, Any] = {
        str(path.relative_to(folder)): path.stat().st_ino
        for path in folder.glob("*/**/*.json")
        if not {"tables", "lock"} & set(path.parts)
    }
    stages = json.loads((folder / "tables" / "done.json").read_text())["stages"]
    return found | {f"tables of the {stage}": of for stage, of in stages.items()}


def made_anew(before: dict[str, Any], after: dict[str, Any]) -> set[str]:
    """Names of artifacts."""
    new = [path for path, content in after.items() if before.get(path) != content]
    found = {path for path in new if path.startswith("tables of the")}
    return found | {
        name for path in new for name, begins in FILES.items() if re.match(begins, path)
    }


@pytest.fixture(scope="module")
def finished_run(once) -> tuple[Path, Study]:
    study, _ = whole_run(once)
    return Path(study.run.dir), study


@pytest.fixture
def again(finished_run, tmp_path):
    """The finished run in a place of its own, to be run again."""
    source, study = finished_run
    study = deepcopy(study)
    study.run.dir = str(copied(source, tmp_path / "run"))
    return study, pieces(tmp_path / "run")


def test_a_finished_run_holds_something_of_every_artifact(again):
    assert made_anew({}, again[1]) == set(BY_NAME)


def test_every_key_that_may_change_has_another_value_here():
    assert set(OTHERWISE) == {
        key
        for each in EVERY
        for key in (*each.keys, *each.grows_with)
        if key not in (*SUMS.keys, *SUMS.grows_with, "taxonomy.words")
    }


@pytest.mark.parametrize("key", tiers(OTHERWISE, QUICK))
def test_a_change_makes_anew_what_depends_on_it_and_nothing_else(again, key):
    study, before = again
    section, name = key.split(".")
    assert getattr(getattr(study, section), name) != OTHERWISE[key]
    setattr(getattr(study, section), name, OTHERWISE[key])
    make(study, *registry.STAGES)
    made = made_anew(before, pieces(Path(study.run.dir)))
    assert made <= {each.name for each in ARTIFACTS if each.touched_by(key)}
    settled = dict.fromkeys(keys())
    other = {**settled, key: "other"}
    decided = {each.name for each in ARTIFACTS if each.recipe(settled) != each.recipe(other)}
    assert decided <= made


def planned(study: Study) -> dict[str, str]:
    """Rows of the plan of all stages, told before any work."""
    store = Store(study.run.dir)
    found = outline(find_models(study, store), store)
    assert found is not None
    costs = {name: registry.stage(name).cost(found, store) for name in registry.STAGES}
    return dict(described(found, store, costs))


def test_the_plan_says_what_is_left_and_what_a_changed_key_makes_anew(again):
    study, _ = again
    study.cluster.tflops = 0.1
    rows = planned(study)
    assert rows["time"] == "nothing is left but to look"
    assert "changed" not in rows and "download" not in rows
    study.universal.threshold = 0.01
    rows = planned(study)
    assert rows["changed"].startswith("universal.threshold, from 0.02 to 0.01: makes anew tables")
    assert "effects of interventions" in rows["changed"]
    assert "forward passes" not in rows["of which"] and "profile 0 %" in rows["of which"]
    study.universal.threshold, study.models.dtype = 0.02, ForwardType.bfloat16
    assert planned(study)["changed"].startswith("models.dtype, from float32 to bfloat16: refused")


def test_nothing_is_made_anew_without_a_change(again):
    study, before = again
    study.cluster.memory = 1.0
    make(study, *registry.STAGES)
    assert pieces(Path(study.run.dir)) == before


@pytest.mark.parametrize("name", tiers(BY_NAME, QUICK))
def test_a_raised_version_makes_anew_what_is_made_of_it_and_nothing_else(again, name, monkeypatch):
    study, before = again
    raised = BY_NAME[name]
    settled = dict.fromkeys(keys())
    recipes = {each.name: each.recipe(settled) for each in ARTIFACTS}
    version = raised.version
    object.__setattr__(raised, "version", "raised")
    try:
        if raised is SUMS:
            with pytest.raises(ConfigurationError, match="another version of universal_ray"):
                make(study, *registry.STAGES)
            return
        make(study, *registry.STAGES)
        decided = {e.name for e in ARTIFACTS if e.recipe(settled) != recipes[e.name]}
        may = {each.name for each in ARTIFACTS if follows(each, raised)}
    finally:
        object.__setattr__(raised, "version", version)
    made = made_anew(before, pieces(Path(study.run.dir)))
    assert decided <= made <= may
