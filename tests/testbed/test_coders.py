"""Training of small sparse autoencoders: what is written is what was trained."""

import json

import pytest
import torch
from datasets import Dataset
from helpers_models import make_gpt2
from helpers_study import CONTEXT, VOCABULARY, make_tokens
from safetensors.torch import load_file

from universal_ray.corpus.rows import open_corpus
from universal_ray.errors import ConfigurationError, CorpusError
from universal_ray.maths.latents import encode
from universal_ray.models.capture import Capture
from universal_ray.models.coder import load
from universal_ray.models.sae import found_in
from universal_ray.models.site import site_of
from universal_ray.models.source import resolve
from universal_ray.storage.hub import sha256_of
from universal_ray.testbed.coders import Read, train
from universal_ray.testbed.settings import CoderSettings

SETTINGS = CoderSettings(latents=24, k=6, steps=60, rows=2, first=4, learning_rate=1e-2)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("coders")
    model = make_gpt2(folder / "tiny", 0, width=8, vocabulary=VOCABULARY, context=CONTEXT)
    source, rows = resolve(str(model)), open_corpus(make_tokens(folder / "tokens", 12))
    return source, rows, train(source, rows, SETTINGS, folder / "saes"), folder / "saes"


def test_what_is_written_writes_again_what_was_read_but_for_what_is_told(trained):
    source, rows, told, folder = trained
    coders = found_in(folder)
    assert [(coder.layer, coder.place, coder.k) for coder in coders] == [
        (0, "mlp_out", 6), (1, "mlp_out", 6)]  # fmt: skip
    assert all(coder.identity == source.identity for coder in coders)
    read: dict[int, torch.Tensor] = {}
    capture = Capture(source, sites=[Read(place="mlp_out")])
    capture.read(torch.from_numpy(rows.read(4, 12)),
                 lambda _, layer, x_TC: read.__setitem__(layer, x_TC.clone()))  # fmt: skip
    for coder, record in zip(coders, told, strict=True):
        state = load_file(folder / coder.weights)
        encoder = load(folder, coder, sha256_of(folder / coder.weights))
        latent_TD = encode(x_TC := read[coder.layer], encoder)
        assert ((latent_TD > 0).sum(1) <= 6).all()
        missed_TC = x_TC - latent_TD @ state["W_dec"] - state["b_dec"]
        lost = missed_TC.square().sum() / (x_TC - x_TC.mean(0)).square().sum()
        assert float(lost) == pytest.approx(record["lost"], rel=0.3)
        assert record["lost"] < 0.3
        assert record["fired"] >= int((latent_TD > 0).any(0).sum()) > 6


def test_the_same_seed_gives_the_same_weights_and_another_others(trained, tmp_path):
    source, rows, _, folder = trained
    short = CoderSettings(**{**vars(SETTINGS), "steps": 3})
    other = CoderSettings(**{**vars(short), "seed": 1})
    made = []
    for name, settings in (("one", short), ("again", short), ("other", other)):
        train(source, rows, settings, tmp_path / name)
        weights = tmp_path / name / "blocks.1.hook_mlp_out" / "sae_weights.safetensors"
        made.append(weights.read_bytes())
    assert made[0] == made[1] != made[2]
    record = json.loads((folder / "blocks.0.hook_mlp_out" / "cfg.json").read_text())
    trained_by = record["metadata"]["trained"]
    assert (trained_by["steps"], trained_by["model"]) == (60, source.identity)


def test_what_is_trained_stands_until_something_else_is_asked_for(trained, monkeypatch):
    source, rows, told, folder = trained
    weights = folder / "blocks.0.hook_mlp_out" / "sae_weights.safetensors"
    before = weights.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(Capture, "read", None)
        assert train(source, rows, SETTINGS, folder) == told
        with pytest.raises(TypeError):
            train(source, rows, CoderSettings(**{**vars(SETTINGS), "seed": 2}), folder)
        weights.unlink()
        with pytest.raises(TypeError):
            train(source, rows, SETTINGS, folder)
    assert train(source, rows, SETTINGS, folder) == told
    assert weights.read_bytes() == before


def test_rows_that_are_left_out_are_never_read(trained, tmp_path, monkeypatch):
    source, rows, _, _ = trained
    asked: list[int] = []
    read = type(rows).read

    def watched(self, start: int, stop: int):
        asked.extend(range(start, stop))
        return read(self, start, stop)

    monkeypatch.setattr(type(rows), "read", watched)
    train(source, rows, CoderSettings(**{**vars(SETTINGS), "steps": 9}), tmp_path)
    assert set(asked) == set(range(4, 12))
    assert sorted(asked[:8]) == list(range(4, 12))  # each once before any twice


@pytest.mark.parametrize(
    ("changes", "error", "sentence"),
    [
        ({"hook": "hook_q"}, ConfigurationError, "hook=hook_q is no place that is known"),
        ({"k": 25}, ConfigurationError, "k=25 of 24 latents: give fewer"),
        ({"first": 11}, ConfigurationError, r"leaves 1 of the 12 rows in .*a step takes rows=2"),
        ({"first": -1}, ConfigurationError, r"first=-1 leaves 13 of the 12 rows"),
        ({"steps": 0}, ConfigurationError, "steps is 0: give a number of at least 1"),
    ],
)
def test_what_cannot_be_trained_is_refused(trained, tmp_path, changes, error, sentence):
    source, rows, _, _ = trained
    with pytest.raises(error, match=sentence):
        train(source, rows, CoderSettings(**{**vars(SETTINGS), **changes}), tmp_path)


def test_rows_of_another_tokenizer_are_refused(trained, tmp_path):
    source, _, _, _ = trained
    rows = [list(range(1, 1 + CONTEXT + 1))] * 12
    Dataset.from_dict({"tokens": rows}).save_to_disk(str(tmp_path / "tokens"))
    with pytest.raises(CorpusError, match="takes at most"):
        train(source, open_corpus(str(tmp_path / "tokens")), SETTINGS, tmp_path)


def test_latents_that_were_trained_here_are_a_site_of_their_model(trained, tmp_path):
    source, _, _, folder = trained
    site = site_of(f"sae:{folder}")
    shape = site.shape(site.find(source.name))
    assert (shape.layers, shape.width, shape.signed) == (2, 24, False)
