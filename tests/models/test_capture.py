"""What a model shows of its units at a site, against plain Hugging Face models with plain hooks."""

import statistics
import time
from dataclasses import replace
from functools import partial

import pytest
import torch
from helpers_models import make_gpt2, save_model, values
from transformers import GPT2LMHeadModel, GPTNeoXConfig, GPTNeoXForCausalLM

from universal_ray.errors import ModelError
from universal_ray.models.capture import Capture
from universal_ray.models.site import MLP_POST, MLP_PRE, site_of
from universal_ray.models.source import resolve

STANFORD = {"scale_attn_by_inverse_layer_idx": True, "reorder_and_upcast_attn": True}


def plain(directory, out, before=None, dtype=torch.float32, attention=None):
    """A Hugging Face model with hooks: a function from tokens [B, P] to values [T, N].

    `out` ends the name of every module that reads post-activations, `before` of every module that
    writes pre-activations, which are then what is captured. Attention is transformers' own choice.
    """
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(
        directory, dtype=dtype, attn_implementation=attention
    ).eval()
    found = []
    for name, module in model.named_modules():
        if before is None and name.endswith(out):
            module.register_forward_pre_hook(lambda _, inputs: found.append(inputs[0]))
        if before is not None and name.endswith(before):
            module.register_forward_hook(lambda _, inputs, output: found.append(output))

    def run(tokens_BP):
        found.clear()
        with torch.inference_mode():
            model.base_model(tokens_BP, use_cache=False)
        return torch.cat([x_BPD.reshape(tokens_BP.numel(), -1) for x_BPD in found], dim=1)

    return run


def rows(vocabulary, shape=(3, 20), seed=0):
    return torch.randint(vocabulary, shape, generator=torch.Generator().manual_seed(seed))


def families():
    """(family, configuration, module that reads post-activations, module that writes pre)."""
    common = {
        "vocab_size": 320, "max_position_embeddings": 32, "hidden_size": 32,
        "num_hidden_layers": 3, "num_attention_heads": 4, "initializer_range": 0.2,
        "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0,
    }  # fmt: skip
    grouped = {"num_key_value_heads": 2, "intermediate_size": 96}
    yield "GPTNeoX", {**common, "intermediate_size": 128}, "dense_4h_to_h", "dense_h_to_4h"
    yield "Llama", {**common, **grouped}, "down_proj", "gate_proj"
    yield "Gemma2", {**common, **grouped, "head_dim": 8}, "down_proj", "gate_proj"
    yield "Phi", {**common, "intermediate_size": 128}, "fc2", "fc1"
    yield "OPT", {
        "vocab_size": 320, "max_position_embeddings": 32, "hidden_size": 32, "ffn_dim": 96,
        "num_hidden_layers": 3, "num_attention_heads": 4, "word_embed_proj_dim": 32,
        "init_std": 0.2, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 1,
    }, "fc2", "fc1"  # fmt: skip


@pytest.mark.parametrize("activation", ["post", "pre"])
@pytest.mark.parametrize("flags", [{}, STANFORD], ids=["plain", "stanford"])
def test_gpt2_equals_plain_hooks(tmp_path, flags, activation):
    make_gpt2(tmp_path, seed=1, layers=4, **flags)
    x_TN = values(Capture(resolve(str(tmp_path)), sites=[site_of(f"mlp_{activation}")]), rows(300))
    assert x_TN.shape == (60, 4 * 128) and x_TN.dtype == torch.float32
    before = None if activation == "post" else "c_fc"
    for attention in ("sdpa", "eager"):
        expected_TN = plain(tmp_path, "mlp.c_proj", before, attention=attention)(rows(300))
        torch.testing.assert_close(x_TN, expected_TN, rtol=0, atol=1e-5)


@pytest.mark.parametrize("flag", STANFORD)
def test_the_quirks_of_the_stanford_seeds_reach_the_model(tmp_path, flag):
    """The scale changes what neurons do, so its being ignored cannot go unnoticed above."""
    on = make_gpt2(tmp_path / "on", seed=1, layers=4, **STANFORD)
    off = make_gpt2(tmp_path / "off", seed=1, layers=4, **{**STANFORD, flag: False})
    with_TN, without_TN = (values(Capture(resolve(str(each))), rows(300)) for each in (on, off))
    change_TN = (with_TN - without_TN).abs()
    layers_L = change_TN.reshape(60, 4, 128).amax((0, 2))
    if flag == "scale_attn_by_inverse_layer_idx":
        assert layers_L[0] == 0  # the first layer divides by one
        assert (layers_L[1:] > 0.1).all()
    else:  # the order of operations: rounding only in float32
        assert (layers_L < 1e-5).all()


