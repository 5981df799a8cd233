"""Files of sparse autoencoders that are damaged, are none, or lie where one does not look for them:
one sentence each, before any model runs.
"""

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_sae import C, D, learning, lens, model, sparsify, tracer, weights  # noqa: F401

from universal_ray.errors import MissingError, ModelError
from universal_ray.models.coder import load, shape_of
from universal_ray.models.latents import check_alike, with_coders
from universal_ray.models.sae import found_in
from universal_ray.models.source import ModelSource
from universal_ray.storage.hub import sha256_of

Write = Callable[..., Path]


def changed(write: Write, folder: Path, values: dict[str, Any], inside: str = "") -> Path:
    """A coder of a format, with other values in its configuration, or in an object in that."""
    write(folder)
    (path,) = [each for name in ("cfg.json", "config.json") for each in folder.rglob(name)]
    content = json.loads(path.read_text())
    (content[inside] if inside else content).update(values)
    path.write_text(json.dumps(content))
    return folder


def loaded(folder: Path) -> None:
    """As it is looked at before any model runs."""
    for coder in found_in(folder):
        shape_of(folder, coder)
        load(folder, coder, sha256_of(folder / coder.weights))


TOPK = {"architecture": "topk"}


@pytest.mark.parametrize(
    ("write", "inside", "values", "sentence"),
    [
        (lens, "", {"metadata": [1]}, "with metadata of type list, which is not known"),
        (lens, "", {"k": None, "activation_fn_kwargs": "x"}, "activation_fn_kwargs 'x'"),
        (lens, "", {"architecture": {}}, "with architecture of type dict"),
        (lens, "", {"activation_fn_str": "tanh-relu"}, "with activation_fn 'tanh-relu'"),
        (lens, "metadata", {"model_name": 5}, "with a model that is no name, 5"),
        (lens, "metadata", {"model_identity": []}, "an identity that is no name, of type list"),
        (lens, "metadata", {"hook_name": f"blocks.{'9' * 5000}.hook_z"}, r"reads 'blocks.9{60,80}"),
        (lens, "", {**TOPK, "k": True}, "with k True"),
        (lens, "", {**TOPK, "k": "3"}, "with k '3'"),
        (lens, "", {**TOPK, "k": 3.0}, "with k 3.0"),
        (lens, "", {**TOPK, "k": None}, "with k None"),
        (lens, "", {**TOPK, "k": 0}, "is told to have k=0 for 20 latents: correct it"),
        (lens, "", {**TOPK, "k": -1}, "k=-1 for 20"),
        (lens, "", {**TOPK, "k": D + 1}, "k=21 for 20"),
        (sparsify, "", {"activation": ["topk"]}, "with activation of type list"),
        (sparsify, "", {"activation": "relu"}, "with activation 'relu'"),
        (sparsify, "", {"k": True}, "with k True"),
        (sparsify, "", {"activation": "groupmax", "k": 3}, "k=3 for 20"),
        (learning, "", {"trainer": "x"}, "with trainer 'x'"),
        (learning, "", {"buffer": [1]}, "with buffer of type list"),
        (learning, "trainer", {"dict_class": []}, "with dict_class of type list"),
        (learning, "trainer", {"lm_name": 3}, "with a model that is no name, 3"),
        (learning, "trainer", {"dict_class": "AutoEncoderTopK", "k": None}, "with k None"),
    ],
)  # fmt: skip
def test_a_configuration_that_tells_no_coder_is_refused(tmp_path, write, inside, values, sentence):
    with pytest.raises(ModelError, match=sentence):
        loaded(changed(write, tmp_path / "saes", values, inside))


SET = "model_kind: transcoder_set\nfeature_input_hook: mlp.hook_in\n"


