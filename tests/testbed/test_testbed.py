"""The embedded models and text: what is shipped, and the training that made it."""

import importlib.util
import json
import math
import platform
import sys
from dataclasses import asdict, replace
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from safetensors import safe_open
from transformers import AutoTokenizer, GPT2LMHeadModel

from universal_ray.errors import ConfigurationError, MissingError, NumericalError
from universal_ray.testbed import MODEL_NAMES, model_path, text, tokens_path, training

MICRO = training.Settings(
    layers=1, width=16, heads=2, context=16, vocabulary=300, batch=4, steps=7, warmup=2,
    checkpoint_every=2, compiled=False,
)
JOB = Path(__file__).parents[2] / "jobs" / "train_seeds.py"


def load(path: Path) -> GPT2LMHeadModel:
    return GPT2LMHeadModel.from_pretrained(path, dtype=torch.float32, local_files_only=True)


def arrays(path: Path) -> dict[str, torch.Tensor]:
    with safe_open(path / "model.safetensors", "pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118


def shipped_record() -> dict:
    return json.loads((tokens_path().parent / "training.json").read_text())


@pytest.fixture(scope="module")
def documents() -> list[text.Document]:
    return text.gather()


@pytest.fixture(scope="module")
def rows() -> datasets.Dataset:
    return datasets.load_from_disk(str(tokens_path()))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Training data of a made-up text."""
    output = tmp_path_factory.mktemp("seeds")
    words = ["one", "neuron", "of", "every", "layer", "fires", "when", "a", "token", "returns"]
    generator = np.random.default_rng(0)
    made = [
        text.Document("docstrings" if i % 3 else "reference", " ".join(generator.choice(words, 40)))
        for i in range(120)
    ]
    training.prepare(MICRO, output, made)
    return output


def branch(prepared: Path, output: Path) -> Path:
    """An output directory of its own on the same training data."""
    output.mkdir()
    (output / "data").symlink_to(prepared / "data")
    return output


# What is shipped


def test_models_load_in_float32_and_differ_in_weights_alone():
    models = {name: load(model_path(name)) for name in MODEL_NAMES}
    first = models["a"]
    configs = {json.dumps(m.config.to_diff_dict(), sort_keys=True) for m in models.values()}
    assert len(configs) == 1
    assert first.config.activation_function == "gelu_new"
    assert first.config.n_inner in (None, 4 * first.config.n_embd) and first.config.n_embd >= 128
    assert 1500 <= 4 * first.config.n_embd * first.config.n_layer <= 2500
    for name, model in models.items():
        assert {p.dtype for p in model.parameters()} == {torch.float32}
        assert all(torch.isfinite(p).all() for p in model.parameters())
        stored = arrays(model_path(name))
        assert {value.dtype for value in stored.values()} == {torch.float16}
        if name != "a":
            reference = arrays(model_path("a"))
            matrices = [key for key, value in reference.items() if value.dim() == 2]
            assert matrices
            assert all(not torch.equal(stored[key], reference[key]) for key in matrices)


def test_everything_shipped_is_small():
    files = [path for path in tokens_path().parent.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 20e6
    names = {path.name for path in files}
    assert "LICENSE-PYTHON.txt" in names
    assert not {name for name in names if name.endswith((".pt", ".bin", ".pkl"))}


def test_tokenizer_is_shared_and_newline_is_one_token():
    tokenizers = [AutoTokenizer.from_pretrained(model_path(name)) for name in MODEL_NAMES]
    first = tokenizers[0]
    assert all(tokenizer.get_vocab() == first.get_vocab() for tokenizer in tokenizers)
    assert len(first) == load(model_path("a")).config.vocab_size
    assert len(first.encode("\n")) == 1
    assert first.bos_token_id == first.eos_token_id == first.pad_token_id is not None
    awkward = "def f(x):\n    return 'é' + \"\t→\"\n\n"
    assert first.decode(first.encode(awkward)) == awkward


def test_held_out_rows_are_well_formed(rows):
    assert isinstance(rows.features["tokens"].feature, datasets.Value)
    assert rows.features["tokens"].feature.dtype == "uint16"
    ids = np.array(rows["tokens"])
    tokenizer = AutoTokenizer.from_pretrained(model_path("a"))
    assert ids.shape[1] == 128 and ids.size >= 260_000
    assert (ids[:, 0] == tokenizer.bos_token_id).all()
    assert ids.max() < len(tokenizer)
    subsets = set(rows["subset"])
    assert {"reference", "docstrings"} < subsets
    assert all(name.startswith("code: ") for name in subsets - {"reference", "docstrings"})
    manifest = json.loads((tokens_path() / "manifest.json").read_text())
    assert manifest["rows"] == len(rows) and manifest["tokens"] == ids.size
    assert manifest["subsets"] == {name: rows["subset"].count(name) for name in sorted(subsets)}


@pytest.mark.thorough
def test_rows_are_the_held_out_text_again(rows, documents):
    if platform.python_version() != shipped_record()["text"]["python"]:
        pytest.skip("the text depends on the Python version")
    tokenizer = AutoTokenizer.from_pretrained(model_path("a"))
    again, subsets = training.held_out_rows(
        documents, tokenizer.backend_tokenizer, tokenizer.eos_token_id, 128
    )
    assert np.array_equal(again, np.array(rows["tokens"]))
    assert subsets == list(rows["subset"])


@pytest.mark.thorough
def test_record_tells_the_held_out_loss_and_seeds_differ_in_nothing_else():
    records = {record["name"]: record for record in shipped_record()["seeds"]}
    assert tuple(records) == MODEL_NAMES
    assert len({record["seed"] for record in records.values()}) == len(MODEL_NAMES)
    for key in ("settings", "text_sha256", "tokens_seen"):
        assert len({json.dumps(record[key]) for record in records.values()}) == 1
    for record in records.values():
        assert len(record["loss_curve"]) <= 202
        assert record["loss_curve"][0][1] > 2 * record["loss_curve"][-1][1]
    loss = training.held_out_loss(load(model_path("a")), tokens_path().parent)
    assert loss == pytest.approx(records["a"]["held_out_loss"], abs=0.01)


# Text


@pytest.mark.thorough
def test_gathering_is_the_same_in_another_process(documents):
    recorded = shipped_record()["text"]
    if platform.python_version() == recorded["python"]:
        assert text.fingerprint(documents) == recorded["text_sha256"]
    else:  # the text depends on the Python version
        assert text.fingerprint(documents) == text.fingerprint(text.gather())


@pytest.mark.thorough
def test_no_held_out_document_is_trained_on(documents):
    held_out = {document.text for document in documents if document.held_out}
    assert len({document.text for document in documents}) == len(documents)
    assert held_out.isdisjoint(d.text for d in documents if not d.held_out)
    share = sum(map(len, held_out)) / sum(len(document.text) for document in documents)
    assert 0.05 < share < 0.15
    assert all(document.text.strip() for document in documents)


def test_docstrings_are_taken_out_of_the_code():
    source = '"""Top."""\n\nimport os\n\n\ndef f():\n    """Say.\n\n    More."""\n    return 1\n'
    source += "\n\nclass C:\n    x = 'not a docstring'\n\n\nlast = f()\n"
    found = list(text._documents(source, text.ast.parse(source), "m", "code: other"))
    prose = [document.text for document in found if document.subset == "docstrings"]
    code = [document.text for document in found if document.subset == "code: other"]
    assert prose == ["m\n\nTop.\n\nm.f\n\nSay.\n\nMore.\n"]
    assert code == [
        "import os\n\n\ndef f():\n    return 1\n",
        "class C:\n    x = 'not a docstring'\n",
        "last = f()\n",
    ]


# Training


def test_interrupted_training_ends_in_the_same_bits(prepared, tmp_path, monkeypatch):
    whole, broken = branch(prepared, tmp_path / "whole"), branch(prepared, tmp_path / "broken")
    expected = training.train_seed(MICRO, "a", whole)
    honest = training.batch_rows

    def interrupted(stream, seed, step, settings):
        if step == 5:
            raise KeyboardInterrupt
        return honest(stream, seed, step, settings)

    monkeypatch.setattr(training, "batch_rows", interrupted)
    with pytest.raises(KeyboardInterrupt):
        training.train_seed(MICRO, "a", broken)
    seen = []

    def counted(stream, seed, step, settings):
        seen.append(step)
        return honest(stream, seed, step, settings)

    monkeypatch.setattr(training, "batch_rows", counted)
    record = training.train_seed(MICRO, "a", broken)
    assert seen == [4, 5, 6]  # from the last checkpoint, not from the start
    assert record | {"seconds": 0} == expected | {"seconds": 0}
    one, other = arrays(whole / "a"), arrays(broken / "a")
    assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)
    assert training.train_seed(MICRO, "a", broken) == json.loads(json.dumps(record))
    assert seen == [4, 5, 6]  # a finished seed is not trained again


def test_models_along_the_way_and_export(prepared, tmp_path):
    output = branch(prepared, tmp_path / "seeds")
    settings = replace(MICRO, keep=[3, 7])
    records = [training.train_seed(settings, name, output) for name in ("a", "f")]
    early, late, final = (arrays(output / path) for path in ("a-step3", "a-step7", "a"))
    assert all(torch.equal(late[key], final[key]) for key in final)
    assert any(not torch.equal(early[key], final[key]) for key in final)
    load(output / "a-step3")
    other = arrays(output / "f")
    assert not torch.equal(other["transformer.wte.weight"], final["transformer.wte.weight"])
    package = tmp_path / "package"
    training.export(output, ["a", "f"], package)
    training.export(output, ["a", "f"], package)  # again, over the first
    content = json.loads((package / "training.json").read_text())
    assert [seed["held_out_loss"] for seed in content["seeds"]] == [
        record["held_out_loss"] for record in records
    ]
    assert training.held_out_loss(load(package / "a"), package) == pytest.approx(
        records[0]["held_out_loss"], abs=0.01
    )


def test_folders_of_others_are_not_trained_into_nor_exported_over(prepared, tmp_path):
    for path in ("mine/a/thesis.txt", "theirs/a/thesis.txt"):
        (tmp_path / path).parent.mkdir(parents=True)
        (tmp_path / path).write_text("years of work")
    with pytest.raises(ConfigurationError, match=r"mine is not empty and holds no data"):
        training.prepare(MICRO, tmp_path / "mine", [])
    with pytest.raises(ConfigurationError, match=r"theirs is not empty and holds no training.json"):
        training.export(prepared, [], tmp_path / "theirs")
    assert len(list(tmp_path.glob("*/a/thesis.txt"))) == len(list(tmp_path.glob("*/*"))) == 2


@pytest.mark.thorough
def test_training_learns(prepared, tmp_path):
    settings = replace(MICRO, steps=60)
    record = training.train_seed(settings, "a", branch(prepared, tmp_path / "seeds"))
    losses = [loss for _, loss in record["loss_curve"]]
    assert losses[0] == pytest.approx(math.log(300), abs=0.1)  # nothing known: uniform
    assert losses[-1] < losses[0] - 1.0


def test_learning_rate_warms_up_and_falls_to_zero():
    settings = training.Settings(steps=1000, warmup=100, learning_rate=2e-3)
    rates = np.array([training.rate(step, settings) for step in range(1001)])
    assert rates[99] == rates.max() == 2e-3
    assert rates[550] == pytest.approx(1e-3) and rates[1000] == pytest.approx(0.0, abs=1e-12)
    assert (np.diff(rates[:100]) > 0).all() and (np.diff(rates[100:]) < 0).all()


def test_a_step_decides_its_rows(prepared):
    stream = np.load(prepared / "data" / "training.npy")
    rows_BP = training.batch_rows(stream, 1, 3, MICRO)
    assert rows_BP.shape == (4, 17) and (rows_BP[:, 0] == 0).all()
    assert torch.equal(rows_BP, training.batch_rows(stream, 1, 3, MICRO))
    assert not torch.equal(rows_BP, training.batch_rows(stream, 1, 4, MICRO))
    assert not torch.equal(rows_BP, training.batch_rows(stream, 2, 3, MICRO))


def test_unprepared_and_diverging_training_are_refused(prepared, tmp_path):
    with pytest.raises(MissingError, match="prepare"):
        training.train_seed(MICRO, "a", tmp_path)
    settings = replace(MICRO, learning_rate=float("inf"))
    with pytest.raises(NumericalError, match="diverged"):
        training.train_seed(settings, "a", branch(prepared, tmp_path / "seeds"))


def test_the_job_trains_what_is_shipped():
    from universal_ray.cli.options import composed

    specification = importlib.util.spec_from_file_location("train_seeds_job", JOB)
    module = importlib.util.module_from_spec(specification)
    sys.modules[specification.name] = module  # a dataclass looks its module up
    specification.loader.exec_module(module)
    job = composed([], "train_seeds", module.TrainSeeds)
    with pytest.raises(ConfigurationError, match="steps"):
        composed(["training.stepz=3"], "train_seeds", module.TrainSeeds)
    more = composed(["training.keep=[1,2]", "seeds=[f]"], "train_seeds", module.TrainSeeds)
    assert tuple(job.seeds) == MODEL_NAMES
    for record in shipped_record()["seeds"]:  # models on the way change nothing of the last one
        assert json.loads(json.dumps(asdict(job.training) | {"keep": []})) == record["settings"]
        assert training.seed_number(record["name"]) == record["seed"]
    assert list(more.training.keep) == [1, 2] and more.seeds == ["f"]
