"""Whole studies of a model that pads its vocabulary, and of one with the same weights twice."""

import shutil
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch
from helpers_models import make_gpt2, save_model
from helpers_study import ALL, inputs_of, make
from helpers_whole import changed, whole_study
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from universal_ray.config.study import Study
from universal_ray.errors import ConfigurationError, CorpusError
from universal_ray.storage.record import read_record

IDS, PADDED, CONTEXT, ROWS = 300, 364, 16, 80


def make_neox(folder: Path) -> tuple[str, str]:
    """A random GPT-NeoX whose last 64 ids are padding of large weights, and the same without."""
    config = GPTNeoXConfig(
        vocab_size=PADDED, hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=48, max_position_embeddings=CONTEXT, initializer_range=0.2,
        bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        model: Any = GPTNeoXForCausalLM(config)
    with torch.no_grad():
        for embedding in (model.get_input_embeddings(), model.get_output_embeddings()):
            embedding.weight[IDS:] *= 20
    padded = save_model(model, folder / "padded")
    with torch.no_grad():
        model.resize_token_embeddings(IDS)
    return str(padded), str(save_model(model, folder / "cut"))


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """A reference with padding, the same without, the model compared, tokens."""
    folder = tmp_path_factory.mktemp("padded")
    other = make_gpt2(folder / "other", seed=1, layers=2, width=24, vocabulary=IDS, context=CONTEXT)
    tokens_BP = np.random.default_rng(0).integers(1, IDS, (ROWS, CONTEXT))
    tokens_BP[:, 0] = 0
    datasets.Dataset.from_dict({"tokens": tokens_BP.tolist()}).save_to_disk(str(folder / "tokens"))
    return *make_neox(folder), str(other), str(folder / "tokens")


def make_study(folder: Path, models: list[str], tokens: str) -> Study:
    return whole_study(
        folder, models, tokens, units__tokens=40 * CONTEXT, units__batch=20 * CONTEXT,
        baseline__rotations=1, taxonomy__unigram_ids=2, roles__tokens=8 * CONTEXT,
        roles__sweep=[0.0, 2.0], roles__candidates=2, roles__controls=2, roles__null_share=0.1,
    )  # fmt: skip


def alike(one: pa.Table, other: pa.Table, path: str) -> None:
    """Equal but for rounding, and for what is called after the model or drawn by its identity."""
    drawn = ("baseline", "excess", "shuffled", "control")
    assert one.column_names == other.column_names and one.num_rows == other.num_rows, path
    for name in one.column_names:
        named = name in ("id", "model", "other", "null", "null_se", "null_draws")
        if named or any(word in name for word in drawn):
            continue
        left, right = one[name].combine_chunks(), other[name].combine_chunks()
        while pa.types.is_list(left.type):
            assert left.value_lengths().equals(right.value_lengths()), (path, name)
            left, right = left.flatten(), right.flatten()
        if pa.types.is_floating(left.type):
            assert left.is_null().equals(right.is_null()), (path, name)
            np.testing.assert_allclose(
                left.to_numpy(zero_copy_only=False), right.to_numpy(zero_copy_only=False),
                rtol=1e-4, atol=1e-5, err_msg=f"{path} {name}",
            )  # fmt: skip
        elif pa.types.is_integer(left.type) or pa.types.is_string(left.type):
            assert left.equals(right), (path, name)


@pytest.mark.thorough
def test_padding_is_in_no_statistic_and_no_list(inputs, tmp_path):
    """The oracle is the same model without it: every table is the same but for names."""
    padded, cut, other, tokens = inputs
    stores = [
        make(make_study(tmp_path / name, [model, other], tokens), *ALL)
        for name, model in (("padded", padded), ("cut", cut))
    ]
    paths = [path for path in stores[0].list("tables") if path.endswith(".parquet")]
    assert {f"tables/{name}.parquet" for name in ("statistics", "roles", "interventions")} <= {
        *paths
    }
    for path in paths:
        schema = stores[0].get_table(path).schema.names
        tables = [store.get_table(path, schema) for store in stores]
        if path.endswith("examples.parquet"):  # others are drawn by the model's identity
            tables = [table.filter(pc.field("kind") == "top") for table in tables]
        if path.endswith("similarity.parquet"):  # and the rotations that its pairs are priced by
            tables = [table.filter(pc.field("measure") != "partial") for table in tables]
        alike(*tables, path)
    statistics = stores[0].get_table("tables/statistics.parquet")
    listed = [name for name in statistics.column_names if name.endswith("_id")]
    assert len(listed) >= 4
    for name in listed:
        assert pc.max(statistics[name].combine_chunks().flatten()).as_py() in {None, *range(IDS)}


def test_a_corpus_of_padding_is_refused(inputs, tmp_path):
    padded, _, other, _ = inputs
    tokens = np.full((ROWS, CONTEXT), IDS)
    datasets.Dataset.from_dict({"tokens": tokens.tolist()}).save_to_disk(str(tmp_path / "tokens"))
    study = make_study(tmp_path / "run", [padded, other], str(tmp_path / "tokens"))
    with pytest.raises(CorpusError, match=f"knows only ids below {IDS}"):
        inputs_of(study)


@pytest.fixture(scope="module")
def followed(inputs, tmp_path_factory):
    """Two models at two steps: `a` has the same weights at both, `b` has not."""
    folder = tmp_path_factory.mktemp("followed")
    sizes = {"layers": 2, "width": 24, "vocabulary": IDS, "context": CONTEXT}
    for seed, name in enumerate(("a-0", "b-0", "b-1"), 1):
        make_gpt2(folder / name, seed, **sizes)
    shutil.copytree(folder / "a-0", folder / "a-1")
    return [f"{folder}/{name}-{{revision}}" for name in "ab"]


def at_both(folder: Path, models: list[str], tokens: str) -> Study:
    return changed(make_study(folder, models, tokens), models__revisions=["0", "1"])


@pytest.mark.thorough
def test_the_same_weights_at_two_revisions_are_a_fact(inputs, followed, tmp_path):
    tokens = inputs[-1]
    named = {"roles__neurons": [f"{Path(followed[0]).name}:0.3".replace("{revision}", "1")]}
    together = make(changed(at_both(tmp_path / "together", followed, tokens), **named), *ALL)
    items = {path.split("/")[1] for path in together.list("moments")}
    assert sorted(item.partition("-")[0] for item in items) == ["model"] * 3 + ["pair"] * 2
    recorded = read_record(together)
    assert recorded is not None
    for model in recorded["models"]:
        assert [name for name, _ in model["files"]] == ["config.json", "model.safetensors"]
        assert all(len(sha256) == 64 for _, sha256 in model["files"])
    # A revision is a model like any other: the same tables as a study of its own.
    names = [name.replace("{revision}", "1") for name in followed]
    alone = make(changed(make_study(tmp_path / "alone", names, tokens), **named), *ALL)
    for path in ("neurons", "pairs", "statistics", "taxonomy", "roles", "interventions"):
        path = f"tables/{path}.parquet"
        columns = alone.get_table(path).schema.names
        expected, every = (store.get_table(path, columns) for store in (alone, together))
        mine = every.filter(pc.is_in(every["model"], pa.array([Path(name).name for name in names])))
        assert mine.equals(expected) and mine.num_rows > 0, path
    (told,) = together.get_json("tables/summary.json")["followed"]
    assert told["revisions"] == ["0", "1"]


@pytest.mark.thorough
def test_a_vocabulary_of_bytes_without_topics_is_a_study_like_any_other(tmp_path):
    """Tokens that are no words: characters, bytes, DNA, moves of a game."""
    ids = 257
    models = [
        str(make_gpt2(tmp_path / name, seed, width=8, vocabulary=ids, context=CONTEXT))
        for seed, name in enumerate("ab")
    ]
    tokens_BP = np.random.default_rng(0).integers(1, ids, (ROWS, CONTEXT))
    tokens_BP[:, 0] = 0
    tokens = str(tmp_path / "tokens")
    datasets.Dataset.from_dict({"tokens": tokens_BP.tolist()}).save_to_disk(tokens)
    study = make_study(tmp_path / "run", models, tokens)
    with pytest.raises(ConfigurationError, match=r"of 0 words: .* 0 leaves them out"):
        make(study, *ALL)
    store = make(changed(study, taxonomy__topics=0), *ALL)
    bank = store.get_table("tables/bank.parquet").to_pylist()
    families = {row["feature_family"] for row in bank}
    assert "topic" not in families and {"letter", "position"} <= families
    rows = store.get_table("tables/statistics.parquet").to_pylist()
    shown = {text for row in rows for text in row["token_max_token"] if text is not None}
    assert {"a", "␣"} & shown and any(text.startswith("<0x") for text in shown)
    assert "" not in shown and not any("\N{REPLACEMENT CHARACTER}" in text for text in shown)
    assert len(store.get_json("tables/summary.json")["roles"]["references"]) == 1
    with pytest.raises(ConfigurationError, match=r"taxonomy\.topics is -1"):
        make(changed(study, taxonomy__topics=-1), *ALL)


def test_two_models_with_the_same_weights_are_refused_at_any_revision(inputs, followed, tmp_path):
    twin = tmp_path / "twin"
    for step in "01":
        shutil.copytree(followed[1].replace("{revision}", "0"), f"{twin}-{step}")
    study = at_both(tmp_path / "run", [*followed, f"{twin}-{{revision}}"], inputs[-1])
    with pytest.raises(ConfigurationError, match="have the same weights"):
        inputs_of(study)
