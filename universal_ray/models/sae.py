"""Sparse autoencoders and transcoders as others save them: what each reads, how it encodes.

Read by ourselves, from files of these layouts (`FORMATS`):

- SAELens: `cfg.json` and `sae_weights.safetensors`;
- sparsify: `<hookpoint>/cfg.json` and `sae.safetensors`;
- dictionary_learning: `config.json` and `ae.pt`, which is read as weights alone;
- circuit-tracer: `config.yaml` and `layer_<i>.safetensors` of every layer.

Shapes: C channels that are read, D latents.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from universal_ray.errors import ModelError, words
from universal_ray.maths.latents import (
    AS_IT_IS,
    GATED,
    GROUPS,
    JUMP,
    LENGTH,
    RELU,
    STANDARD,
    TOPK,
)
from universal_ray.models.checkpoint import read_weights
from universal_ray.models.coder import Coder
from universal_ray.models.configuration import check_regular, read_json

LENS, SPARSIFY, LEARNING, TRACER = (
    "sae_weights.safetensors", "sae.safetensors", "ae.pt", "config.yaml",
)  # fmt: skip
CONFIGURATIONS = "cfg.json", "config.json", "config.yaml"
PLACES = {
    "hook_resid_pre": "resid_pre", "hook_resid_mid": "resid_mid", "hook_mlp_in": "resid_mid",
    "hook_resid_post": "resid_post", "mlp.hook_in": "mlp_in", "hook_mlp_out": "mlp_out",
    "mlp.hook_out": "mlp_out", "mlp.hook_post": "mlp_post", "hook_attn_out": "attn_out",
    "attn.hook_out": "attn_out", "attn.hook_z": "attn_z",
}  # fmt: skip
"""Where an encoder reads, by the hooks of transformer_lens in a block."""
MODULES = {"": "resid_post", "mlp": "mlp_out", "attn": "attn_out", "self_attn": "attn_out",
           "attention": "attn_out"}  # fmt: skip
"""The same by modules of transformers in a block, of which the output is read."""
INPUTS = {"resid_post": "resid_pre", "mlp_out": "mlp_in"}
"""What such a module reads."""
HOOK = re.compile(r"blocks\.(?P<layer>[0-9]{1,6})\.(?P<hook>[\w.]+)")
MODULE = re.compile(r"([\w.]+\.)?(layers|h|blocks)\.(?P<layer>[0-9]{1,6})(\.(?P<module>\w+))?")
SUBMODULE = re.compile(r"(?P<what>[a-z]+)_(?P<end>pre|post|in|out)_layer_(?P<layer>[0-9]{1,6})")


def found_in(folder: Path, hook: str = "") -> list[Coder]:
    """Every coder in a folder and the folders in it, links followed and hidden ones left out, by
    the layers that they read: `hook`, where their files do not say.

    Raises ModelError where there is none, one is of a kind that is not known, or says that it reads
    something else.
    """
    coders: list[Coder] = []
    for path in _within(folder):
        if path.name in FORMATS:
            coders += FORMATS[path.name](folder, path, hook)
    if not coders:
        raise ModelError(
            f"{folder} holds no sparse autoencoder or transcoder: give a folder with "
            f"{', '.join(FORMATS)} in it."
        )
    return sorted(coders, key=lambda coder: coder.layer)


def _within(folder: Path) -> list[Path]:
    """All but folders, sorted. Raises ModelError for a folder that cannot be read."""

    def refuse(error: OSError) -> None:
        if isinstance(error, FileNotFoundError):  # of the hub, which has none
            return
        raise ModelError(
            f"{error.filename} cannot be read ({error.strerror}): let it be, as sparse "
            "autoencoders may be in it."
        ) from error

    found = []
    for at, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        here = Path(at).resolve()
        folders[:] = [
            name for name in folders
            if not name.startswith(".") and not here.is_relative_to((here / name).resolve())
        ]  # fmt: skip
        found += [Path(at, name) for name in names]
    return sorted(found)


def place_of(name: str, *, inputs: bool = False) -> tuple[str, int] | None:
    """Where something reads, and in which layer, by the name of a hook or a module, whose output
    is meant, or its `inputs`; None where it is none that is known.
    """
    if match := HOOK.fullmatch(name):
        place = PLACES.get(match["hook"])
    elif match := MODULE.fullmatch(name):
        place = MODULES.get(match["module"] or "")
    elif match := SUBMODULE.fullmatch(name):
        place = f"{match['what'].replace('attention', 'attn')}_{match['end']}"
        place = place if place in PLACES.values() else None
    if match is None or place is None:
        return None
    return (INPUTS.get(place, place) if inputs else place), int(match["layer"])


def _placed(path: Path, name: Any, hook: str, *, inputs: bool = False) -> tuple[str, int]:
    told = place_of(name, inputs=inputs) if isinstance(name, str) else None
    said = place_of(hook, inputs=inputs)
    if hook and (said is None or told not in (None, said)):
        other = f"is not what {path} says, {_shown(name)}"
        why = "is no place that is known" if said is None else other
        raise ModelError(
            f"models.site says that {hook!r} is read, which {why}: correct it, or leave it out."
        )
    found = told or said
    if found is None:
        raise ModelError(
            f"{path} says that it reads {_shown(name)}, which is no place that is known: give one "
            f"that reads one of {', '.join(dict.fromkeys(PLACES.values()))}, or say it after a "
            "colon at the end of models.site, as in sae:folder:layers.5.mlp."
        )
    return found


def _unknown(path: Path, what: str, *given: Any) -> ModelError:
    what = " ".join([what, *map(_shown, given)])
    return ModelError(f"{path} is of a sparse autoencoder with {what}, which is not known: choose "
                      "another.")  # fmt: skip


def _shown(given: Any) -> str:
    """What a configuration tells, which may be a structure of any size."""
    plain = given is None or isinstance(given, str | int | float)
    return f"{given!r:.80}" if plain else f"of type {type(given).__name__}"


def _section(path: Path, content: Mapping[str, Any], name: str) -> dict[str, Any]:
    """An object in a configuration, empty where it has none. Raises ModelError for another kind."""
    found = {} if content.get(name) is None else content[name]
    if not isinstance(found, dict):
        raise _unknown(path, name, found)
    return found


def _lens(folder: Path, weights: Path, hook: str) -> Iterator[Coder]:
    path = weights.with_name("cfg.json")
    cfg, _ = read_json(str(folder), path)
    told = {**cfg, **_section(path, cfg, "metadata")}
    kind = cfg.get("architecture", "standard")
    transcoder = isinstance(kind, str) and kind.endswith("transcoder")
    k = cfg.get("k")
    if k is None:
        k = _section(path, cfg, "activation_fn_kwargs").get("k")
    for function in (cfg.get("activation_fn"), cfg.get("activation_fn_str")):
        if function not in (None, "relu", "topk"):
            raise _unknown(path, "activation_fn", function)
        kind = "topk" if function == "topk" else kind
    tensors = {"weight_CD": "W_enc", "bias_D": "b_enc"}
    if kind in ("standard", "transcoder", "skip_transcoder"):
        activation = RELU
    elif kind in ("jumprelu", "jumprelu_transcoder", "jumprelu_skip_transcoder"):
        activation, tensors["threshold_D"] = JUMP, "threshold"
    elif kind == "topk":
        activation = TOPK
    elif kind == "gated":
        activation = GATED
        tensors |= {"bias_D": "b_mag", "gate_D": "b_gate", "gain_D": "r_mag"}
    else:
        raise _unknown(path, "architecture", kind)
    before = cfg.get("normalize_activations") or AS_IT_IS
    if before not in (AS_IT_IS, STANDARD, LENGTH):
        raise _unknown(path, "normalize_activations", before)
    if told.get("hook_head_index", told.get("hook_point_head_index")) is not None:
        raise _unknown(path, "a head of its own")
    if cfg.get("apply_b_dec_to_input", not transcoder):
        tensors["centre_C"] = "b_dec"
    place, layer = _placed(path, told.get("hook_name", told.get("hook_point")), hook)
    yield _coder(
        folder, path, weights, place=place, layer=layer, model=told.get("model_name"),
        identity=told.get("model_identity"), activation=activation, before=before, tensors=tensors,
        k=k,
        decoder="W_dec" if cfg.get("rescale_acts_by_decoder_norm") else None,
    )  # fmt: skip


def _sparsify(folder: Path, weights: Path, hook: str) -> Iterator[Coder]:
    path = weights.with_name("cfg.json")
    cfg, _ = read_json(str(folder), path)
    named = cfg.get("activation", "topk")
    if named not in ("topk", "groupmax"):
        raise _unknown(path, "activation", named)
    for name in ("signed", "gram_lookup"):
        if cfg.get(name):
            raise _unknown(path, name)
    reads_input = bool(cfg.get("transcode"))
    tensors = {"weight_CD": "encoder.weight", "bias_D": "encoder.bias"}
    if not reads_input:
        tensors["centre_C"] = "b_dec"
    # With several seeds each has a folder in that of the module.
    folders = [each.name for each in weights.parents[:2]]
    name = next((each for each in folders if place_of(each)), folders[0])
    place, layer = _placed(path, name, hook, inputs=reads_input)
    yield _coder(
        folder, path, weights, place=place, layer=layer, k=cfg.get("k"), tensors=tensors,
        activation=TOPK if named == "topk" else GROUPS, latents_first=True,
    )  # fmt: skip


LEARNED: Mapping[str, dict[str, Any]] = {
    "AutoEncoder": {"activation": RELU, "tensors": {"centre_C": "bias"}},
    "AutoEncoderNew": {"activation": RELU, "tensors": {}},
    "AutoEncoderTopK": {"activation": TOPK, "tensors": {"centre_C": "b_dec"}},
    "BatchTopKSAE": {
        "activation": JUMP, "tensors": {"centre_C": "b_dec", "threshold_D": "threshold"},
    },
    "MatryoshkaBatchTopKSAE": {
        "activation": JUMP, "latents_first": False,
        "tensors": {"weight_CD": "W_enc", "bias_D": "b_enc", "centre_C": "b_dec",
                    "threshold_D": "threshold"},
    },
    "JumpReluAutoEncoder": {
        "activation": JUMP, "latents_first": False,
        "tensors": {"weight_CD": "W_enc", "bias_D": "b_enc", "threshold_D": "threshold"},
    },
    "GatedAutoEncoder": {
        "activation": GATED,
        "tensors": {"centre_C": "decoder_bias", "bias_D": "mag_bias", "gate_D": "gate_bias",
                    "gain_D": "r_mag"},
    },
}  # fmt: skip
"""Classes of dictionary_learning, in what they differ from a linear encoder with a bias."""


def _learning(folder: Path, weights: Path, hook: str) -> Iterator[Coder]:
    path = weights.with_name("config.json")
    config, _ = read_json(str(folder), path)
    trainer, buffer = (_section(path, config, name) for name in ("trainer", "buffer"))
    named = trainer.get("dict_class")
    if not isinstance(named, str) or named not in LEARNED:
        raise _unknown(path, "dict_class", named)
    kind = LEARNED[named]
    usual = {"weight_CD": "encoder.weight", "bias_D": "encoder.bias"}
    tensors = {**usual, **kind["tensors"]}
    reads_input = buffer.get("io") == "in"
    place, layer = _placed(path, trainer.get("submodule_name"), hook, inputs=reads_input)
    more = {"latents_first": True, **kind, "tensors": tensors}
    yield _coder(folder, path, weights, place=place, layer=layer, model=trainer.get("lm_name"),
                 identity=trainer.get("model_identity"), k=trainer.get("k"), **more)  # fmt: skip


def _tracer(folder: Path, path: Path, hook: str) -> Iterator[Coder]:
    import yaml

    files = sorted(path.parent.glob("layer_*.safetensors"))
    check_regular(str(folder), path, 2**20)
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise ModelError(f"{path} is no YAML ({words(error)}): restore it.") from error
    of_a_set = isinstance(config, dict) and config.get("model_kind") == "transcoder_set"
    if not of_a_set and not files:
        return  # of something else that lies beside coders
    if not of_a_set:
        raise _unknown(path, "a config.yaml that is not that of a transcoder_set")
    if "transcoders" in config or not files:
        raise _unknown(path, "weights that are not layer_<i>.safetensors beside it")
    read, named = config.get("feature_input_hook"), config.get("activation")
    if not isinstance(read, str):
        raise _unknown(path, "feature_input_hook", read)
    if named not in (None, "relu", "topk", "jumprelu"):
        raise _unknown(path, "activation", named)
    for weights in files:
        layer = weights.stem.removeprefix("layer_")
        hook_name = f"blocks.{layer}.{read.removeprefix('blocks.{layer}.')}"
        place, number = _placed(path, hook_name, hook)
        state = read_weights(str(folder), weights)
        tensors = {"weight_CD": "W_enc", "bias_D": "b_enc"}
        activation, k = RELU, config.get("k")
        if named == "topk" or (named is None and "k" in state):
            activation = TOPK
            if "k" in state and k is None:
                tensors["k"] = "k"
        elif named != "relu" and ("activation_function.threshold" in state or named == "jumprelu"):
            activation, tensors["threshold_D"] = JUMP, "activation_function.threshold"
        yield _coder(folder, path, weights, place=place, layer=number, activation=activation, k=k,
                     model=config.get("model_name"), tensors=tensors, rectified=False,
                     latents_first=True)  # fmt: skip


def _coder(
    folder: Path, configuration: Path, weights: Path, *, tensors: Mapping[str, str], **more: Any
) -> Coder:
    usual: dict[str, Any] = {
        "model": None, "identity": None, "before": AS_IT_IS, "k": None, "latents_first": False,
        "decoder": None, "rectified": True,
    }  # fmt: skip
    for article, name in (("a", "model"), ("an", "identity")):
        if not isinstance(more.get(name), str | None):
            raise _unknown(configuration, f"{article} {name} that is no name,", more[name])
    if more["activation"] in (TOPK, GROUPS):
        if type(more["k"]) is not int and "k" not in tensors:
            raise _unknown(configuration, "k", more["k"])
    else:
        more["k"] = None
    return Coder(
        configuration=configuration.relative_to(folder).as_posix(),
        weights=weights.relative_to(folder).as_posix(),
        tensors=tuple(sorted(tensors.items())),
        **{**usual, **more},
    )


FORMATS = {LENS: _lens, SPARSIFY: _sparsify, LEARNING: _learning, TRACER: _tracer}
"""By the file that tells a coder of each: a function of its folder and this file."""
