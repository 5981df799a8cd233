"""What of a profile a change makes anew, and what its plan is told from."""

import logging
import os
import shutil
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers_models import make_gpt2
from helpers_stages import Sending, follows
from helpers_study import CONTEXT, VOCABULARY, make_study, make_tokens, table_bytes
from helpers_tiers import tiers

from universal_ray.config.study import Exclusion, Study, TaxonomyConfig
from universal_ray.corpus.rows import TokenCorpus
from universal_ray.errors import ConfigurationError, MissingError
from universal_ray.runtime import driver
from universal_ray.stages import inputs as inputs_of
from universal_ray.stages.correlations.stage import CorrelationsStage
from universal_ray.stages.inputs import Outline, prepare
from universal_ray.stages.profile import artifacts as kinds
from universal_ray.stages.profile.artifacts import profile
from universal_ray.stages.profile.stage import ProfileStage
from universal_ray.storage import checked
from universal_ray.storage.store import Store

KINDS = {
    "topics": kinds.TOPICS,
    "features": kinds.BANK,
    "label": kinds.LABELS,
    "shift": kinds.SHIFTS,
    "profile": kinds.STATISTICS_SUMS,
    "weights": kinds.WEIGHTS,
    "scores": kinds.SCORES,
    "tables": kinds.TABLES,
}
"""By what the names of the tasks of each begin with."""
ALL = frozenset(KINDS) - {"weights", "shift"}
CHANGES: dict[str, tuple[Any, set[str] | frozenset[str]]] = {
    "tokens": (10 * CONTEXT, ALL),
    "exclude": (Exclusion.special, {"profile", "scores", "tables"}),
    "convention": ("raw", {"weights", "tables"}),
    "syntax": ("rules", ALL - {"topics"}),
    "topics": (3, ALL),
    "words": (["more.yaml"], {"features", "scores", "tables"}),
    "unigram_ids": (1, {"features", "scores", "tables"}),
    "unigram_occurrences": (2, {"features", "scores", "tables"}),
    "minimum_support": (8, {"scores", "tables"}),
    "examples": (3, {"profile", "scores", "tables"}),
    "subset_histograms": (True, {"profile", "scores", "tables"}),
    "listed": (3, {"scores", "weights", "tables"}),
    "features": (2, {"tables"}),
}
"""Another value of every key of the profile, and which tasks it asks for."""
MORE = "family: more\nmatch: exact\nfeatures:\n  more_one: {description: a word, words: [a, b]}\n"


def stages(study: Study, store: Store) -> list:
    inputs = prepare(study, store)
    return [CorrelationsStage(inputs, store), ProfileStage(inputs, store)]


