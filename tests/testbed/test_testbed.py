"""The embedded models and text: what is shipped, and the training that made it."""

import gzip
import importlib.util
import json
import math
import platform
import re
import sys
from dataclasses import replace
from importlib.metadata import distribution
from pathlib import Path, PurePosixPath

import datasets
import numpy as np
import pytest
import torch
from safetensors import safe_open
from transformers import AutoTokenizer, GPT2LMHeadModel

from universal_ray.errors import ConfigurationError, MissingError, NumericalError
from universal_ray.testbed import MODEL_NAMES, model_path, text, tokens_path, training
from universal_ray.testbed.settings import Products, Text

MICRO = training.Settings(
    layers=1, width=16, heads=2, context=16, vocabulary=300, batch=4, steps=7, warmup=2,
    checkpoint_every=2,
)
ROOT = Path(__file__).parents[2]
JOB = ROOT / "jobs" / "train_seeds.py"


def load(path: Path) -> GPT2LMHeadModel:
    return GPT2LMHeadModel.from_pretrained(path, dtype=torch.float32, local_files_only=True)


def arrays(path: Path) -> dict[str, torch.Tensor]:
    with safe_open(path / "model.safetensors", "pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118


def shipped_record() -> dict:
    return json.loads((tokens_path().parent / "training.json").read_text())


@pytest.fixture(scope="module")
def documents() -> list[text.Document]:
    return text.gather(Text.packages)


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
    assert {"LICENSE-PYTHON.txt", training.LICENCES} <= names
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
    prose = {"reference", "docstrings", "manual"}
    assert prose < subsets
    assert all(name.startswith("code: ") for name in subsets - prose)
    manifest = json.loads((tokens_path() / "manifest.json").read_text())
    assert manifest["rows"] == len(rows) and manifest["tokens"] == ids.size
    assert manifest["subsets"] == {name: rows["subset"].count(name) for name in sorted(subsets)}


@pytest.mark.thorough
def test_rows_are_the_held_out_text_again(rows, documents):
    if text.versions(Text.packages) != shipped_record()["text"]["versions"]:
        pytest.skip("the text depends on the versions of Python and of packages")
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
        assert len(record["loss_curve"]) <= 210
        assert record["loss_curve"][0][1] > 2 * record["loss_curve"][-1][1]
    loss = training.held_out_loss(load(model_path("a")), tokens_path().parent)
    assert loss == pytest.approx(records["a"]["held_out_loss"], abs=0.01)


# Text


@pytest.mark.thorough
def test_gathering_is_the_same_in_another_process(documents):
    recorded = shipped_record()["text"]
    if text.versions(Text.packages) != recorded["versions"]:
        pytest.skip("the text depends on the versions of Python and of packages")
    assert text.fingerprint(documents) == recorded["text_sha256"]


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


def planted(monkeypatch, folder: Path, files: dict[str, bytes]) -> None:
    """An installed package of these files under every name."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    found = [(PurePosixPath(name), folder / name) for name in sorted(files)]
    monkeypatch.setattr(text, "_files", lambda _: iter(found))


def test_a_package_gives_its_own_sources_and_no_tables(monkeypatch, tmp_path):
    own = b'def f():\n    """Say."""\n    return one\n'
    table = b"numbers = [" + b"1234, " * 100 + b"]\n"
    elsewhere = ["p/tests/t.py", "p/externals/e.py", "p/version.py", "../bin/b.py", "p/data.txt"]
    files = {"p/m.py": own, "p/t.py": table, "p/broken.py": b"def"}
    planted(monkeypatch, tmp_path / "in", files | dict.fromkeys(elsewhere, b"print(one)\n"))
    monkeypatch.setattr(text, "_PACKAGES", {"science": "p"})
    assert list(text._package_sources()) == [
        text.Document("docstrings", "p.m.f\n\nSay.\n"),
        text.Document("code: science", "def f():\n    return one\n"),
    ]


def test_the_manual_is_prose_of_the_newest_versions(monkeypatch, tmp_path):
    def service(words: str) -> bytes:
        long = f"<p>{words} &amp; <code>x</code></p><ul><li>{'item ' * 50}</li></ul>"
        described = {"documentation": long, "type": "structure"}
        content = {"operations": {"Get": described}, "shapes": {"S": {"documentation": "short"}}}
        return gzip.compress(json.dumps(content).encode())

    name = "botocore/data/s/{}/service-2.json.gz"
    old, new = name.format("2014-01-01"), name.format("2015-01-01")
    planted(monkeypatch, tmp_path, {old: service("Old"), new: service("New")})
    (document,) = text._manual()
    assert document.subset == "manual"
    assert document.text == "Get\n\nNew & x\n" + "item " * 49 + "item\n"


def test_packages_of_the_text_are_pinned_and_under_permissive_licences():
    pinned = (ROOT / "requirements.txt").read_text().lower().splitlines()
    versions = text.versions(Text.packages)
    assert versions.pop("python") == platform.python_version()
    permissive = re.compile(r"Apache|BSD|MIT\b|Python Software Foundation")
    for name, version in versions.items():
        assert f"{name}=={version}" in pinned
        told = distribution(name).metadata
        licences = [told["License-Expression"], told["License"], *told.get_all("Classifier", [])]
        assert any(permissive.search(licence or "") for licence in licences), name


def test_a_package_that_is_not_installed_or_has_no_licence_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(text, "_PACKAGES", {"science": "no-such-package"})
    with pytest.raises(MissingError, match=r"no-such-package.*not installed: pip install"):
        list(text._package_sources())
    named = "pytest-1.dist-info/licenses/"
    files = {named + "NOTICE": b"two", named + "LICENSE": b"one", named + "other/LICENSE": b"no"}
    planted(monkeypatch, tmp_path / "in", files)
    said = text.licence("pytest")
    assert said.startswith(f"pytest {pytest.__version__}\n===")
    assert said.endswith("===\n\none\n\ntwo\n\n\n")
    planted(monkeypatch, tmp_path / "out", {"pytest-1.dist-info/METADATA": b"x"})
    with pytest.raises(MissingError, match="pytest is installed without its licence"):
        text.licence("pytest")


# Training


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_interrupted_training_ends_in_the_same_bits(prepared, tmp_path, monkeypatch, dropout):
    whole, broken = branch(prepared, tmp_path / "whole"), branch(prepared, tmp_path / "broken")
    settings = replace(MICRO, dropout=dropout)
    expected = training.train_seed(settings, "a", whole)
    honest = training.batch_rows

    def interrupted(stream, seed, step, settings):
        if step == 5:
            raise KeyboardInterrupt
        return honest(stream, seed, step, settings)

    monkeypatch.setattr(training, "batch_rows", interrupted)
    with pytest.raises(KeyboardInterrupt):
        training.train_seed(settings, "a", broken)
    seen = []

    def counted(stream, seed, step, settings):
        seen.append(step)
        return honest(stream, seed, step, settings)

    monkeypatch.setattr(training, "batch_rows", counted)
    record = training.train_seed(settings, "a", broken)
    assert seen == [4, 5, 6]  # from the last checkpoint, not from the start
    assert record | {"seconds": 0} == expected | {"seconds": 0}
    one, other = arrays(whole / "a"), arrays(broken / "a")
    assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)
    assert training.train_seed(settings, "a", broken) == json.loads(json.dumps(record))
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
    licences = (package / training.LICENCES).read_text()
    for name, version in text.versions(Text.packages).items():
        assert name == "python" or f"{name} {version}\n===" in licences
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


@torch.no_grad()
def test_products_are_of_the_type_that_is_asked_for(prepared):
    model = training.build(MICRO, "cpu")
    stream = np.load(prepared / "data" / "training.npy")
    rows_BP = training.batch_rows(stream, 1, 3, MICRO)
    losses = {
        each: float(training.loss_function(model, replace(MICRO, products=each), "cpu")(rows_BP))
        for each in Products
    }
    whole = model(rows_BP[:, :-1], use_cache=False).logits.flatten(0, 1)
    expected = torch.nn.functional.cross_entropy(whole, rows_BP[:, 1:].flatten()).item()
    assert losses[Products.float32] == pytest.approx(expected, rel=1e-6)
    assert 0 < abs(losses[Products.bfloat16] - expected) < 0.05


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
        assert replace(training.Settings(**record["settings"]), keep=[]) == replace(
            job.training, keep=[]
        )
        assert training.seed_number(record["name"]) == record["seed"]
    with pytest.raises(ConfigurationError, match="did you mean packages"):
        composed(["training.text=package"], "train_seeds", module.TrainSeeds)
    assert list(more.training.keep) == [1, 2] and more.seeds == ["f"]
