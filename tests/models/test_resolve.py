"""What a model's name means, and every model that is refused before anything runs."""

import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from helpers_models import make_gpt2, make_tokenizer, save_model, values

from universal_ray.errors import MissingError, ModelError
from universal_ray.models.capture import Capture
from universal_ray.models.site import site_of
from universal_ray.models.source import prefetch, resolve
from universal_ray.models.tokenizer import check_tokenizers, ids_of, tokenizer, tokenizer_identity

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def sentence(error: pytest.ExceptionInfo[Exception]) -> str:
    """The message, which is one sentence: one line, one full stop, at its end."""
    text = str(error.value)
    assert "\n" not in text
    assert text.endswith(".") and ". " not in text
    return text


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


@pytest.fixture
def hub(gpt2, tmp_path, monkeypatch):
    """A hub cache that holds `owner/name` at revision `step7`, and nothing else."""
    from huggingface_hub import constants

    repository = tmp_path / "cache" / "models--owner--name"
    shutil.copytree(gpt2, repository / "snapshots" / COMMIT)
    (repository / "refs").mkdir()
    (repository / "refs" / "step7").write_text(COMMIT)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    return repository / "snapshots" / COMMIT


def test_a_directory_is_resolved_to_its_shapes(gpt2):
    source = resolve(str(gpt2))
    assert (source.name, source.location, source.commit) == (str(gpt2), str(gpt2.resolve()), None)
    assert (source.layers, source.d_model, source.d_mlp) == (3, 16, 64)
    assert (source.vocabulary, source.context) == (300, 24)
    assert prefetch(source) == source.location
    assert pickle.loads(pickle.dumps(source)) == source


def test_a_relative_directory_is_the_same_model(gpt2, monkeypatch):
    monkeypatch.chdir(gpt2.parent)
    relative = resolve(gpt2.name)
    assert relative.location == str(gpt2.resolve())
    assert relative.identity == resolve(str(gpt2)).identity


def test_identity_follows_content_and_not_place(gpt2, copy):
    identity = resolve(str(gpt2)).identity
    assert len(identity) == 64 and int(identity, 16) >= 0
    assert resolve(str(copy)).identity == identity
    (copy / "README.md").write_text("A note beside the weights.")
    assert resolve(str(copy)).identity == identity

    weights = bytearray((copy / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (copy / "model.safetensors").write_bytes(weights)
    altered = resolve(str(copy)).identity
    assert altered != identity

    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "layer_norm_epsilon": 1e-3}))
    assert resolve(str(copy)).identity not in (identity, altered)


def test_a_hub_model_is_pinned_to_the_commit_of_its_revision(hub, gpt2):
    source = resolve("owner/name@step7")
    assert (source.location, source.commit) == ("owner/name", COMMIT)
    assert source.identity == resolve(str(gpt2)).identity
    assert resolve(f"owner/name@{COMMIT}").identity == source.identity
    assert Path(prefetch(source)) == hub
    tokens_BP = torch.arange(10).reshape(1, 10)
    torch.testing.assert_close(
        *(values(Capture(each), tokens_BP) for each in (source, resolve(str(gpt2)))), rtol=0, atol=0
    )
    identity = tokenizer_identity(tokenizer(str(gpt2)))
    assert tokenizer_identity(check_tokenizers([source])) == identity


def test_pickled_weights_load_where_there_are_no_safetensors(gpt2, copy):
    from safetensors.torch import load_file

    torch.save(load_file(copy / "model.safetensors"), copy / "pytorch_model.bin")
    (copy / "model.safetensors").unlink()
    tokens_BP = torch.arange(10).reshape(1, 10)
    torch.testing.assert_close(
        *(values(Capture(resolve(str(each))), tokens_BP) for each in (copy, gpt2))
    )


def test_pickled_weights_run_no_code(copy, tmp_path):
    witness = tmp_path / "witness"

    class Payload:
        def __reduce__(self):
            return (Path.touch, (witness,))

    torch.save({"transformer.wte.weight": Payload()}, copy / "pytorch_model.bin")
    (copy / "model.safetensors").unlink()
    with pytest.raises(ModelError) as error:
        resolve(str(copy))
    assert "cannot be read" in sentence(error)
    assert not witness.exists()


@pytest.mark.parametrize("name", ["/no/such/model", "./model", "model", "a/b/c", "owner/na me", ""])
def test_refuses_what_is_neither_directory_nor_hub_id(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MissingError) as error:
        resolve(name)
    assert repr(name) in sentence(error) and "owner/name[@revision]" in str(error.value)
    assert isinstance(error.value, FileNotFoundError)
    assert "--help" not in str(error.value)
    with pytest.raises(MissingError, match=r"--help` tells what an experiment needs first"):
        resolve(f"./runs/of/{name}")


@pytest.mark.parametrize("name", ["models/seed_a", "owner/name", "owner/name@step8"])
def test_refuses_a_hub_model_that_is_not_cached_offline(name, hub):
    with pytest.raises(MissingError) as error:
        resolve(name)
    location, _, revision = name.partition("@")
    assert repr(location) in sentence(error) and "HF_HUB_OFFLINE" in str(error.value)
    assert revision in str(error.value)
    assert ("no directory" in str(error.value)) is not bool(revision)


def test_refuses_a_cached_hub_model_without_weights(hub):
    source = resolve("owner/name@step7")
    (hub / "model.safetensors").unlink()
    for asked in (lambda: Capture(source), lambda: resolve("owner/name@step7")):
        with pytest.raises(MissingError) as error:
            asked()
        assert "cache" in sentence(error) and "HF_HUB_OFFLINE" in str(error.value)