def run(study: Study) -> Store:
    store = Store(study.run.dir)
    driver.run(lambda: stages(study, store), store, Sending())
    return store


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A finished profile and its tables."""
    folder = tmp_path_factory.mktemp("profile")
    models = [
        str(make_gpt2(folder / name, seed, width=8, vocabulary=VOCABULARY, context=CONTEXT))
        for seed, name in enumerate("ab")
    ]
    study = make_study(folder / "run", models, make_tokens(folder / "tokens", 24))
    study.taxonomy = TaxonomyConfig(
        topics=2, unigram_ids=0, unigram_occurrences=1, minimum_support=5, syntax=None
    )
    return study, table_bytes(run(study))


@pytest.fixture
def study(whole, tmp_path, monkeypatch):
    """The same in a directory of its own."""
    monkeypatch.chdir(tmp_path)
    again = deepcopy(whole[0])
    again.run.dir = str(tmp_path / "run")
    shutil.copytree(
        whole[0].run.dir, again.run.dir, copy_function=os.link, ignore=lambda *_: ["lock"]
    )
    return again


def asked(study: Study) -> set[str]:
    """Kinds of tasks that a stage would do."""
    _, stage = stages(study, Store(study.run.dir))
    if stage.begin() is None:
        return set()
    batches = stage.batches([("here", 2.0**40)])
    return {task.name.split("-")[0] for batch in batches for task in batch.tasks}


@pytest.mark.parametrize("key", tiers(CHANGES, CHANGES.keys() - {"tokens"}))
def test_a_change_makes_anew_what_its_artifacts_say_and_no_more(study, tmp_path, key):
    assert asked(study) == set()
    (tmp_path / "more.yaml").write_text(MORE)
    value, expected = CHANGES[key]
    setattr(study.taxonomy, key, value)
    assert asked(study) == expected
    touched = {kind for kind, made in KINDS.items() if made.touched_by(f"taxonomy.{key}")}
    assert touched - expected <= ({"shift"} if key == "tokens" else set())
    assert expected <= touched


def test_every_key_of_the_profile_is_tried(study):
    assert set(vars(study.taxonomy)) == set(CHANGES)


def test_another_word_in_a_list_of_the_same_name_makes_the_features_anew(study, tmp_path):
    (tmp_path / "more.yaml").write_text(MORE)
    study.taxonomy.words = ["more.yaml"]
    before = profile(prepare(study, Store(study.run.dir)), Store(study.run.dir))
    (tmp_path / "more.yaml").write_text(MORE.replace("[a, b]", "[a, c]"))
    after = profile(prepare(study, Store(study.run.dir)), Store(study.run.dir))
    assert before.bank_key != after.bank_key and before.sums_key == after.sums_key


@pytest.mark.parametrize("kind", KINDS)
def test_a_raised_version_makes_anew_what_is_made_of_it(study, kind):
    artifact = KINDS[kind]
    was = artifact.version
    object.__setattr__(artifact, "version", f"{was} and more")
    try:
        expected = {name for name, other in KINDS.items() if follows(other, artifact)}
        assert asked(study) == expected
    finally:
        object.__setattr__(artifact, "version", was)


def test_another_minimum_support_reads_no_tokens_and_runs_no_model(whole, study, monkeypatch):
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("nothing is to be read or run")

    study.taxonomy.minimum_support = 8
    monkeypatch.setattr("universal_ray.models.capture.boot", refuse)
    monkeypatch.setattr("universal_ray.models.weights.boot", refuse)
    monkeypatch.setattr("universal_ray.runtime.worker.Worker.tokens", refuse)
    assert table_bytes(run(study)) != whole[1]


def rewritten(store: Store, path: str, name: str) -> None:
    """A file without one of its tensors, by a writer that knew none."""
    tensors = store.get_tensors(path)
    del tensors[name]
    store.delete(path)
    checked.put_tensors(store, path, tensors)


@pytest.mark.parametrize(
    ("file", "name"),
    tiers(
        [("layer", "highest.mean_id"), ("layer", "reach"), ("weights", "in_sim.max_N"),
         ("weights", "input_bias"), ("bank", "membership_VF")],
        [("layer", "highest.mean_id")],
    ),
)  # fmt: skip
def test_a_missing_tensor_is_told_by_its_name_and_made_anew(whole, study, caplog, file, name):
    store = Store(study.run.dir)
    recipe = profile(prepare(study, store), store)
    model = recipe.models[0]
    path = {
        "layer": recipe.layer_file(model, 1),
        "weights": recipe.weights_file(model),
        "bank": recipe.bank_file,
    }[file]
    rewritten(store, path, name)
    study.taxonomy.features = 2  # so that tables are made of what lies there
    with caplog.at_level(logging.WARNING):
        found = table_bytes(run(study))
    assert f"{path} lacks {name}: " in caplog.text
    unlike = {each for each, content in whole[1].items() if found[each] != content}
    assert unlike == {"tables/features.parquet"}


@pytest.fixture
def fresh(study, tmp_path):
    study.run.dir = str(tmp_path / "fresh")
    return study


def outline_of(study: Study) -> Outline:
    store = Store(study.run.dir)
    found = inputs_of.outline(inputs_of.find_models(study, store), store)
    assert found
    return found


def test_the_plan_of_a_fresh_directory_runs_no_model_and_reads_no_tokens(fresh, monkeypatch):
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("nothing is to be read or run")

    for name in ("capture.boot", "weights.boot", "bridge.boot"):
        monkeypatch.setattr(f"universal_ray.models.{name}", refuse)
    monkeypatch.setattr(TokenCorpus, "read", refuse)
    rows = dict(ProfileStage.describe(outline_of(fresh), Store(fresh.run.dir)))
    assert "128 neurons, 768 tokens" in rows["profile"]
    assert "word lists" in rows["features"] and "2 topics" in rows["features"]
    assert not Path(fresh.run.dir).exists()


def test_the_plan_tells_how_many_features_a_bank_that_is_there_has(study):
    store = Store(study.run.dir)
    bank = profile(prepare(study, store), store).read_bank(store)
    rows = dict(ProfileStage.describe(outline_of(study), store))
    assert rows["features"].startswith(f"{bank.membership_VF.shape[1]} of the token id")
    assert f"and {len(bank.row_columns())} of the row" in rows["features"]


@pytest.mark.parametrize(
    ("changes", "error", "match"),
    [
        ({"words": ["none.yaml"]}, MissingError, r"no word list none\.yaml"),
        ({"words": ["bad.yaml"]}, ConfigurationError, r"bad\.yaml must hold"),
        ({"syntax": "xx_none"}, ConfigurationError, "taxonomy.syntax is xx_none"),
    ],
)
def test_what_is_wrong_with_options_is_told_with_the_plan(fresh, tmp_path, changes, error, match):
    (tmp_path / "bad.yaml").write_text("family: more\n")
    fresh.taxonomy = replace(fresh.taxonomy, **changes)
    with pytest.raises(error, match=match):
        ProfileStage.describe(outline_of(fresh), Store(fresh.run.dir))


def test_a_feature_that_is_named_twice_is_refused_before_any_model_runs(fresh, tmp_path):
    (tmp_path / "more.yaml").write_text(MORE.replace("more_one", "letter_a"))
    fresh.taxonomy.words = ["more.yaml"]
    with pytest.raises(ConfigurationError, match="two features have the name letter_a"):
        stages(fresh, Store(fresh.run.dir))
