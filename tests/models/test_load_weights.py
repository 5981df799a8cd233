"""Weights of a model, raw and folded, against what its files say, absorbed by hand in float64.

Shapes: N neurons, C channels, V vocabulary, H heads of all layers, K channels of a head.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from helpers_models import make_gpt2, save_model
from torch import Tensor

from universal_ray.errors import ModelError
from universal_ray.maths.statistics.weights import head_maps, vector_statistics, vocabulary
from universal_ray.models.source import resolve
from universal_ray.models.weights import NORMALISED, UNBIASED, UNGATED, load_weights

LAYERS, CHANNELS, HEADS, WIDTH, VOCABULARY = 2, 32, 4, 96, 320


def make(name: str, directory: Any, **config: Any) -> None:
    """A small random model; norms and biases random as well, which a new model has as 1 and 0."""
    import transformers

    common = {
        "vocab_size": VOCABULARY, "max_position_embeddings": 32, "hidden_size": CHANNELS,
        "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "intermediate_size": WIDTH,
        "initializer_range": 0.2, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0,
    }  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        configuration = getattr(transformers, f"{name}Config")(**common | config)
        model = getattr(transformers, f"{name}ForCausalLM")(configuration)
        randomise(model)
    save_model(model, directory)


def randomise(model: Any) -> None:
    for key, value in model.state_dict().items():
        if key.endswith("bias") or "norm" in key or ".ln_" in key:
            value.copy_(torch.randn(value.shape) * 0.5 + key.endswith("weight"))


def make_gpt2_with_biases(directory: Any) -> None:
    from transformers import AutoModelForCausalLM

    make_gpt2(directory, seed=1, layers=LAYERS, width=CHANNELS, heads=HEADS, n_inner=WIDTH)
    model = AutoModelForCausalLM.from_pretrained(directory)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        randomise(model)
    save_model(model, directory)


def state(directory: Any) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    return {
        key: value.double() for key, value in load_file(directory / "model.safetensors").items()
    }


def gpt2(files: dict[str, Tensor], layer: int) -> dict[str, Tensor]:
    """One layer as the files of a GPT-2 hold it: matrices map rows to columns."""
    block = {k.partition(f"h.{layer}.")[2]: v for k, v in files.items() if f"h.{layer}." in k}
    query, key, value = block["attn.c_attn.weight"].chunk(3, dim=1)
    return {
        "w_in": block["mlp.c_fc.weight"], "b_in": block["mlp.c_fc.bias"],
        "w_out": block["mlp.c_proj.weight"],
        "gain": block["ln_2.weight"], "shift": block["ln_2.bias"],
        "attention_gain": block["ln_1.weight"],
        "query": query, "key": key, "value": value, "output": block["attn.c_proj.weight"],
    }  # fmt: skip


def neox(files: dict[str, Tensor], layer: int) -> dict[str, Tensor]:
    """One layer as the files of a GPT-NeoX hold it: matrices map columns to rows, heads apart."""
    mark = f"layers.{layer}."
    block = {k.partition(mark)[2]: v for k, v in files.items() if mark in k}
    joined = block["attention.query_key_value.weight"].view(HEADS, 3, -1, CHANNELS)
    query, key, value = (part.flatten(0, 1).T for part in joined.unbind(1))
    return {
        "w_in": block["mlp.dense_h_to_4h.weight"].T, "b_in": block["mlp.dense_h_to_4h.bias"],
        "w_out": block["mlp.dense_4h_to_h.weight"].T,
        "gain": block["post_attention_layernorm.weight"],
        "shift": block["post_attention_layernorm.bias"],
        "attention_gain": block["input_layernorm.weight"],
        "query": query, "key": key, "value": value, "output": block["attention.dense.weight"].T,
    }  # fmt: skip


FAMILIES: dict[str, tuple[Callable[[Any], None], Callable, str, str]] = {
    "gpt2": (make_gpt2_with_biases, gpt2, "transformer.wte.weight", "transformer.ln_f.weight"),
    "neox": (
        partial(make, "GPTNeoX"), neox, "embed_out.weight", "gpt_neox.final_layer_norm.weight",
    ),
}  # fmt: skip
EMBEDDINGS = {"gpt2": "transformer.wte.weight", "neox": "gpt_neox.embed_in.weight"}


def by_hand(family: str, directory: Any, folded: bool) -> dict[str, Tensor]:
    """The weights by their definition: LayerNorm into what reads, means of what is not seen out."""
    _, layer_of, unembed, final_gain = FAMILIES[family]
    files = state(directory)
    found: dict[str, list[Tensor]] = {name: [] for name in PARTS}
    for layer in range(LAYERS):
        parts = layer_of(files, layer)
        if folded:
            parts["b_in"] = parts["b_in"] + parts["shift"] @ parts["w_in"]
            parts["w_in"] = centred(parts["gain"][:, None] * parts["w_in"], 0)
            for name in ("query", "key", "value"):
                parts[name] = centred(parts["attention_gain"][:, None] * parts[name], 0)
            for name in ("w_out", "output"):
                parts[name] = centred(parts[name], 1)
        heads = {k: parts[k].unflatten(1, (HEADS, -1)) for k in ("query", "key", "value")}
        found["w_in_NC"].append(parts["w_in"].T)
        found["w_out_NC"].append(parts["w_out"])
        found["bias_N"].append(parts["b_in"])
        for name, split_CHK in heads.items():
            found[f"{name}_HCK"].append(split_CHK.transpose(0, 1))
        found["output_HKC"].append(parts["output"].unflatten(0, (HEADS, -1)))
    unembed_CV = files[unembed].T
    if folded:
        unembed_CV = centred(centred(files[final_gain][:, None] * unembed_CV, 0), 1)
    embed_CV = files[EMBEDDINGS[family]].T
    if folded:
        embed_CV = centred(embed_CV, 0)
    stacked = {name: torch.cat(each) for name, each in found.items()}
    return {"unembed_CV": unembed_CV, "embed_CV": embed_CV, **stacked}


PARTS = ("w_in_NC", "w_out_NC", "bias_N", "query_HCK", "key_HCK", "value_HCK", "output_HKC")


def centred(matrix: Tensor, over: int) -> Tensor:
    return matrix - matrix.mean(over, keepdim=True)


@pytest.mark.parametrize("convention", ["raw", "folded"])
@pytest.mark.parametrize("family", FAMILIES)
def test_weights_are_those_of_the_files(tmp_path, family, convention):
    FAMILIES[family][0](tmp_path)
    found = load_weights(resolve(str(tmp_path)), convention)
    assert (found.convention, found.layers) == (convention, LAYERS)
    assert found.missing == {"up": UNGATED, "up_bias": UNGATED}
    assert found.parallel == (family == "neox")
    for name, expected in by_hand(family, tmp_path, convention == "folded").items():
        value = getattr(found, name)
        assert value.shape == expected.shape and value.dtype == torch.float32
        torch.testing.assert_close(
            value.double(), expected, rtol=0, atol=3e-6, msg=lambda said, at=name: f"{at}: {said}"
        )


def test_absorbing_norms_changes_every_statistic_of_the_weights(tmp_path):
    """So a table has to say which convention it is of."""
    make_gpt2_with_biases(tmp_path)
    raw, folded = (load_weights(resolve(str(tmp_path)), name) for name in ("raw", "folded"))
    one, other = vector_statistics(raw), vector_statistics(folded)
    assert all((one[name] - other[name]).abs().max() > 1e-2 for name in one)


def test_weights_belong_to_the_caller(tmp_path):
    make_gpt2(tmp_path, seed=1)
    first = load_weights(resolve(str(tmp_path)), "raw")
    storages = [w.untyped_storage().data_ptr() for w in vars(first).values() if hasattr(w, "shape")]
    assert len(set(storages)) == len(storages) == 9


def test_convention_and_dtype_are_checked_and_kept(tmp_path):
    make_gpt2(tmp_path, seed=1)
    source = resolve(str(tmp_path))
    with pytest.raises(ModelError, match="'centred' is unknown: choose one of folded, raw"):
        load_weights(source, "centred")
    assert load_weights(source, "raw", dtype=torch.float64).w_out_NC.dtype == torch.float64


@pytest.mark.parametrize("convention", ["raw", "folded"])
def test_a_gated_neuron_reads_by_two_vectors(tmp_path, convention):
    """A norm without a mean is absorbed by its gain alone, and nothing is centred."""
    make("Llama", tmp_path, mlp_bias=True)
    found, files = load_weights(resolve(str(tmp_path)), convention), state(tmp_path)
    assert found.missing == {} and not found.parallel
    expected: dict[str, list[Tensor]] = {name: [] for name in ("w_in", "up", "w_out")}
    for layer in range(LAYERS):
        mark = f"model.layers.{layer}."
        gain_C = files[f"{mark}post_attention_layernorm.weight"] if convention == "folded" else 1
        expected["w_in"].append(files[f"{mark}mlp.gate_proj.weight"] * gain_C)
        expected["up"].append(files[f"{mark}mlp.up_proj.weight"] * gain_C)
        expected["w_out"].append(files[f"{mark}mlp.down_proj.weight"].T)
    for name, each in expected.items():
        torch.testing.assert_close(
            getattr(found, f"{name}_NC").double(), torch.cat(each), rtol=0, atol=3e-6
        )
    biases = [
        torch.cat([files[f"model.layers.{n}.mlp.{name}_proj.bias"] for n in range(LAYERS)])
        for name in ("gate", "up")
    ]
    assert found.bias_N is not None and found.up_bias_N is not None
    torch.testing.assert_close(found.bias_N.double(), biases[0])
    torch.testing.assert_close(found.up_bias_N.double(), biases[1])


@pytest.mark.parametrize("convention", ["raw", "folded"])
@pytest.mark.parametrize("name", ["Gemma2", "Olmo2"])
def test_what_a_neuron_writes_goes_through_the_norm_after_its_mlp(tmp_path, name, convention):
    """The slope of the residual stream along one activation, as autograd has it in float64, but
    for the scale of that norm, whose own slope is along the stream that it scales."""
    from transformers import AutoModelForCausalLM

    make(name, tmp_path, **({"head_dim": 8} if name == "Gemma2" else {}))
    if (name, convention) == ("Olmo2", "folded"):
        with pytest.raises(ModelError, match="cannot be absorbed"):
            load_weights(resolve(str(tmp_path)), convention)
        return
    found = load_weights(resolve(str(tmp_path)), convention)
    model: Any = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float64).eval()
    block = model.requires_grad_(False).model.layers[-1]
    norm = block.post_feedforward_layernorm
    x_D = torch.randn(WIDTH, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    scale = (block.mlp.down_proj(x_D).square().mean() + model.config.rms_norm_eps).sqrt()
    slope_CD = torch.autograd.functional.jacobian(lambda x: norm(block.mlp.down_proj(x)), x_D)
    along_C = norm(block.mlp.down_proj(x_D))  # the scale moves the stream along itself alone
    expected_DC, written_DC = slope_CD.T * scale, found.w_out_NC[-WIDTH:].double()
    rest_DC = expected_DC - written_DC
    rest_DC -= (rest_DC @ along_C)[:, None] * along_C / along_C.square().sum()
    assert float(rest_DC.abs().max()) < 1e-5 * float(expected_DC.abs().max())
    bare_DC = block.mlp.down_proj.weight.detach().T
    assert float((written_DC - bare_DC).abs().max()) > 0.1 * float(bare_DC.abs().max())
    unembed_CV = model.lm_head.weight.detach().T
    if convention == "folded":
        final = model.model.norm
        unembed_CV = (1 + final.weight.detach())[:, None] * unembed_CV
    unembed_CV = unembed_CV[:, unembed_CV.norm(dim=0) > 0]  # of padding it knows nothing
    cosine_DV = torch.nn.functional.normalize(written_DC) @ torch.nn.functional.normalize(
        unembed_CV, dim=0
    )
    told = vocabulary(found.w_out_NC[-WIDTH:], found.unembed_CV, 1).moments["vocab_var"]
    torch.testing.assert_close(told, cosine_DV.var(1, correction=0), rtol=1e-4, atol=0)


def test_heads_that_share_a_key_have_it_each(tmp_path):
    make("Llama", tmp_path, num_key_value_heads=2)
    found = load_weights(resolve(str(tmp_path)), "raw")
    assert found.missing == {"bias": UNBIASED, "up_bias": UNBIASED}
    assert found.key_HCK is not None and found.query_HCK is not None
    assert found.key_HCK.shape == found.query_HCK.shape == (LAYERS * HEADS, CHANNELS, 8)
    files = state(tmp_path)
    for layer in range(LAYERS):
        shared_KC = files[f"model.layers.{layer}.self_attn.k_proj.weight"].view(2, 8, CHANNELS)
        for head in range(HEADS):  # heads 0 and 1 ask the first key, 2 and 3 the second
            key_CK = found.key_HCK[layer * HEADS + head].double()
            torch.testing.assert_close(key_CK, shared_KC[head // 2].T)
    assert set(head_maps(found)) == {"q", "k", "v", "o"}


def test_normalised_queries_are_joined_to_keys_by_no_matrix(tmp_path):
    make("Qwen3", tmp_path, head_dim=8, num_key_value_heads=HEADS)
    found = load_weights(resolve(str(tmp_path)), "raw")
    assert found.missing["query"] == found.missing["key"] == NORMALISED
    assert set(head_maps(found)) == {"v", "o"}


def test_a_bias_that_an_mlp_lacks_comes_from_its_norm_when_that_is_absorbed(tmp_path):
    make("Falcon", tmp_path, ffn_hidden_size=WIDTH)
    raw, folded = (load_weights(resolve(str(tmp_path)), name) for name in ("raw", "folded"))
    assert raw.missing["bias"] == UNBIASED and "input_bias" not in vector_statistics(raw)
    assert float(vector_statistics(folded)["input_bias"].abs().max()) > 0.1


def test_norms_that_cannot_be_absorbed_are_refused(tmp_path):
    """A norm behind what writes cannot be absorbed into what reads."""
    sizes = {"ffn_dim": WIDTH, "word_embed_proj_dim": CHANNELS}
    make("OPT", tmp_path, do_layer_norm_before=False, **sizes)
    with pytest.raises(ModelError, match=r"cannot be absorbed .* choose the convention raw"):
        load_weights(resolve(str(tmp_path)), "folded")
    assert load_weights(resolve(str(tmp_path)), "raw").missing.keys() == {"up", "up_bias"}