@pytest.mark.parametrize(
    ("told", "more", "sentence"),
    [
        ("a: [1\n b", {}, r"config.yaml is no YAML \(while parsing a flow sequence\): restore"),
        ("!!python/object/apply:os.system [x]", {}, "is no YAML .could not determine a constr"),
        (f"model_kind: {'9' * 5000}", {}, "is no YAML"),
        ("[1]", {}, "that is not that of a transcoder_set"),
        ("model_kind: transcoder_set", {}, "with feature_input_hook None"),
        (f"{SET}activation: gelu", {}, "with activation 'gelu'"),
        (f"{SET}activation: topk", {}, "with k None"),
        (f"{SET}activation: topk\nk: a", {}, "with k 'a'"),
        (f"{SET}activation: topk\nk: 0", {}, "k=0 for 20"),
        (f"{SET}activation: jumprelu", {}, "lacks activation_function.threshold"),
        (SET, {"k": torch.tensor(0)}, "k=0 for 20"),
        (SET, {"k": torch.tensor(99)}, "k=99 for 20"),
        (SET, {"k": torch.tensor([1, 2])}, "k=None for 20"),
        (SET, {"k": torch.tensor(2.5)}, "k=2.5 for 20"),
        (SET, {"k": torch.tensor(torch.nan)}, "k=nan for 20"),
        (SET, {"activation_function.threshold": -torch.ones(D)}, "has thresholds below zero"),
    ],
)
def test_a_set_of_transcoders_that_tells_none_is_refused(tmp_path, told, more, sentence):
    folder = tracer(tmp_path / "saes", layers=1)
    (folder / "config.yaml").write_text(told)
    given = weights()
    state = {"W_enc": given["W_enc"].T.contiguous(), "b_enc": given["b_enc"], **more}
    save_file(state, folder / "layer_0.safetensors")
    with pytest.raises(ModelError, match=sentence):
        loaded(folder)


@pytest.mark.parametrize(
    ("told", "activation", "k"),
    [("", "jump", None), ("activation: relu", "relu", None), ("activation: topk\nk: 4", "topk", 4)],
)
def test_a_set_of_transcoders_has_the_activation_that_it_names(tmp_path, told, activation, k):
    folder = tracer(tmp_path / "saes", layers=1)
    (folder / "config.yaml").write_text(SET + told)
    (coder,) = found_in(folder)
    assert (coder.activation, coder.k) == (activation, k)
    assert load(folder, coder, sha256_of(folder / coder.weights)).k == k


