"""A site that no other file knows goes through capture and planning."""

import pytest
import torch
from helpers_models import make_gpt2, save_model
from helpers_study import make_study, make_tokens
from transformers import (
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
)

from universal_ray.config.site import SITES as NAMES
from universal_ray.errors import ModelError
from universal_ray.models.capture import Capture
from universal_ray.models.site import MLP_POST, MLP_PRE, SITES, Ask, Shape, Site, site_of
from universal_ray.models.source import resolve
from universal_ray.planning.capacity import weight_bytes
from universal_ray.stages.inputs import prepare
from universal_ray.stages.roles.stage import RolesStage
from universal_ray.storage.store import Store


def of_stream(block, show, layer):
    """What a block of transformers gives, a tensor or the first of a tuple."""
    block.register_forward_hook(
        lambda _, __, out: show(layer, out[0] if isinstance(out, tuple) else out)
    )


class Residual(Site):
    """The residual stream after each block of a GPT-2."""

    def shape(self, source):
        return Shape(source.layers, source.d_model, signed=True)

    def attach(self, source, bridge, show):
        for layer, block in enumerate(bridge.original_model.transformer.h):
            of_stream(block, show, layer)


class Wider(Residual):
    def shape(self, source):
        return Shape(source.layers, source.d_mlp, signed=True)


class Deeper(Residual):
    def shape(self, source):
        return Shape(source.layers + 1, source.d_model, signed=True)


LACKS = {Ask.roles: "no function is applied to a sum"}


def planted(kind: type[Residual]) -> Residual:
    return kind(name="residual", unit="dimension", lacks=LACKS)


RESIDUAL = planted(Residual)


def true_stream(path, tokens_BP):
    """The residual stream [T, L * C] of a plain Hugging Face model, float64."""
    model = GPT2LMHeadModel.from_pretrained(path).double().eval()
    found = []
    for layer, block in enumerate(model.transformer.h):
        of_stream(block, lambda _, x_BPC: found.append(x_BPC.flatten(0, 1)), layer)
    with torch.inference_mode():
        model(torch.as_tensor(tokens_BP))
    return torch.cat(found, dim=1)


def test_a_planted_site_is_captured_beside_another(tmp_path):
    source = resolve(str(make_gpt2(tmp_path, seed=1, layers=3)))
    tokens_BP = torch.randint(300, (3, 20), generator=torch.Generator().manual_seed(0))
    seen = {}
    both = Capture(source, sites=[RESIDUAL, MLP_PRE])
    both.read(tokens_BP, lambda name, layer, x_TD: seen.__setitem__((name, layer), x_TD))
    alone = {}
    capture = Capture(source, sites=[MLP_PRE])
    capture.read(tokens_BP, lambda name, layer, x_TD: alone.__setitem__((name, layer), x_TD))
    assert len(seen) == 2 * 3 and len(alone) == 3
    stream_TN = torch.cat([seen["residual", layer] for layer in range(3)], dim=1)
    expected_TN = true_stream(tmp_path, tokens_BP).float()
    torch.testing.assert_close(stream_TN, expected_TN, rtol=0, atol=1e-4)
    assert all(torch.equal(seen[key], x_TD) for key, x_TD in alone.items())
    assert alone["mlp_pre", 0].shape == (60, 128) and stream_TN.shape == (60, 3 * 32)


def test_a_stage_that_asks_what_a_site_lacks_says_so_before_any_model_runs(tmp_path, monkeypatch):
    monkeypatch.setitem(SITES, "mlp_post", RESIDUAL)
    names = [str(make_gpt2(tmp_path / name, seed)) for seed, name in enumerate("ab")]
    study = make_study(tmp_path / "run", names, make_tokens(tmp_path / "tokens"))
    store = Store(study.run.dir)
    prepared = prepare(study, store)
    assert {(m.width, m.d_model, m.d_mlp) for m in prepared.everyone} == {(32, 32, 128)}
    with pytest.raises(ModelError, match="The dimensions of site residual have no roles"):
        RolesStage(prepared, store)


def test_a_site_that_shows_other_units_than_it_says_is_refused(tmp_path):
    """Regression: values of another width were cut into rows of the width expected."""
    source = resolve(str(make_gpt2(tmp_path, seed=1)))
    with pytest.raises(ModelError, match=r"shows 32 units of residual in .* says 128"):
        Capture(source, sites=[planted(Wider)])


def test_a_site_that_shows_fewer_layers_than_it_says_is_refused(tmp_path):
    source = resolve(str(make_gpt2(tmp_path, seed=1)))
    with pytest.raises(ModelError, match="showed 4 of 5 layers of mlp_post and residual in one"):
        Capture(source, sites=[MLP_POST, planted(Deeper)])


def test_what_cannot_be_asked_of_a_site_is_told_with_the_reason():
    for site in (MLP_PRE, MLP_POST):
        site.check_has(*Ask)
        assert site.pair() == (MLP_PRE, MLP_POST)
    RESIDUAL.check_has(Ask.weights)
    assert RESIDUAL.pair() == (RESIDUAL, RESIDUAL)
    with pytest.raises(ModelError) as error:
        RESIDUAL.check_has(Ask.weights, Ask.roles)
    assert str(error.value) == (
        "The dimensions of site residual have no roles and interventions, as no function is "
        "applied to a sum: leave out the stage that asks for it, or choose another site."
    )


def test_every_name_of_a_site_is_a_site():
    assert tuple(SITES) == NAMES and all(site_of(name).name == name for name in NAMES)


def test_what_a_model_takes_is_planned_by_its_own_sizes(tmp_path):
    """Not by a quarter of the width of its MLP, which is none of these models' residual stream."""
    common = {
        "vocab_size": 300, "max_position_embeddings": 32, "hidden_size": 32,
        "num_attention_heads": 4, "bos_token_id": 0, "eos_token_id": 0,
    }  # fmt: skip
    make_gpt2(tmp_path / "gpt2", 0, n_inner=96)
    neox = GPTNeoXForCausalLM(
        GPTNeoXConfig(**common, num_hidden_layers=3, intermediate_size=96)
    )
    llama = LlamaForCausalLM(LlamaConfig(**common, num_hidden_layers=2, intermediate_size=80))
    save_model(neox, tmp_path / "neox")
    save_model(llama, tmp_path / "llama")
    names = [str(tmp_path / name) for name in ("gpt2", "neox", "llama")]
    study = make_study(tmp_path / "run", names, make_tokens(tmp_path / "tokens"))
    planned = prepare(study, Store(study.run.dir)).everyone
    blocks = (GPT2LMHeadModel.from_pretrained(names[0]).transformer.h, neox.gpt_neox.layers,
              llama.model.layers)  # fmt: skip
    for model, made in zip(planned, blocks, strict=True):
        held = sum(weight.numel() for weight in made.parameters() if weight.dim() == 2)
        assert weight_bytes(model) == 4 * held
        assert model.d_model == 32 != model.width / 4
