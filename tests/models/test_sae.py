"""Sparse autoencoders and transcoders in files of four formats, and what is refused of them."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from helpers_hub import lead, offline, served
from helpers_models import make_gpt2
from safetensors.torch import save_file

from universal_ray.errors import MissingError, ModelError
from universal_ray.maths.latents import encode
from universal_ray.models.capture import Capture
from universal_ray.models.coder import load, shape_of
from universal_ray.models.sae import found_in, place_of
from universal_ray.models.site import site_of
from universal_ray.models.source import ModelSource, resolve
from universal_ray.storage.hub import sha256_of

C, D = 8, 20


def weights(seed: int = 0) -> dict[str, torch.Tensor]:
    """W_enc [C, D], b_enc, b_dec, and a threshold."""
    torch.manual_seed(seed)
    return {
        "W_enc": torch.randn(C, D), "b_enc": torch.randn(D), "b_dec": torch.randn(C),
        "W_dec": torch.randn(D, C), "threshold": torch.rand(D) * 2,
    }  # fmt: skip


def lens(folder: Path, layer: int = 0, seed: int = 0, **changes) -> Path:
    """As SAELens saves one of the residual stream after a block."""
    told = {"hook": "hook_resid_post", "model": None, "weights": weights(seed), **changes}
    where = folder / f"blocks.{layer}"
    where.mkdir(parents=True)
    metadata = {"hook_name": f"blocks.{layer}.{told['hook']}", "model_name": told["model"]}
    content = {
        "architecture": told.get("architecture", "standard"), "d_in": C, "d_sae": D, "k": 3,
        "apply_b_dec_to_input": True, "normalize_activations": told.get("normalize", "none"),
        "metadata": {**metadata, **told.get("metadata", {})},
    }  # fmt: skip
    (where / "cfg.json").write_text(json.dumps(content))
    save_file(told["weights"], where / "sae_weights.safetensors")
    return folder


def sparsify(folder: Path, layer: int = 0) -> Path:
    where, given = folder / f"h.{layer}", weights()
    where.mkdir(parents=True)
    (where / "cfg.json").write_text(json.dumps({"k": 3, "activation": "topk", "d_in": C}))
    state = {"encoder.weight": given["W_enc"].T.contiguous(), "encoder.bias": given["b_enc"],
             "b_dec": given["b_dec"], "W_dec": given["W_dec"]}  # fmt: skip
    save_file(state, where / "sae.safetensors")
    return folder


def learning(folder: Path, layer: int = 0) -> Path:
    folder.mkdir(parents=True)
    trainer = {"dict_class": "BatchTopKSAE", "lm_name": None, "k": 3,
               "submodule_name": f"resid_post_layer_{layer}"}  # fmt: skip
    (folder / "config.json").write_text(json.dumps({"trainer": trainer, "buffer": {"io": "out"}}))
    given = weights()
    state = {"encoder.weight": given["W_enc"].T.contiguous(), "encoder.bias": given["b_enc"],
             "b_dec": given["b_dec"], "threshold": torch.tensor(1.5)}  # fmt: skip
    torch.save(state, folder / "ae.pt")
    return folder


def tracer(folder: Path, layers: int = 2) -> Path:
    folder.mkdir(parents=True)
    config = {"model_kind": "transcoder_set", "feature_input_hook": "mlp.hook_in"}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    for layer in range(layers):
        given = weights(layer)
        state = {"W_enc": given["W_enc"].T.contiguous(), "b_enc": given["b_enc"],
                 "activation_function.threshold": given["threshold"]}  # fmt: skip
        save_file(state, folder / f"layer_{layer}.safetensors")
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> ModelSource:
    folder = tmp_path_factory.mktemp("model") / "tiny"
    return resolve(str(make_gpt2(folder, 0, width=C, vocabulary=60, context=16)))


def largest(pre_TD: np.ndarray, k: int) -> np.ndarray:
    kept_TD = np.maximum(pre_TD, 0)
    least_T1 = np.sort(kept_TD, axis=1)[:, -k][:, None]
    return np.where(kept_TD >= least_T1, kept_TD, 0)


@pytest.mark.parametrize(
    ("written", "place", "made"),
    [
        (lens, "resid_post",
         lambda x, w: np.maximum((x - w["b_dec"]) @ w["W_enc"] + w["b_enc"], 0)),
        (sparsify, "resid_post",
         lambda x, w: largest((x - w["b_dec"]) @ w["W_enc"] + w["b_enc"], 3)),
        (learning, "resid_post",
         lambda x, w: (pre := (x - w["b_dec"]) @ w["W_enc"] + w["b_enc"]) * (pre > 1.5)),
        (tracer, "mlp_in",
         lambda x, w: (pre := x @ w["W_enc"] + w["b_enc"]) * (pre > w["threshold"])),
    ],
)  # fmt: skip
def test_each_format_is_read_as_what_it_computes(tmp_path, written, place, made):
    folder = written(tmp_path / "saes")
    first = found_in(folder)[0]
    assert (first.place, first.layer, shape_of(folder, first)) == (place, 0, (C, D))
    x_TC = torch.randn(40, C)
    found = encode(x_TC, load(folder, first, sha256_of(folder / first.weights)))
    given = {name: value.double().numpy() for name, value in weights().items()}
    expected = made(x_TC.double().numpy(), given)
    assert (expected > 0).any() and (expected == 0).any()
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)


def test_what_no_file_says_is_said_beside_it(tmp_path, model):
    seed = sparsify(tmp_path / "saes").joinpath("h.0").rename(tmp_path / "seed1")
    with pytest.raises(ModelError, match=r"reads 'seed1', which is no place .* after a colon"):
        site_of(f"sae:{seed}").find(model.name)
    (coder,) = site_of(f"sae:{seed}:h.1.mlp").find(model.name).coders.each
    assert (coder.place, coder.layer) == ("mlp_out", 1)
    with pytest.raises(ModelError, match=r"'layers' is read, which is no place that is known"):
        site_of(f"sae:{seed}:layers").find(model.name)
    within = tmp_path / "layers.0.mlp"
    within.mkdir()
    seed = seed.rename(within / "seed1")  # as sparsify saves those of several seeds
    (coder,) = found_in(seed)
    assert (coder.place, coder.layer) == ("mlp_out", 0)
    with pytest.raises(ModelError, match=r"'h.1' is read, which is not what .* 'layers.0.mlp'"):
        found_in(seed, "h.1")


def test_those_of_one_folder_are_fetched_from_the_hub_and_found_without_it(
    tmp_path, model, monkeypatch
):
    for seed in range(2):
        (sparsify(tmp_path / f"{seed}") / "h.0").rename(tmp_path / f"seed{seed}")
    repository = tmp_path / "repository"
    repository.mkdir()
    for seed in range(2):
        moved = (tmp_path / f"seed{seed}").rename(repository / f"seed{seed}")
        (moved / "optimizer.pt").write_bytes(b"a state of training")
    site = "sae:me/saes@main/seed1:h.0"
    with served({"me/saes@main": repository}) as hub:
        lead(hub.url, tmp_path / "cache", monkeypatch)
        online = site_of(site).find(model.name)
        with pytest.raises(ModelError, match=r"holds no sparse autoencoder or transcoder"):
            site_of("sae:me/saes/seed9").find(model.name)
    cached = (tmp_path / "cache").rglob("snapshots/*/*/*")
    fetched = {path.name: path.parent.name for path in cached}
    assert fetched == {"cfg.json": "seed1", "sae.safetensors": "seed1"}
    offline(monkeypatch)
    again = site_of(site).find(model.name)
    assert again == online and online.coders is not None
    assert (online.coders.location, online.coders.folder) == ("me/saes", "seed1")
    assert (online.coders.directory / "sae.safetensors").is_file()
    local = site_of(f"sae:{repository}/seed1:h.0").find(model.name)
    assert local.identity == online.identity


def test_a_file_that_changed_since_it_was_found_is_refused(tmp_path):
    folder = lens(tmp_path)
    (coder,) = found_in(folder)
    with pytest.raises(ModelError, match="was damaged, or replaced since"):
        load(folder, coder, "0" * 64)


@pytest.mark.parametrize(
    ("name", "inputs", "place"),
    [
        ("blocks.3.hook_resid_pre", False, ("resid_pre", 3)),
        ("blocks.3.attn.hook_z", False, ("attn_z", 3)),
        ("transformer.h.2", False, ("resid_post", 2)),
        ("gpt_neox.layers.11.mlp", False, ("mlp_out", 11)),
        ("layers.5.mlp", True, ("mlp_in", 5)),
        ("mlp_out_layer_4", False, ("mlp_out", 4)),
        ("attention_out_layer_4", False, ("attn_out", 4)),
        ("resid_post_layer_4", True, ("resid_pre", 4)),
        ("embed_tokens", False, None),
        ("blocks.0.ln2.hook_normalized", False, None),
    ],
)
def test_places_are_known_by_the_names_that_formats_have(name, inputs, place):
    assert place_of(name, inputs=inputs) == place


READS = {
    "hook_resid_pre": ("", "in"), "hook_resid_mid": ("ln_2", "in"), "hook_resid_post": ("", "out"),
    "mlp.hook_in": ("mlp", "in"), "hook_mlp_out": ("mlp", "out"),
    "attn.hook_z": ("attn.c_proj", "in"), "hook_attn_out": ("attn", "out"),
}  # fmt: skip


@pytest.mark.parametrize("hook", READS)
def test_latents_are_of_what_a_plain_model_has_at_that_place(tmp_path, model, hook):
    from transformers import GPT2LMHeadModel

    for layer in range(2):
        lens(tmp_path, layer, seed=layer, hook=hook)
    site = site_of(f"sae:{tmp_path}")
    source = site.find(model.name)
    shape = site.shape(source)
    assert (shape.layers, shape.width, shape.signed) == (2, D, False)
    tokens_BP = torch.arange(32).reshape(2, 16) % 60
    plain = GPT2LMHeadModel.from_pretrained(model.location).double().eval()
    read = {}
    name, side = READS[hook]
    for layer, block in enumerate(plain.transformer.h):
        module = block.get_submodule(name) if name else block

        def keep(_, given, out, layer=layer):
            x = given[0] if side == "in" else out
            read[layer] = (x[0] if isinstance(x, tuple) else x).flatten(0, -2).numpy()

        module.register_forward_hook(keep)
    with torch.inference_mode():
        plain(tokens_BP)
    shown = {}
    capture = Capture(source, dtype=torch.float64, sites=[site])
    capture.read(tokens_BP, lambda _, layer, x_TD: shown.__setitem__(layer, x_TD.clone()))
    for layer in range(2):
        given = {name: value.double().numpy() for name, value in weights(layer).items()}
        pre_TD = (read[layer] - given["b_dec"]) @ given["W_enc"] + given["b_enc"]
        np.testing.assert_allclose(shown[layer].numpy(), np.maximum(pre_TD, 0), atol=1e-9)


def test_a_model_is_another_with_other_latents_and_the_same_wherever_these_lie(tmp_path, model):
    folders = [lens(tmp_path / name, seed=seed) for name, seed in (("a", 0), ("b", 0), ("c", 1))]
    one, same, other = (site_of(f"sae:{folder}").find(model.name).identity for folder in folders)
    assert one == same != other != model.identity != one


def narrow() -> dict[str, torch.Tensor]:
    return {**weights(), "W_enc": torch.randn(C + 1, D), "b_dec": torch.randn(C + 1)}


def silent() -> dict[str, torch.Tensor]:
    return {**weights(), "W_enc": torch.zeros(C, D), "b_enc": -torch.ones(D)}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"weights": narrow()}, r"reads 9 channels where resid_post of model .*tiny' has 8"),
        ({"hook": "hook_q"}, "reads 'blocks.0.hook_q', which is no place that is known"),
        ({"model": "pythia-70m"}, r"is of model 'pythia-70m', not of .*tiny'"),
        ({"metadata": {"model_identity": "0" * 64}}, r"is of another model, not of .*tiny'"),
        ({"layer": 2}, r"reads layer 2 where .*tiny' has 2"),
        ({"weights": silent()}, "has no latent that can fire: it reads nothing"),
        ({"architecture": "temporal"}, "architecture 'temporal', which is not known"),
        ({"architecture": "jumprelu", "weights": {k: v for k, v in weights().items()
                                                  if k != "threshold"}}, "lacks threshold"),
        ({"normalize": "expected_average_only_in"}, "normalize_activations 'expected_average"),
        ({"weights": {**weights(), "b_enc": torch.randn(D - 1)}}, r"has b_enc of \[19\] beside"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_in_a_sentence(tmp_path, model, changes, sentence):
    lens(tmp_path, **changes)
    with pytest.raises(ModelError, match=sentence):
        site_of(f"sae:{tmp_path}").find(model.name)


def test_a_folder_of_unlike_ones_is_refused(tmp_path, model):
    for name, changes, sentence in (
        ("places", {"hook": "hook_mlp_out"}, "that read mlp_out and resid_post"),
        ("widths", {"weights": {**weights(), "W_enc": torch.randn(C, 5), "b_enc": torch.randn(5)}},
         "of 5 and 20 latents"),
    ):
        lens(lens(tmp_path / name), layer=1, **changes)
        with pytest.raises(ModelError, match=sentence):
            site_of(f"sae:{tmp_path / name}").find(model.name)
    lens(lens(tmp_path / "twice") / "more")
    with pytest.raises(ModelError, match="holds 2 sparse autoencoders of layer 0"):
        site_of(f"sae:{tmp_path / 'twice'}").find(model.name)
    (tmp_path / "none").mkdir()
    with pytest.raises(ModelError, match="holds no sparse autoencoder"):
        site_of(f"sae:{tmp_path / 'none'}").find(model.name)
    with pytest.raises(MissingError, match="neither a directory nor a hub id"):
        site_of("sae:no-such-folder").find(model.name)
    with pytest.raises(MissingError, match=r"--help` tells what an experiment needs first"):
        site_of("sae:./runs/no-such-folder").find(model.name)


def test_latents_that_can_never_fire_are_told_before_work(tmp_path, model, caplog):
    given = weights()
    given["W_enc"][:, :2], given["b_enc"][:2] = 0, -1
    lens(tmp_path, weights=given)
    with caplog.at_level(logging.WARNING):
        site_of(f"sae:{tmp_path}").find(model.name)
    assert "2 latents of" in caplog.text and "can never fire" in caplog.text


def test_names_of_a_model_are_those_that_transformer_lens_has_too(tmp_path, model):
    from universal_ray.models.source import names_of

    assert names_of("openai-community/gpt2") & names_of("gpt2-small")
    assert names_of("EleutherAI/pythia-70m-deduped@step1") & names_of("pythia-70m-deduped")
    assert not names_of("gpt2") & names_of("gpt2-medium")
