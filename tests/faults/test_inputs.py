"""Inputs that change under a run: what is read is what was planned, or nothing is made of it."""

import shutil
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import pytest
from helpers_stages import Sending
from helpers_study import (
    CONTEXT,
    computed,
    inputs_of,
    make,
    make_models,
    make_study,
    make_tokens,
    plan_of,
    profile_of,
    stages,
    table_bytes,
)
from helpers_tiers import tiers

from universal_ray.errors import ConfigurationError, CorpusError
from universal_ray.runtime import driver
from universal_ray.storage.store import Store


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    return make_models(folder, "ab"), make_tokens(folder / "tokens", rows=20)


@pytest.fixture(scope="module")
def expected(inputs, tmp_path_factory):
    return table_bytes(make(make_study(tmp_path_factory.mktemp("plain"), *inputs)))


@pytest.fixture
def study(inputs, tmp_path):
    """With tokens of its own, that can be replaced."""
    tokens = shutil.copytree(inputs[1], tmp_path / "tokens")
    return make_study(tmp_path / "run", inputs[0], str(tokens))


@pytest.mark.parametrize(
    "when", tiers(["before the calibration", "before a unit"], ["before a unit"])
)
def test_tokens_replaced_after_the_plan_make_nothing_and_put_back_go_on(
    inputs, expected, study, when
):
    store, other = Store(study.run.dir), Path(study.corpus.path)

    def replaced():
        made = stages(study)
        tokens_BP = np.array(datasets.load_from_disk(inputs[1])["tokens"])
        tokens_BP[3 if when == "before the calibration" else 12, 5:] = 7
        shutil.rmtree(other)
        if when == "before the calibration":
            tokens_BP[0, 5:] = 7
        datasets.Dataset.from_dict({"tokens": tokens_BP.tolist()}).save_to_disk(str(other))
        return made

    with pytest.raises(CorpusError, match=r"row \d+ of .* has other tokens than when this run"):
        driver.run(replaced, store, Sending())
    with pytest.raises(ConfigurationError, match="are not the tokens of the run"):
        make(study)
    shutil.rmtree(other)
    shutil.copytree(inputs[1], other)
    assert table_bytes(make(study)) == expected


def test_sums_that_say_they_are_of_something_else_are_made_anew(expected, study, caplog):
    store = make(study)
    before = len(computed(store))
    folders = [path for path in store.list("moments") if path.endswith("done.json")]
    for path, kind in zip(folders[:2], ("models", "rows"), strict=True):
        told = store.get_json(path)
        told["of"][kind] = ["0" * 64]
        store.put_json(path, told)
    for path in [*store.list("reduce"), "tables/done.json"]:
        store.delete(path)
    make(study)
    assert len(computed(store)) > before and table_bytes(store) == expected


def test_sums_say_in_full_what_they_are_of(study):
    store = make(study)
    planned = plan_of(study)
    for item in planned.items:
        for block in planned.layout.blocks:
            told = store.get_json(f"{item.block_folder(block)}/done.json")["of"]
            assert told["models"] == [model.identity for model in item.models]
            assert told["rows"] == [unit.content for unit in block.units]
            assert all(len(each) == 64 for each in [*told["models"], *told["rows"], told["bits"]])


def test_without_its_study_a_run_directory_is_taken_for_nothing(study):
    store = make(study)
    (Path(study.run.dir) / "study.yaml").unlink()
    study.models.site = "mlp_pre"
    with pytest.raises(ConfigurationError, match=r"no study\.yaml"):
        make(study)
    assert store.exists("moments")


def test_growing_from_fewer_rows_than_a_batch_has_the_same_bits(inputs, expected, tmp_path):
    study = make_study(tmp_path, *inputs)
    small = deepcopy(study)
    small.corpus.tokens = 2 * CONTEXT
    store = make(small)
    assert len(store.list("calibration")) >= 2
    make(study)
    assert table_bytes(store) == expected


def test_a_tokenizer_that_says_other_words_labels_anew(inputs, tmp_path):
    study = make_study(tmp_path, *inputs)
    study.taxonomy.topics, study.taxonomy.syntax = 2, None
    found = inputs_of(study)
    before = profile_of(study, found).sums_key
    found = replace(found, tokenizer_identity="0" * 64)
    assert profile_of(study, found).sums_key != before