def test_computes_in_the_dtype_asked_for(tmp_path):
    make_gpt2(tmp_path, seed=1, layers=4, **STANFORD)
    x_TN = values(Capture(resolve(str(tmp_path)), dtype=torch.float64), rows(300))
    expected_TN = plain(tmp_path, "mlp.c_proj", dtype=torch.float64)(rows(300))
    torch.testing.assert_close(x_TN, expected_TN, rtol=0, atol=1e-12)


def test_half_precision_is_no_worse_than_upcast_attention(tmp_path):
    """`reorder_and_upcast_attn` keeps scores in float32; so must attention as it runs here."""
    make_gpt2(tmp_path, seed=1, layers=4, **STANFORD)
    exact_TN = plain(tmp_path, "mlp.c_proj", dtype=torch.float64)(rows(300))

    def error(x_TN):
        return (x_TN.double() - exact_TN).square().mean().sqrt()

    x_TN = values(Capture(resolve(str(tmp_path)), dtype=torch.float16), rows(300))
    assert x_TN.dtype == torch.float16
    upcast_TN = plain(tmp_path, "mlp.c_proj", dtype=torch.float16, attention="eager")(rows(300))
    assert 0 < error(x_TN) < 1.2 * error(upcast_TN)


@pytest.mark.parametrize("activation", ["post", "pre"])
@pytest.mark.parametrize("family", list(families()), ids=lambda family: family[0])
def test_other_architectures_equal_plain_hooks(tmp_path, family, activation):
    import transformers

    name, settings, post, pre = family
    with torch.random.fork_rng():
        torch.manual_seed(2)
        model = getattr(transformers, f"{name}ForCausalLM")(
            getattr(transformers, f"{name}Config")(**settings)
        )
    save_model(model, tmp_path)
    source = resolve(str(tmp_path))
    assert (source.layers, source.d_model, source.vocabulary, source.context) == (3, 32, 320, 32)
    x_TN = values(Capture(source, sites=[site_of(f"mlp_{activation}")]), rows(320))
    expected_TN = plain(tmp_path, post, None if activation == "post" else pre)(rows(320))
    assert x_TN.shape == (60, 3 * source.d_mlp)
    assert expected_TN.std() > 0.1
    torch.testing.assert_close(x_TN, expected_TN, rtol=0, atol=1e-5)


def test_post_of_a_gated_mlp_is_gate_times_up(tmp_path):
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=300, hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=48, hidden_act="silu", initializer_range=0.2,
    )  # fmt: skip
    save_model(LlamaForCausalLM(config), tmp_path)
    source = resolve(str(tmp_path))
    post_TN = values(Capture(source), rows(300))
    pre_TN = values(Capture(source, sites=[MLP_PRE]), rows(300))
    up_TN = plain(tmp_path, "", "up_proj")(rows(300))
    torch.testing.assert_close(post_TN, torch.nn.functional.silu(pre_TN) * up_TN)
    seen = {}
    both = Capture(source, sites=[MLP_PRE, MLP_POST])
    both.read(rows(300), lambda name, layer, x_TD: seen.__setitem__((name, layer), x_TD))
    for layer, columns in enumerate((slice(0, 48), slice(48, 96))):
        assert torch.equal(seen["mlp_pre", layer], pre_TN[:, columns])
        assert torch.equal(seen["mlp_post", layer], post_TN[:, columns])


def test_tokens_run_row_by_row_and_neurons_layer_by_layer(tmp_path):
    make_gpt2(tmp_path, seed=1, layers=3)
    capture = Capture(resolve(str(tmp_path)))
    tokens_BP = rows(300, (4, 10))
    x_TN = values(capture, tokens_BP)
    for row in range(4):
        alone_TN = values(capture, tokens_BP[row : row + 1])
        torch.testing.assert_close(x_TN[row * 10 : row * 10 + 10], alone_TN, rtol=0, atol=1e-5)
    model = GPT2LMHeadModel.from_pretrained(tmp_path)
    del model.transformer.h[2]
    model.config.n_layer = 2
    shallow = save_model(model, tmp_path / "shallow")
    first_TN = values(Capture(resolve(str(shallow))), tokens_BP)
    torch.testing.assert_close(x_TN[:, : 2 * 128], first_TN)


def test_what_was_taken_outlives_the_next_pass(tmp_path):
    make_gpt2(tmp_path, seed=1)
    capture = Capture(resolve(str(tmp_path)), sites=[MLP_PRE, MLP_POST])
    taken = []
    capture.read(rows(300), lambda name, layer, x_TD: taken.append(x_TD))
    copies = [x_TD.clone() for x_TD in taken]
    capture.read(rows(300, seed=1), lambda name, layer, x_TD: None)
    assert all(torch.equal(x_TD, copy_TD) for x_TD, copy_TD in zip(taken, copies, strict=True))
    assert not any(x_TD.requires_grad for x_TD in taken)


