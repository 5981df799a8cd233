"""Every configuration and every weight file that is refused before a model is made of it, and all
that may be otherwise than this project writes it."""

import json
import os
import re
import shutil
import struct
from pathlib import Path

import pytest
import torch
from helpers_models import make_gpt2, make_tokenizer, save_model, values
from safetensors.torch import load_file, save_file

from universal_ray.errors import ModelError
from universal_ray.models.capture import Capture
from universal_ray.models.decoder import load_decoder
from universal_ray.models.source import load_model, resolve
from universal_ray.models.tokenizer import check_tokenizers, tokenizer
from universal_ray.models.weights import embedding_norms, load_weights

MLP = "transformer.h.1.mlp.c_fc.weight"
FORMATS = ("safetensors", "bin")
TOKENS_BP = torch.arange(20).reshape(2, 10)


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory):
    return make_gpt2(tmp_path_factory.mktemp("gpt2"), seed=0, layers=3, width=16, context=24)


@pytest.fixture
def copy(gpt2, tmp_path):
    return Path(shutil.copytree(gpt2, tmp_path / "copy"))


def write(directory: Path, state: dict, kind: str = "safetensors") -> None:
    (directory / "model.safetensors").unlink(missing_ok=True)
    if kind == "bin":
        torch.save(state, directory / "pytorch_model.bin")
    else:
        save_file(state, directory / "model.safetensors", {"format": "pt"})


def configure(directory: Path, **changes) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def refused(directory: Path) -> str:
    """The sentence by which a model is refused, before any of it is loaded."""
    with pytest.raises(ModelError) as error:
        resolve(str(directory))
    text = str(error.value)
    assert "\n" not in text and text.endswith(".") and ". " not in text
    assert str(directory) in text
    return text


def without_mlp(state):
    del state[MLP]


def under_another_prefix(state):
    for key in list(state):
        state[f"model.{key}"] = state.pop(key)


def of_another_shape(state):
    state[MLP] = state[MLP].T.contiguous()


def with_a_layer_more(state):
    state["transformer.h.3.ln_1.weight"] = state["transformer.h.1.ln_1.weight"].clone()


def with_an_adapter(state):
    state["transformer.h.0.attn.c_attn.lora_A.weight"] = torch.zeros(4, 16)


def without_embedding(state):
    del state["transformer.wte.weight"]


def of_integers(state):
    state[MLP] = (state[MLP] * 100).to(torch.int8)


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (without_mlp, f"lack {MLP}"),
        (without_embedding, "lack "),
        (under_another_prefix, r"lack \S+ and 40 more"),
        (of_another_shape, rf"wrong shape in {MLP} \[64, 16\] instead of \[16, 64\]"),
        (with_a_layer_more, r"copy/\S+ have what .* does not: transformer\.h\.3\.ln_1\.weight"),
        (with_an_adapter, r"does not: transformer\.h\.0\.attn\.c_attn\.lora_A\.weight"),
        (of_integers, f"{MLP} of int8 in .*, where weights are floating-point numbers"),
    ],
)
def test_weights_that_are_not_the_whole_model_are_refused(copy, kind, change, words):
    state = load_file(copy / "model.safetensors")
    change(state)
    write(copy, state, kind)
    assert re.search(words, refused(copy))


@pytest.mark.parametrize("kind", FORMATS)
def test_the_loaders_of_workers_refuse_them_too(copy, kind, monkeypatch):
    """A hub's weights are not on the driver's machine when the study is planned."""
    state = load_file(copy / "model.safetensors")
    del state[MLP]
    write(copy, state, kind)
    monkeypatch.setattr("universal_ray.models.source.build", lambda *_, **__: None)
    source = resolve(str(copy))
    monkeypatch.undo()
    loaders = (Capture, load_weights, load_decoder, lambda each: embedding_norms(each, 300))
    for load in loaders:
        with pytest.raises(ModelError, match=f"lack {MLP}"):
            load(source)