@pytest.mark.parametrize("wrong", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("name", ["W_enc", "b_enc", "b_dec", "threshold"])
def test_weights_that_are_not_finite_are_refused(tmp_path, name, wrong):
    given = weights()
    given[name].view(-1)[3] = wrong
    with pytest.raises(ModelError, match=f"has {name} with values that are not finite in float32"):
        loaded(lens(tmp_path, weights=given, architecture="jumprelu"))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floats_are_taken_as_what_they_are(tmp_path, dtype):
    given = {name: tensor.to(dtype) for name, tensor in weights().items()}
    folder = lens(tmp_path, weights=given)
    (coder,) = found_in(folder)
    encoder = load(folder, coder, sha256_of(folder / coder.weights))
    assert torch.equal(encoder.weight_CD, given["W_enc"].float())
    assert {encoder.bias_D.dtype, encoder.weight_CD.dtype} == {torch.float32}


def test_what_float32_has_no_room_for_is_refused(tmp_path):
    given = {name: tensor.double() * 1e300 for name, tensor in weights().items()}
    with pytest.raises(ModelError, match="not finite in float32"):
        loaded(lens(tmp_path, weights=given))


@pytest.mark.parametrize("dtype", [torch.int8, torch.int64, torch.bool, torch.complex64])
def test_weights_that_are_no_real_floats_are_refused(tmp_path, dtype):
    folder = learning(tmp_path / "saes")
    state = torch.load(folder / "ae.pt")
    torch.save({**state, "encoder.weight": state["encoder.weight"].to(dtype)}, folder / "ae.pt")
    kind = str(dtype).removeprefix("torch.")
    with pytest.raises(ModelError, match=f"has encoder.weight of {kind}, where weights are float"):
        loaded(folder)


def test_a_matrix_that_is_sparse_or_a_decoder_of_other_latents_is_refused(tmp_path):
    folder = learning(tmp_path / "sparse")
    state = torch.load(folder / "ae.pt")
    torch.save({**state, "encoder.weight": state["encoder.weight"].to_sparse()}, folder / "ae.pt")
    with pytest.raises(ModelError, match=r"has encoder\.weight as a sparse matrix"):
        loaded(folder)
    for name, shape in (("more", (D + 1, C)), ("flat", (D,)), ("turned", (C, D))):
        changed(lens, tmp_path / name, {**TOPK, "rescale_acts_by_decoder_norm": True})
        (path,) = (tmp_path / name).rglob("*.safetensors")
        save_file({**load_file(path), "W_dec": torch.randn(shape)}, path)
        with pytest.raises(ModelError, match=r"has W_dec of \[.*\] beside an encoder of 20"):
            loaded(tmp_path / name)


class Code:
    def __reduce__(self):
        return os.mkdir, ("ran",)


def test_code_in_a_file_of_weights_never_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = learning(tmp_path / "saes")
    torch.save({"encoder.weight": Code()}, folder / "ae.pt")
    with pytest.raises(ModelError, match="has weights that cannot be read"):
        loaded(folder)
    assert not (tmp_path / "ran").exists()


def test_links_are_followed_and_what_is_hidden_or_something_else_is_left(tmp_path):
    folder = lens(tmp_path / "saes")
    lens(folder / ".ipynb_checkpoints")
    for other in (".hydra", "wandb"):
        (folder / other).mkdir()
        (folder / other / "config.yaml").write_text("seed: 1\n")
    elsewhere = lens(tmp_path / "elsewhere", layer=1)
    (folder / "blocks.1").symlink_to(elsewhere / "blocks.1")
    (folder / "itself").symlink_to(folder)
    assert [coder.layer for coder in found_in(folder)] == [0, 1]
    loaded(folder)
    (folder / "latest").symlink_to(elsewhere / "blocks.1")  # one layer by two names
    assert [coder.layer for coder in found_in(folder)] == [0, 1, 1]


def test_a_folder_that_cannot_be_read_is_not_passed_over(tmp_path, monkeypatch):
    folder, scandir = lens(tmp_path / "saes"), os.scandir

    def closed(path):
        if str(path).endswith("blocks.0"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", closed)
    with pytest.raises(ModelError, match=r"blocks.0 cannot be read \(Permission denied\): let it"):
        found_in(folder)


def test_a_colon_in_a_path_is_its_own(tmp_path, model):  # noqa: F811
    folder = lens(tmp_path / "a:b")
    for where in (str(folder), f"{folder}/", f"{folder}:h.0", f"{tmp_path}/a:b/../a:b"):
        assert with_coders(where, model).coders.each[0].place == "resid_post"
    for where in (r"C:\saes\x", "C:/saes/x", ":h.0", "~no-such-user/x", "x" * 300, "a\0b"):
        with pytest.raises(MissingError, match=r"There is no folder .* of sparse autoencoders"):
            with_coders(where, model)
    with pytest.raises(MissingError, match=r"and the hub can have no model 'a--b/c' at revision"):
        with_coders("a--b/c", model)


def test_models_that_share_the_last_part_of_their_names_share_no_folder(tmp_path, model):  # noqa: F811
    where = f"{lens(tmp_path / 'saes' / 'tiny')}/../{{model}}"

    def found(name: str) -> ModelSource:
        return replace(with_coders(where, replace(model, name=name)), name=name)

    with pytest.raises(ModelError, match=r"\{model\} in .* of both 'a/tiny' and 'b/tiny', so that"):
        check_alike(f"sae:{where}", [found("a/tiny"), found("b/tiny@step1")])
    check_alike(f"sae:{where}", [found("a/tiny@step0"), found("a/tiny@step1")])
    check_alike(f"sae:{tmp_path}/saes/tiny", [found("a/tiny"), found("b/tiny")])


def test_a_coder_of_other_weights_is_told_from_one_of_another_name(tmp_path, model):  # noqa: F811
    folder = lens(tmp_path, model=model.name, metadata={"model_identity": "0" * 64})
    with pytest.raises(ModelError, match=r"of model '.*tiny' with other weights, not of '.*tiny"):
        with_coders(str(folder), model)