def test_an_error_of_the_taker_is_its_callers_and_harms_no_later_pass(tmp_path):
    make_gpt2(tmp_path, seed=1)
    capture = Capture(resolve(str(tmp_path)))
    expected_TN = values(capture, rows(300))

    def refuse(name, layer, x_TD):
        raise ValueError(f"no room for layer {layer}")

    with pytest.raises(ValueError, match="no room for layer 0"):
        capture.read(rows(300), refuse)
    assert torch.equal(values(capture, rows(300)), expected_TN)


def test_the_unembedding_is_not_computed(tmp_path):
    make_gpt2(tmp_path, seed=1)
    capture = Capture(resolve(str(tmp_path)))
    fired = []
    for name, module in capture._bridge.original_model.named_modules():
        if name.startswith("lm_head"):
            module.register_forward_hook(lambda *_: fired.append("lm_head"))
            fired.append("hooked")
    values(capture, rows(300))
    assert "hooked" in fired and "lm_head" not in fired


def test_loading_is_quiet(tmp_path, capfd, recwarn):
    make_gpt2(tmp_path, seed=1)
    capfd.readouterr()
    values(Capture(resolve(str(tmp_path))), rows(300))
    assert capfd.readouterr() == ("", "")
    assert not list(recwarn)


@pytest.mark.speed
@pytest.mark.parametrize(
    "shape",
    [
        {"layers": 12, "width": 768, "heads": 12, "vocabulary": 500, "context": 128},
        {"layers": 4, "width": 128, "heads": 4, "vocabulary": 500, "context": 128},
    ],
    ids=["gpt2-small", "tiny"],
)
def test_takes_at_most_1_4_times_plain_hooks(tmp_path, shape):
    """Medians of interleaved runs, and a second look before failing: other work disturbs them."""
    make_gpt2(tmp_path, seed=0, initializer_range=0.02, **shape)
    tokens_BP = rows(500, (1, 128) if shape["width"] == 768 else (16, 128))
    model = GPT2LMHeadModel.from_pretrained(tmp_path, attn_implementation="sdpa").eval()
    width = 4 * shape["width"]
    x_TN = torch.empty(0)

    def write(name, layer, x_TD):
        x_TN[:, layer * width : (layer + 1) * width] = x_TD

    def hook(module, inputs, layer):
        write("post", layer, inputs[0].reshape(-1, width))

    for layer, block in enumerate(model.transformer.h):
        block.mlp.c_proj.register_forward_pre_hook(partial(hook, layer=layer))

    def plain_hooks(tokens_BP):
        with torch.inference_mode():
            model.transformer(tokens_BP, use_cache=False)

    capture = Capture(resolve(str(tmp_path)))
    runs = (lambda tokens_BP: capture.read(tokens_BP, write), plain_hooks)
    seconds = ([], [])

    def ratio(repetitions):
        nonlocal x_TN
        for _ in range(repetitions):
            for run, times in zip(runs, seconds, strict=True):
                x_TN = torch.empty(tokens_BP.numel(), shape["layers"] * width)
                start = time.perf_counter()
                run(tokens_BP)
                times.append(time.perf_counter() - start)
        return statistics.median(seconds[0]) / statistics.median(seconds[1])

    assert ratio(9) <= 1.4 or ratio(30) <= 1.4


def test_a_model_whose_gates_are_not_what_its_architecture_says_is_refused(tmp_path):
    source = resolve(str(make_gpt2(tmp_path, seed=1)))
    assert not source.gated
    with pytest.raises(ModelError, match="mixes kinds of MLPs: choose one of one kind"):
        Capture(replace(source, gated=True))


@pytest.mark.parametrize("family", ["gpt2", "GPTNeoX"])
def test_a_forward_pass_reads_no_value_back(tmp_path, family):
    """On a GPU it would wait for it. On the meta device there are none, and reading one raises."""
    if family == "gpt2":
        make_gpt2(tmp_path, seed=1, layers=2, pad_token_id=0, **STANFORD)
    else:
        _, options, *_ = next(each for each in families() if each[0] == family)
        save_model(GPTNeoXForCausalLM(GPTNeoXConfig(**options)), tmp_path)
    shown = []
    capture = Capture(resolve(str(tmp_path)))
    capture._base_model.to("meta")
    capture.device = torch.device("meta")
    capture.read(rows(300), lambda site, layer, x_TD: shown.append((layer, x_TD.device.type)))
    assert shown == [(layer, "meta") for layer in range(len(shown))] and len(shown) >= 2