def test_what_a_model_need_not_store_may_be_missing_or_there(gpt2, copy):
    """Masks and scales of older versions, the head that is the embedding, a head of another task,
    a model saved without its head."""
    expected_TN = values(Capture(resolve(str(gpt2))), TOKENS_BP)
    whole = load_file(copy / "model.safetensors")
    assert "lm_head.weight" not in whole
    mask = torch.tril(torch.ones(24, 24)).view(1, 1, 24, 24)
    older = {
        f"transformer.h.{layer}.attn.{name}": value
        for layer in range(3)
        for name, value in (
            ("bias", mask.clone()), ("masked_bias", torch.tensor(-1e4 - layer)),
        )
    }  # fmt: skip
    bare = {key.removeprefix("transformer."): value for key, value in whole.items()}
    for state, architecture in (
        ({**whole, **older}, "GPT2LMHeadModel"),
        ({**whole, **{key: mask.bool() for key in older if key.endswith(".bias")}}, None),
        ({**whole, "score.weight": torch.zeros(2, 16)}, None),
        ({**whole, "lm_head.weight": whole["transformer.wte.weight"].clone()}, None),
        (bare, "GPT2Model"),
    ):
        for kind in FORMATS:
            write(copy, {key: value.clone() for key, value in state.items()}, kind)
            if architecture is not None:
                configure(copy, architectures=[architecture])
            assert torch.equal(values(Capture(resolve(str(copy))), TOKENS_BP), expected_TN)
            (copy / "pytorch_model.bin").unlink(missing_ok=True)


def neox(directory: Path) -> Path:
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    config = GPTNeoXConfig(
        vocab_size=300, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=24, eos_token_id=0, bos_token_id=0,
    )  # fmt: skip
    return save_model(GPTNeoXForCausalLM(config), directory)


def test_masks_and_rotations_of_older_versions_may_be_there(tmp_path):
    neox(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    for layer in range(2):
        attention = f"gpt_neox.layers.{layer}.attention"
        state[f"{attention}.bias"] = torch.ones(1, 1, 24, 24, dtype=torch.bool)
        state[f"{attention}.masked_bias"] = torch.tensor(-1e9)
        state[f"{attention}.rotary_emb.inv_freq"] = torch.ones(1)
    write(tmp_path, state)
    load_model(resolve(str(tmp_path)))


def test_a_head_that_is_not_the_embedding_must_be_there(tmp_path):
    neox(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    head = next(key for key in state if not key.startswith("gpt_neox."))
    del state[head]
    write(tmp_path, state)
    assert "lack " in refused(tmp_path)


@pytest.mark.parametrize("kind", FORMATS)
def test_weights_in_parts_are_one_model(gpt2, copy, kind):
    state = load_file(copy / "model.safetensors")
    (copy / "model.safetensors").unlink()
    stem, end = ("model", "safetensors") if kind == "safetensors" else ("pytorch_model", "bin")
    places = {}
    for number, keys in enumerate((sorted(state)[::2], sorted(state)[1::2]), 1):
        name = f"{stem}-0000{number}-of-00002.{end}"
        part = {key: state[key] for key in keys}
        save_file(part, copy / name) if kind == "safetensors" else torch.save(part, copy / name)
        places |= dict.fromkeys(keys, name)
    index = copy / f"{stem}.{end}.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    source = resolve(str(copy))
    assert [name for name, _ in source.files[1:]] == sorted(set(places.values()))
    assert torch.equal(
        values(Capture(source), TOKENS_BP), values(Capture(resolve(str(gpt2))), TOKENS_BP)
    )
    last = copy / max(places.values())
    hidden = last.rename(copy / "hidden")
    assert f"lacks {last.name}, which its {index.name} names" in refused(copy)
    hidden.rename(last)
    for places in ({"a": "../elsewhere.bin"}, {"a": ["part"]}, {"a": None}, {}, ["part"], None):
        index.write_text(json.dumps({"weight_map": places}))
        assert "names no files beside it" in refused(copy)


def test_damaged_weights_are_refused(copy):
    path = copy / "model.safetensors"
    whole = path.read_bytes()
    length = struct.unpack("<Q", whole[:8])[0]
    for content, words in (
        (b"", "ends before its header"),
        (whole[:100], "ends before its header"),
        (whole[: len(whole) // 2], "ends within"),
        (whole + b"\0", "goes on after its last tensor"),
        (struct.pack("<Q", 2**62) + whole[8:], "ends before its header"),
        (whole[:8] + b"\xff" * length + whole[8 + length :], "cannot be read"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "a pointer"),
    ):
        path.write_bytes(content)
        assert words in refused(copy)
    path.unlink()
    for content in (b"", b"PK\3\4 and no more", b"version https://git-lfs.github.com/spec/v1\n"):
        (copy / "pytorch_model.bin").write_bytes(content)
        assert str(copy / "pytorch_model.bin") in refused(copy)


def test_pickled_weights_cut_short_are_refused(copy):
    state = load_file(copy / "model.safetensors")
    write(copy, state, "bin")
    path = copy / "pytorch_model.bin"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert "cannot be read" in refused(copy)
    torch.save([state], path)
    assert "something else than named tensors" in refused(copy)


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
