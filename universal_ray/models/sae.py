"""Sparse autoencoders and transcoders as others save them: what each reads, how it encodes.

Read by ourselves, from files of these layouts (`FORMATS`):

- SAELens: `cfg.json` and `sae_weights.safetensors`;
- sparsify: `<hookpoint>/cfg.json` and `sae.safetensors`;
- dictionary_learning: `config.json` and `ae.pt`, which is read as weights alone;
- circuit-tracer: `config.yaml` and `layer_<i>.safetensors` of every layer.

Shapes: C channels that are read, D latents.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from universal_ray.errors import ModelError
from universal_ray.maths.latents import (
    AS_IT_IS,
    GATED,
    GROUPS,
    JUMP,
    LENGTH,
    RELU,
    STANDARD,
    TOPK,
    Encoder,
)
from universal_ray.models.checkpoint import read_weights
from universal_ray.models.configuration import check_regular, read_json
from universal_ray.storage import hub

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
HOOK = re.compile(r"blocks\.(?P<layer>\d+)\.(?P<hook>[\w.]+)")
MODULE = re.compile(r"([\w.]+\.)?(layers|h|blocks)\.(?P<layer>\d+)(\.(?P<module>\w+))?")
SUBMODULE = re.compile(r"(?P<what>[a-z]+)_(?P<end>pre|post|in|out)_layer_(?P<layer>\d+)")


@dataclass(frozen=True, kw_only=True)
class Coder:
    """One sparse autoencoder or transcoder, without its weights."""

    configuration: str
    """its files, from the folder that they are in"""
    weights: str
    place: str
    layer: int
    model: str | None
    """that it was trained on, as it says itself"""
    identity: str | None
    """content of that model, where it says that"""
    activation: str
    before: str
    k: int | None
    tensors: tuple[tuple[str, str], ...]
    """names in the file, by the fields of an `Encoder`"""
    latents_first: bool
    """whether the encoder's matrix is [D, C] in the file"""
    decoder: str | None
    """the matrix of which each row's length is the scale that its latent is told in, where the
    largest k are chosen in it; else no correlation depends on it"""

    @property
    def where(self) -> str:
        return f"{self.place} of layer {self.layer}"


@dataclass(frozen=True, kw_only=True)
class Coders:
    """Those of one model, one of each of some layers; holds no weights."""

    location: str
    """absolute directory, or "owner/name" """
    commit: str | None
    """of a hub repository; None for a directory"""
    folder: str
    """in the repository that they are in"""
    files: tuple[tuple[str, str], ...]
    """from the folder, each with its sha256"""
    each: tuple[Coder, ...]
    """by layer"""
    channels: int
    """that each reads"""
    width: int
    """latents of each"""

    @property
    def directory(self) -> Path:
        """On this machine, downloaded where they are on the hub."""
        if self.commit is None:
            return Path(self.location)
        names = [f"{self.folder}/{name}".lstrip("/") for name, _ in self.files]
        repository = hub.Repository(hub.MODEL, self.location)
        return hub.fetch(repository, self.commit, names) / self.folder


def found_in(folder: Path, hook: str = "") -> list[Coder]:
    """Every coder in a folder and the folders in it, by the layers that they read: `hook`, where
    their files do not say.

    Raises ModelError where there is none, one is of a kind that is not known, or says that it reads
    something else.
    """
    coders: list[Coder] = []
    for path in sorted(folder.rglob("*")):
        if path.name in FORMATS:
            coders += FORMATS[path.name](folder, path, hook)
    if not coders:
        raise ModelError(
            f"{folder} holds no sparse autoencoder or transcoder: give a folder with "
            f"{', '.join(FORMATS)} in it."
        )
    return sorted(coders, key=lambda coder: coder.layer)