def test_refuses_a_directory_without_configuration(tmp_path):
    make_tokenizer(tmp_path)
    with pytest.raises(ModelError) as error:
        resolve(str(tmp_path))
    assert "config.json" in sentence(error) and str(tmp_path) in str(error.value)


def test_refuses_a_directory_without_weights(copy):
    (copy / "model.safetensors").unlink()
    with pytest.raises(ModelError) as error:
        resolve(str(copy))
    assert "no weights" in sentence(error)


def test_refuses_a_broken_configuration(copy):
    (copy / "config.json").write_text("{")
    with pytest.raises(ModelError) as error:
        resolve(str(copy))
    assert "config.json" in sentence(error)


def test_refuses_an_unknown_architecture(copy):
    config = json.loads((copy / "config.json").read_text())
    for change in ({"model_type": "abacus"}, {"architectures": ["AbacusForCausalLM"]}):
        (copy / "config.json").write_text(json.dumps({**config, **change}))
        with pytest.raises(ModelError) as error:
            resolve(str(copy))
        assert "architecture" in sentence(error)


def test_refuses_layers_without_an_mlp_of_neurons(tmp_path):
    from transformers import MixtralConfig, MixtralForCausalLM

    config = MixtralConfig(
        vocab_size=300, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, intermediate_size=32, num_local_experts=2, eos_token_id=0,
    )  # fmt: skip
    save_model(MixtralForCausalLM(config), tmp_path)
    source = resolve(str(tmp_path))
    with pytest.raises(ModelError) as error:
        Capture(source)
    assert "MLP" in sentence(error)


def test_refuses_weights_that_are_not_those_resolved(gpt2, tmp_path):
    make_gpt2(tmp_path, seed=0, layers=2, width=16, context=24)
    source = resolve(str(gpt2))
    swapped = type(source)(**{**vars(source), "location": str(tmp_path)})
    with pytest.raises(ModelError) as error:
        Capture(swapped)
    assert "was damaged, or replaced since the study was planned" in sentence(error)


def test_refuses_an_unknown_site():
    with pytest.raises(ModelError) as error:
        site_of("middle")
    assert "'middle'" in sentence(error)


def test_models_share_one_tokenizer(gpt2, copy):
    shared = check_tokenizers([resolve(str(gpt2)), resolve(str(copy))])
    assert len(shared) == 300
    assert len(tokenizer_identity(shared)) == 64


def test_refuses_a_model_without_tokenizer(copy):
    """Regression: such a directory loads an empty GPT2Tokenizer and nobody says a word."""
    for path in copy.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(ModelError) as error:
        check_tokenizers([resolve(str(copy))])
    assert "models.tokenizer" in sentence(error) and str(copy) in str(error.value)


def test_refuses_a_made_up_tokenizer_of_unknown_tokens(tmp_path):
    """Regression: a Llama directory without tokenizer files loads one of three tokens."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=300, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=32,
    )  # fmt: skip
    save_model(LlamaForCausalLM(config), tmp_path, tokenizer=False)
    with pytest.raises(ModelError) as error:
        check_tokenizers([resolve(str(tmp_path))])
    assert "no usable tokenizer" in sentence(error)


def test_the_older_tokenizer_files_give_the_same_tokenizer(gpt2, copy):
    """The Stanford seeds carry vocab.json and merges.txt."""
    model = json.loads((copy / "tokenizer.json").read_text())["model"]
    for path in copy.glob("tokenizer*"):
        path.unlink()
    (copy / "vocab.json").write_text(json.dumps(model["vocab"]))
    pairs = (pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"])
    (copy / "merges.txt").write_text("\n".join(["#version: 0.2", *pairs]) + "\n")
    (copy / "tokenizer_config.json").write_text('{"tokenizer_class": "GPT2Tokenizer"}')
    shared = check_tokenizers([resolve(str(gpt2)), resolve(str(copy))])
    text = "def share(first):\n\n    return 12"
    assert tokenizer(str(copy)).encode(text) == shared.encode(text)


def test_a_named_tokenizer_serves_models_without_one(copy, hub, tmp_path):
    named = make_tokenizer(tmp_path / "named")
    for path in copy.glob("tokenizer*"):
        path.unlink()
    source = resolve(str(copy))
    identity = tokenizer_identity(tokenizer(str(named)))
    assert tokenizer_identity(check_tokenizers([source], str(named))) == identity
    assert tokenizer_identity(check_tokenizers([source], "owner/name@step7")) == identity


@pytest.mark.parametrize("name", ["/no/such/tokenizer", "owner/none"])
def test_refuses_a_named_tokenizer_that_is_missing(name, gpt2):
    with pytest.raises(MissingError) as error:
        check_tokenizers([resolve(str(gpt2))], name)
    assert repr(name) in sentence(error)


def test_refuses_tokenizers_that_differ(gpt2, copy):
    make_tokenizer(copy, text="Quite another text; zebras quiz jovial vixens. " * 3)
    with pytest.raises(ModelError) as error:
        check_tokenizers([resolve(str(gpt2)), resolve(str(copy))])
    assert str(gpt2) in sentence(error) and str(copy) in str(error.value)


def test_refuses_a_tokenizer_with_ids_beyond_the_vocabulary(gpt2, tmp_path):
    small = make_gpt2(tmp_path, seed=0, vocabulary=290, tokenizer=False)
    with pytest.raises(ModelError) as error:
        check_tokenizers([resolve(str(gpt2)), resolve(str(small))], str(gpt2))
    assert "299" in sentence(error) and "290" in str(error.value)


def test_a_padded_vocabulary_is_larger_than_its_tokenizer(tmp_path):
    make_gpt2(tmp_path, seed=0, vocabulary=320)
    source = resolve(str(tmp_path))
    assert (ids_of(check_tokenizers([source])), source.vocabulary) == (300, 320)
