"""What else lies in a model's directory: no file, nonsense, code, and files that are replaced."""

import json
import os
import shutil

import pytest
import torch
from helpers_checkpoint import configure, refused
from helpers_models import make_gpt2, make_tokenizer, values

from universal_ray.errors import ModelError
from universal_ray.models.capture import Capture
from universal_ray.models.decoder import load_decoder
from universal_ray.models.source import load_model, resolve
from universal_ray.models.tokenizer import check_tokenizers, tokenizer
from universal_ray.models.weights import embedding_norms, load_weights

TOKENS_BP = torch.arange(20).reshape(2, 10)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
@pytest.mark.parametrize("kind", ["pipe", "folder", "dangling"])
def test_what_is_no_file_is_refused_and_not_waited_for(copy, name, kind):
    path = copy / name
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(copy / "nowhere")
    with pytest.raises(ModelError) as error:
        check_tokenizers([resolve(str(copy))])
    assert str(copy) in str(error.value) and "\n" not in str(error.value)


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("config.json", POINTER, "pointer of git lfs"),
        ("tokenizer.json", POINTER, "tokenizer.json is a pointer of git lfs"),
        ("tokenizer_config.json", POINTER, "pointer of git lfs"),
        ("tokenizer.json", '{"version": "3.0", "model": {"type": "BPE2"}}', "usable tokenizer ("),
        ("tokenizer.json", '{"version": ', "no usable tokenizer ("),
        ("model.safetensors", POINTER, "git lfs pull"),
    ],
)
def test_files_that_are_there_and_of_no_use_are_one_sentence(copy, file, content, words):
    """A pointer, what a newer version wrote, half of a file."""
    (copy / file).write_text(content)
    with pytest.raises(ModelError) as error:
        check_tokenizers([resolve(str(copy))])
    told = str(error.value)
    assert words in told and str(copy) in told and "\n" not in told


def test_what_strict_validation_refuses_is_told_with_its_field(copy):
    configure(copy, layer_norm_epsilon=["small"])
    with pytest.raises(ModelError) as error:
        resolve(str(copy))
    told = str(error.value)
    assert "'layer_norm_epsilon'" in told and "float" in told and "\n" not in told


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"n_layer": 10**9}, "n_layer = 1000000000"),
        ({"n_layer": 9999}, "9999 layers by its config.json, and weights of only"),
        ({"n_layer": 0}, "n_layer = 0"),
        ({"n_layer": -1}, "n_layer = -1"),
        ({"n_layer": "3"}, "n_layer = 3"),
        ({"n_layer": 3.0}, "n_layer = 3.0"),
        ({"n_layer": True}, "n_layer = True"),
        ({"n_layer": None}, "n_layer = None"),
        ({"n_layer": [3]}, "n_layer = [3]"),
        ({"n_layer": 2}, "does not: transformer.h.2."),
        ({"n_layer": 4}, "lack transformer.h.3."),
        ({"n_embd": 10**12}, "n_embd = 1000000000000"),
        ({"n_embd": 18}, "wrong shape"),
        ({"n_head": 3}, "one must be a multiple of the other"),
        ({"n_head": 0}, "n_head = 0"),
        ({"n_inner": 2**40}, "n_inner"),
        ({"vocab_size": 0}, "vocab_size = 0"),
        ({"vocab_size": 301}, "wrong shape"),
        ({"n_positions": -5}, "n_positions = -5"),
        ({"activation_function": "abacus"}, "activation function"),
        ({"activation_function": {"a": 1}}, "activation function"),
        ({"activation_function": 3}, "activation function"),
        ({"layer_norm_epsilon": "small"}, "config.json"),
        ({"layer_norm_epsilon": [1]}, "config.json"),
        ({"model_type": "abacus"}, "architecture"),
        ({"model_type": None}, "architecture"),
        ({"model_type": ["gpt2"]}, "architecture"),
        ({"architectures": "GPT2LMHeadModel"}, "architectures"),
        ({"architectures": [3]}, "architectures"),
        ({"architectures": []}, "architectures"),
        ({"architectures": {"a": 1}}, "architectures"),
        ({"architectures": 3}, "architectures = 3"),
        ({"resid_pdrop": 1.5}, "resid_pdrop = 1.5"),
        ({"rotary_dim": 10**12}, "rotary_dim = 1000000000000"),
        ({"architectures": True}, "architectures = True"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "quantised"),
    ],
)
def test_a_configuration_of_no_model_is_refused(copy, changes, words):
    configure(copy, **changes)
    assert words in refused(copy)