def shape_of(folder: Path, coder: Coder) -> tuple[int, int]:
    """How many channels it reads and how many latents it has, by the header of its file.

    Raises ModelError where tensors are missing, or do not fit together.
    """
    path = folder / coder.weights
    state = read_weights(str(folder), path)
    wanted = dict(coder.tensors)
    for name in (*wanted.values(), *([coder.decoder] if coder.decoder else [])):
        if name not in state:
            raise ModelError(
                f"{path} lacks {name}: save it again, or choose another sparse autoencoder."
            )
    weight = state[wanted["weight_CD"]]
    if weight.dim() != 2:
        raise ModelError(f"{path} has an encoder that is no matrix: choose another.")
    channels, latents = weight.shape[::-1] if coder.latents_first else weight.shape
    sizes = {"C": {(channels,)}, "D": {(latents,)}}
    for name, tensor in wanted.items():
        axis = name[-1]
        of_all = name == "threshold_D" and state[tensor].dim() == 0
        if name not in ("weight_CD", "k") and tuple(state[tensor].shape) not in sizes[axis]:
            if of_all:
                continue
            raise ModelError(
                f"{path} has {tensor} of {list(state[tensor].shape)} beside an encoder of "
                f"{latents} latents that read {channels} channels: save it again."
            )
    k = coder.k
    if k is not None and (
        not 0 < k <= latents or (coder.activation == GROUPS and latents % k)
    ):
        raise ModelError(
            f"{folder / coder.configuration} has k={k} for {latents} latents: correct it."
        )
    return channels, latents


def load(folder: Path, coder: Coder, sha256: str) -> Encoder:
    """The encoder in float32, of the very file that was planned with.

    Raises ModelError for another one.
    """
    state = read_weights(str(folder), folder / coder.weights, sha256)
    given: dict[str, Any] = {name: state[tensor] for name, tensor in coder.tensors}
    k = int(given.pop("k")) if "k" in given else coder.k
    given = {name: tensor.float() for name, tensor in given.items()}
    if coder.latents_first:
        given["weight_CD"] = given["weight_CD"].T.contiguous()
    latents = given["weight_CD"].shape[1]
    if "gain_D" in given:
        given["gain_D"] = given["gain_D"].exp()
    if "threshold_D" in given:
        given["threshold_D"] = given["threshold_D"].expand(latents).contiguous()
    if coder.decoder:
        given["scale_D"] = state[coder.decoder].float().norm(dim=1)
    return Encoder(activation=coder.activation, before=coder.before, k=k, **given)


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
        why = "is no place that is known" if said is None else f"is not what {path} says, {name!r}"
        raise ModelError(
            f"models.site says that {hook!r} is read, which {why}: correct it, or leave it out."
        )
    found = told or said
    if found is None:
        raise ModelError(
            f"{path} says that it reads {name!r}, which is no place that is known: give one that "
            f"reads one of {', '.join(dict.fromkeys(PLACES.values()))}, or say it after a colon at "
            "the end of models.site, as in sae:folder:layers.5.mlp."
        )
    return found


def _unknown(path: Path, what: str) -> ModelError:
    return ModelError(f"{path} is of a sparse autoencoder with {what}, which is not known: choose "
                      "another.")  # fmt: skip


def _lens(folder: Path, weights: Path, hook: str) -> Iterator[Coder]:
    path = weights.with_name("cfg.json")
    cfg, _ = read_json(str(folder), path)
    told = {**cfg, **(cfg.get("metadata") or {})}
    kind = str(cfg.get("architecture", "standard"))
    transcoder = kind.endswith("transcoder")
    k = cfg.get("k") or (cfg.get("activation_fn_kwargs") or {}).get("k")
    if "topk" in (cfg.get("activation_fn"), cfg.get("activation_fn_str")):
        kind = "topk"
    tensors = {"weight_CD": "W_enc", "bias_D": "b_enc"}
    if kind in ("standard", "transcoder", "skip_transcoder"):
        activation = RELU
    elif kind in ("jumprelu", "jumprelu_transcoder", "jumprelu_skip_transcoder"):
        activation, tensors["threshold_D"] = JUMP, "threshold"
    elif kind == "topk" and isinstance(k, int):
        activation = TOPK
    elif kind == "gated":
        activation = GATED
        tensors |= {"bias_D": "b_mag", "gate_D": "b_gate", "gain_D": "r_mag"}
    else:
        raise _unknown(path, f"architecture {kind!r}")
    before = cfg.get("normalize_activations") or AS_IT_IS
    if before not in (AS_IT_IS, STANDARD, LENGTH):
        raise _unknown(path, f"normalize_activations {before!r}")
    if told.get("hook_head_index", told.get("hook_point_head_index")) is not None:
        raise _unknown(path, "a head of its own")
    if cfg.get("apply_b_dec_to_input", not transcoder):
        tensors["centre_C"] = "b_dec"
    place, layer = _placed(path, told.get("hook_name", told.get("hook_point")), hook)
    yield _coder(
        folder, path, weights, place=place, layer=layer, model=told.get("model_name"),
        identity=told.get("model_identity"), activation=activation, before=before, tensors=tensors,
        k=k if activation == TOPK else None,
        decoder="W_dec" if cfg.get("rescale_acts_by_decoder_norm") else None,
    )  # fmt: skip


