"""Every site of six architectures, against plain hooks of Hugging Face models, in float64."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers_models import save_model
from helpers_tiers import tiers
from transformers import AutoModelForCausalLM

from universal_ray.errors import ModelError
from universal_ray.models.capture import Capture
from universal_ray.models.site import SITES
from universal_ray.models.source import resolve

COMMON = {
    "vocab_size": 300, "max_position_embeddings": 32, "hidden_size": 24, "num_hidden_layers": 2,
    "num_attention_heads": 4, "initializer_range": 0.2, "bos_token_id": 0, "eos_token_id": 0,
    "pad_token_id": 0,
}  # fmt: skip
GATED = {**COMMON, "intermediate_size": 40, "num_key_value_heads": 2}
OF_GATED = "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj", "self_attn.o_proj"
FAMILIES = {
    "GPT2": (
        {"vocab_size": 300, "n_positions": 32, "n_embd": 24, "n_layer": 2, "n_head": 4,
         "n_inner": 40, "initializer_range": 0.2, "bos_token_id": 0, "eos_token_id": 0},
        ("mlp.c_fc", None, "mlp.c_proj", "attn.c_proj"),
    ),
    "GPTNeoX": (
        {**COMMON, "intermediate_size": 40},
        ("mlp.dense_h_to_4h", None, "mlp.dense_4h_to_h", "attention.dense"),
    ),
    "OPT": (
        {"vocab_size": 300, "max_position_embeddings": 32, "hidden_size": 24, "ffn_dim": 40,
         "num_hidden_layers": 2, "num_attention_heads": 4, "word_embed_proj_dim": 24,
         "init_std": 0.2, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 1},
        ("fc1", None, "fc2", "self_attn.out_proj"),
    ),
    "Llama": (GATED, OF_GATED),
    "Qwen3": ({**GATED, "head_dim": 10}, OF_GATED),
    "Gemma": ({**GATED, "head_dim": 10}, OF_GATED),
}  # fmt: skip
"""Configurations, and what modules of a block are called: what writes pre-activations, up, what
reads activations, what reads the values of heads."""


def silu(x):
    return x / (1 + np.exp(-x))


def gelu_tanh(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def truth(folder, names, tokens_BP, activation):
    """Values [T, D] by site and layer of a plain model, float64."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64).eval()
    (blocks,) = (
        each for each in model.modules() if isinstance(each, torch.nn.ModuleList) and len(each) == 2
    )
    written: dict = {}
    read: dict = {}

    def flat(x):
        return (x[0] if isinstance(x, tuple) else x).reshape(tokens_BP.numel(), -1).numpy()

    for layer, block in enumerate(blocks):
        modules = dict(block.named_modules())
        for name in filter(None, names):
            modules[name].register_forward_hook(
                lambda _, given, out, key=(name, layer): (
                    read.__setitem__(key, flat(given)), written.__setitem__(key, flat(out)), None
                )[-1]
            )  # fmt: skip
        block.register_forward_hook(
            lambda _, given, out, layer=layer: written.__setitem__(("block", layer), flat(out))
        )
    with torch.inference_mode():
        model(tokens_BP)
    pre, up, out, attention = names
    found = {}
    for layer, block in enumerate(blocks):
        pre_TM, post_TM = written[pre, layer], read[out, layer]
        found |= {("mlp_pre", layer): pre_TM, ("mlp_post", layer): post_TM}
        if up:
            up_TM = written[up, layer]
            both = [(pre_TM > 0) == a for a in (True, False)], [(up_TM > 0) == b for b in (1, 0)]
            cases = [one & other for one in both[0] for other in both[1]]
            found |= {
                ("mlp_gate", layer): activation(pre_TM),
                ("mlp_up", layer): up_TM,
                ("mlp_sign", layer): np.concatenate([post_TM * case for case in cases], axis=1),
            }
        z_TX = read[attention, layer]
        linear = dict(block.named_modules())[attention]
        weight = linear.weight.detach().numpy()
        w_XC = weight if type(linear).__name__ == "Conv1D" else weight.T
        z_THK, w_HKC = z_TX.reshape(len(z_TX), 4, -1), w_XC.reshape(4, -1, w_XC.shape[1])
        found |= {
            ("attention_z", layer): z_TX,
            ("attention_norm", layer): np.stack(
                [np.linalg.norm(z_THK[:, h] @ w_HKC[h], axis=1) for h in range(4)], axis=1
            ),
            ("residual", layer): written["block", layer],
        }
    return found


@pytest.mark.parametrize("family", tiers(FAMILIES, {"GPT2", "Llama"}))
def test_every_site_equals_plain_hooks(tmp_path, family):
    import transformers

    settings, names = FAMILIES[family]
    with torch.random.fork_rng():
        torch.manual_seed(3)
        config = getattr(transformers, f"{family}Config")(**settings)
        head = "LMHeadModel" if family == "GPT2" else "ForCausalLM"
        save_model(getattr(transformers, f"{family}{head}")(config), tmp_path)
    source = resolve(str(tmp_path))
    tokens_BP = torch.randint(2, 300, (3, 20), generator=torch.Generator().manual_seed(0))
    expected = truth(tmp_path, names, tokens_BP, gelu_tanh if family == "Gemma" else silu)
    sites = list(SITES.values())
    if not source.gated:
        sites = [each for each in sites if each.name not in ("mlp_gate", "mlp_up", "mlp_sign")]
        with pytest.raises(ModelError, match="has no site mlp_gate, as its MLPs have no gate"):
            SITES["mlp_gate"].shape(source)
    for dtype, close in ((torch.float64, 1e-10), (torch.float32, 1e-4)):
        seen: dict = {}
        capture = Capture(source, dtype=dtype, sites=sites)
        capture.read(tokens_BP, lambda *at, into=seen: into.__setitem__(at[:2], at[2].clone()))
        assert seen.keys() == expected.keys()
        for key, x_TD in expected.items():
            assert seen[key].dtype == dtype and seen[key].shape == x_TD.shape
            np.testing.assert_allclose(seen[key].double().numpy(), x_TD, rtol=0, atol=close)
    for site in sites:
        shape = site.shape(source)
        below = min(expected[site.name, layer].min() for layer in range(2)) < 0
        assert (shape.layers, shape.width) == (2, expected[site.name, 0].shape[1])
        assert below == shape.signed or (site.floor and site.name != "attention_norm")
        assert bool(site.floor) or shape.signed


def test_a_model_without_such_heads_lacks_their_sites(tmp_path):
    settings, _ = FAMILIES["GPT2"]
    from transformers import GPT2Config, GPT2LMHeadModel

    save_model(GPT2LMHeadModel(GPT2Config(**settings)), tmp_path)
    source = replace(resolve(str(tmp_path)), head_width=None)
    for name in ("attention_z", "attention_norm"):
        with pytest.raises(ModelError, match=f"has no site {name}, as not every block has an"):
            SITES[name].shape(source)
