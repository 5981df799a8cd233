"""What is refused before any model runs, each with one sentence that says what to do."""

import json
import re
import shutil
from io import StringIO
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from helpers_jobs import enter
from helpers_models import make_gpt2
from helpers_study import (
    CONTEXT,
    VOCABULARY,
    inputs_of,
    make,
    make_models,
    make_study,
    make_tokens,
    plan_of,
)
from rich.console import Console
from safetensors.torch import load_file

from universal_ray.cli.study import LOCAL
from universal_ray.cli.study import make as plan
from universal_ray.config.study import Align, Device
from universal_ray.errors import (
    ConfigurationError,
    CorpusError,
    MissingError,
    ModelError,
    ResourceError,
    StorageError,
)
from universal_ray.models.capture import Capture
from universal_ray.runtime.cluster import cluster
from universal_ray.storage.finished import CORRELATIONS
from universal_ray.storage.store import Store


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("refusals")
    return make_models(folder, "ab"), make_tokens(folder / "tokens", rows=12)


@pytest.fixture
def study(inputs, tmp_path):
    return make_study(tmp_path / "run", *inputs)


def refused(study, kind, match):
    with pytest.raises(kind, match=match) as caught:
        inputs_of(study)
    assert "\n" not in str(caught.value)


def save(rows, path):
    datasets.Dataset.from_dict({"tokens": rows}).save_to_disk(str(path))
    return str(path)


def test_a_disk_without_room_for_the_run_is_refused_and_a_tight_one_told(
    study, monkeypatch, caplog
):
    def with_free(many: int) -> None:
        monkeypatch.setattr("shutil.disk_usage", lambda _: shutil._ntuple_diskusage(0, 0, many))

    screen = Console(file=StringIO(), width=200)
    monkeypatch.setattr(Capture, "__init__", None)
    with_free(1 << 14)
    plan(study, CORRELATIONS, screen, LOCAL, dry=True)
    told = screen.file.getvalue()
    assert "there is room for 16.0 KiB" in told
    with pytest.raises(ResourceError, match=r"^The run leaves .*iB in .*run, whose disk has 16\."):
        plan(study, CORRELATIONS, screen, LOCAL)
    ((most, kept),) = re.findall(r"([\d.]+) MiB at once at most, ([\d.]+) MiB", told)
    assert float(most) > float(kept) + 0.2
    with_free(int((float(kept) + float(most)) * 2**19))
    with pytest.raises(TypeError), caplog.at_level("WARNING"):  # by the models, which cannot run
        plan(study, CORRELATIONS, screen, LOCAL)
    assert "it stops where that is full, and the same command goes on" in caplog.text


def test_a_sound_study_is_accepted(study):
    assert plan_of(study).total_tokens == 12 * CONTEXT


def test_missing_model_directory(study):
    study.models.reference = "/nowhere/model"
    refused(study, (MissingError, ModelError), "/nowhere/model")


def test_model_without_tokenizer(study, tmp_path):
    make_gpt2(tmp_path / "bare", 9, vocabulary=VOCABULARY, context=CONTEXT, tokenizer=False)
    study.models.compared = [str(tmp_path / "bare")]
    refused(study, ModelError, "tokenizer")


def test_tokenizers_that_differ(study, tmp_path):
    from helpers_models import make_tokenizer

    make_gpt2(tmp_path / "other", 9, vocabulary=VOCABULARY, context=CONTEXT)
    make_tokenizer(tmp_path / "other", text="quite another text, " * 50)
    study.models.compared = [str(tmp_path / "other")]
    study.corpus.align = Align.tokens
    refused(study, ModelError, "different tokenizers")


def test_same_model_under_two_names(study, inputs, tmp_path):
    twin = tmp_path / "twin"
    twin.symlink_to(inputs[0][1])
    study.models.compared = [inputs[0][1], str(twin)]
    refused(study, ConfigurationError, "same weights")


def copy_of(model: str, folder: Path) -> Path:
    """The same model, whose configuration says the version that saved it in other words."""
    shutil.copytree(model, folder)
    told = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**told, "_name_or_path": "me/twin"}))
    return folder


def test_same_weights_beside_other_words_in_the_configuration(study, inputs, tmp_path):
    study.models.compared = [*inputs[0][1:], str(copy_of(inputs[0][1], tmp_path / "twin"))]
    refused(study, ConfigurationError, "same weights")


def test_same_weights_in_files_of_another_format(study, inputs, tmp_path):
    """Bytes do not tell: what the models make of the first batch does, before sums are made."""
    twin = copy_of(inputs[0][0], tmp_path / "twin")
    torch.save(load_file(twin / "model.safetensors"), twin / "pytorch_model.bin")
    (twin / "model.safetensors").unlink()
    study.models.compared = [str(twin)]
    for _ in range(2):
        with pytest.raises(ConfigurationError, match="same weights"):
            make(study)
    assert not Store(study.run.dir).list("moments")


def test_missing_corpus(study):
    study.corpus.path = "/nowhere/tokens"
    refused(study, MissingError, "/nowhere/tokens")


def test_token_ids_outside_the_vocabulary(study, tmp_path):
    rows = np.full((4, CONTEXT), VOCABULARY)
    study.corpus.path = save(rows.tolist(), tmp_path / "large")
    refused(study, CorpusError, str(VOCABULARY))


def test_rows_longer_than_the_context(study, tmp_path):
    study.corpus.path = save(np.ones((4, CONTEXT + 1), int).tolist(), tmp_path / "long")
    refused(study, CorpusError, str(CONTEXT + 1))


def test_ragged_rows(study, tmp_path):
    study.corpus.path = save([[1] * CONTEXT, [1] * (CONTEXT - 1)], tmp_path / "ragged")
    refused(study, CorpusError, "row")


def test_no_token_left_after_the_mask(study, tmp_path):
    study.corpus.path = save([[0] * CONTEXT] * 4, tmp_path / "empty")
    refused(study, CorpusError, "leaves no token")


def test_context_other_than_the_rows(study):
    study.corpus.context = 16
    refused(study, CorpusError, r"corpus\.context=16")


def test_batch_shorter_than_a_row(study):
    study.units.batch = 3
    refused(study, ConfigurationError, r"units\.batch")


def test_run_directory_that_cannot_be_written(study, tmp_path):
    (tmp_path / "file").write_text("")
    study.run.dir = str(tmp_path / "file" / "run")
    with pytest.raises(StorageError, match=r"run\.dir"):
        make(study)


def test_cluster_that_does_not_answer(study):
    study.cluster.address = "127.0.0.1:1"
    with pytest.raises(ResourceError, match=r"cluster\.address"), cluster(study.cluster):
        pass


@pytest.mark.cluster
@pytest.mark.parametrize(("device", "lacking"), [("cpu", "4 CPUs"), ("cuda", "GPUs")])
def test_joined_cluster_that_has_too_little(nodes, study, device, lacking):
    nodes.some()
    study.cluster.address, study.cluster.device = nodes.address, Device(device)
    study.cluster.workers, study.cluster.threads = (2, 2) if device == "cpu" else (1, 1)
    with pytest.raises(ResourceError, match=lacking), cluster(study.cluster):
        pass


def test_entry_point_prints_one_sentence_and_exits(study, tmp_path):
    found = enter(
        "jobs/run.py", "models.reference=/nowhere/model", f"run.dir={tmp_path}/run", folder=tmp_path
    )
    assert found.returncode == 1
    assert found.stderr.startswith("error: ") and found.stderr.count("\n") == 1
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["lock"]