def _sparsify(folder: Path, weights: Path, hook: str) -> Iterator[Coder]:
    path = weights.with_name("cfg.json")
    cfg, _ = read_json(str(folder), path)
    activations = {"topk": TOPK, "groupmax": GROUPS}
    activation = activations.get(cfg.get("activation", "topk"))
    if activation is None or not isinstance(cfg.get("k"), int):
        raise _unknown(path, f"activation {cfg.get('activation')!r} and k {cfg.get('k')!r}")
    for name in ("signed", "gram_lookup"):
        if cfg.get(name):
            raise _unknown(path, name)
    reads_input = bool(cfg.get("transcode"))
    tensors = {"weight_CD": "encoder.weight", "bias_D": "encoder.bias"}
    if not reads_input:
        tensors["centre_C"] = "b_dec"
    # With several seeds each has a folder in that of the module.
    named = [each.name for each in weights.parents[:2]]
    name = next((each for each in named if place_of(each)), named[0])
    place, layer = _placed(path, name, hook, inputs=reads_input)
    yield _coder(
        folder, path, weights, place=place, layer=layer, activation=activation, k=cfg["k"],
        tensors=tensors, latents_first=True,
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
    trainer, buffer = (config.get(name) or {} for name in ("trainer", "buffer"))
    kind = LEARNED.get(trainer.get("dict_class", ""))
    if kind is None:
        raise _unknown(path, f"dict_class {trainer.get('dict_class')!r}")
    usual = {"weight_CD": "encoder.weight", "bias_D": "encoder.bias"}
    tensors = {**usual, **kind["tensors"]}
    reads_input = buffer.get("io") == "in"
    place, layer = _placed(path, trainer.get("submodule_name"), hook, inputs=reads_input)
    k = trainer.get("k") if kind["activation"] == TOPK else None
    if kind["activation"] == TOPK and not isinstance(k, int):
        raise _unknown(path, f"k {k!r}")
    more = {"latents_first": True, **kind, "tensors": tensors}
    yield _coder(folder, path, weights, place=place, layer=layer, model=trainer.get("lm_name"),
                 identity=trainer.get("model_identity"), k=k, **more)  # fmt: skip


def _tracer(folder: Path, path: Path, hook: str) -> Iterator[Coder]:
    import yaml

    check_regular(str(folder), path, 2**20)
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(config, dict) or config.get("model_kind", "") != "transcoder_set":
        raise _unknown(path, "a config.yaml that is not that of a transcoder_set")
    read = str(config.get("feature_input_hook")).removeprefix("blocks.{layer}.")
    files = sorted(path.parent.glob("layer_*.safetensors"))
    if "transcoders" in config or not files:
        raise _unknown(path, "weights that are not layer_<i>.safetensors beside it")
    for weights in files:
        layer = weights.stem.removeprefix("layer_")
        place, number = _placed(path, f"blocks.{layer}.{read}", hook)
        state = read_weights(str(folder), weights)
        tensors = {"weight_CD": "W_enc", "bias_D": "b_enc"}
        activation, k = RELU, None
        if "activation_function.threshold" in state:
            activation, tensors["threshold_D"] = JUMP, "activation_function.threshold"
        elif "k" in state or config.get("activation") == "topk":
            activation, k = TOPK, config.get("k")
            if "k" in state:
                tensors["k"] = "k"
        yield _coder(folder, path, weights, place=place, layer=number, activation=activation, k=k,
                     model=config.get("model_name"), tensors=tensors,
                     latents_first=True)  # fmt: skip


def _coder(
    folder: Path, configuration: Path, weights: Path, *, tensors: Mapping[str, str], **more: Any
) -> Coder:
    usual: dict[str, Any] = {
        "model": None, "identity": None, "before": AS_IT_IS, "k": None, "latents_first": False,
        "decoder": None,
    }  # fmt: skip
    return Coder(
        configuration=configuration.relative_to(folder).as_posix(),
        weights=weights.relative_to(folder).as_posix(),
        tensors=tuple(sorted(tensors.items())),
        **{**usual, **more},
    )


FORMATS = {LENS: _lens, SPARSIFY: _sparsify, LEARNING: _learning, TRACER: _tracer}
"""By the file that tells a coder of each: a function of its folder and this file."""
