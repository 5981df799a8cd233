"""Every weight file that is refused before a model is made of it, and all that may be otherwise
than this project writes it."""

import json
import re
import struct
from pathlib import Path

import pytest
import torch
from helpers_checkpoint import configure, refused
from helpers_models import save_model, values
from safetensors.torch import load_file, save_file

from universal_ray.errors import ModelError
from universal_ray.models.capture import Capture
from universal_ray.models.decoder import load_decoder
from universal_ray.models.source import load_model, resolve
from universal_ray.models.weights import embedding_norms, load_weights

MLP = "transformer.h.1.mlp.c_fc.weight"
FORMATS = ("safetensors", "bin")
TOKENS_BP = torch.arange(20).reshape(2, 10)


def write(directory: Path, state: dict, kind: str = "safetensors") -> None:
    (directory / "model.safetensors").unlink(missing_ok=True)
    if kind == "bin":
        torch.save(state, directory / "pytorch_model.bin")
    else:
        save_file(state, directory / "model.safetensors", {"format": "pt"})


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