@pytest.mark.parametrize(
    "content",
    [
        b"", b"{", b"[]", b"null", b"3", b"\xff\xfe", b'{"model_type": "gpt2", "n_layer": NaN}',
        b'{"model_type": "gpt2", "layer_norm_epsilon": 1e999}', b"[" * 200_000,
        b'{"model_type": "gpt2", "pad_token_id": 1' + b"0" * 30 + b"}",
    ],
)  # fmt: skip
def test_a_configuration_that_is_no_json_object_is_refused(copy, content):
    (copy / "config.json").write_bytes(content)
    assert "config.json" in refused(copy)


def test_enormous_files_are_not_read(copy):
    for name, words in (
        ("model.safetensors", "goes on after its last tensor"),
        ("config.json", "more than such a file can need"),
    ):
        with (copy / name).open("r+b") as file:
            file.truncate(2**40)  # takes no room on the disk
        assert words in refused(copy)


@pytest.mark.parametrize("answer", ["y\n", "n\n"])
def test_code_of_a_repository_is_never_run_nor_asked_for(copy, monkeypatch, answer, tmp_path):
    witness = tmp_path / "witness"
    (copy / "modeling.py").write_text(
        f"from pathlib import Path\nPath({str(witness)!r}).touch()\n"
        "from transformers import GPT2Config as Own, GPT2LMHeadModel as OwnModel\n"
        "from transformers import GPT2Tokenizer as OwnTokenizer\n"
    )
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("the user was asked"))
    configure(
        copy, model_type="own", architectures=["OwnModel"],
        auto_map={"AutoConfig": "modeling.Own", "AutoModelForCausalLM": "modeling.OwnModel"},
    )  # fmt: skip
    assert "asks for code of its own repository, which is never run" in refused(copy)
    # A known type runs by transformers' own code.
    configure(copy, model_type="gpt2", architectures=["GPT2LMHeadModel"])
    load_model(resolve(str(copy)))
    settings = {"tokenizer_class": "OwnTokenizer",
                "auto_map": {"AutoTokenizer": ["modeling.OwnTokenizer", None]}}  # fmt: skip
    for path in copy.glob("tokenizer*"):
        path.unlink()
    (copy / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(ModelError, match=r"code of its own|no usable tokenizer"):
        tokenizer(str(copy))
    assert not witness.exists()


@pytest.mark.parametrize("replaced", ["model.safetensors", "config.json"])
def test_files_replaced_since_they_were_resolved_are_not_loaded(gpt2, copy, tmp_path, replaced):
    other = make_gpt2(tmp_path / "other", seed=1, layers=3, width=16, context=24,
                      layer_norm_epsilon=1e-3)  # fmt: skip
    source = resolve(str(copy))
    shutil.copy(other / replaced, copy / replaced)
    loaders = (Capture, load_weights, load_decoder, lambda each: embedding_norms(each, 300))
    for load in loaders:
        with pytest.raises(ModelError, match="damaged, or replaced since the study was planned"):
            load(source)
    shutil.copy(gpt2 / replaced, copy / replaced)
    Capture(source)


def test_weights_that_were_loaded_are_no_longer_the_files(copy):
    """In memory of their own: a file overwritten in place changes no model that is held."""
    capture = Capture(resolve(str(copy)))
    before_TN = values(capture, TOKENS_BP)
    path = copy / "model.safetensors"
    with path.open("r+b") as file:
        file.write(bytes(path.stat().st_size))
    assert torch.equal(values(capture, TOKENS_BP), before_TN)


def test_a_named_tokenizer_is_no_code_either(tmp_path):
    make_tokenizer(tmp_path)
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    settings["auto_map"] = {"AutoTokenizer": ["modeling.Own", None]}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    (tmp_path / "modeling.py").write_text("raise SystemExit('it ran')")
    tokenizer(str(tmp_path))  # by transformers' own class, which the files suffice for
