"""Which model a name means: its files, its identity and its shapes."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from universal_ray.errors import MissingError, ModelError, words
from universal_ray.models.checkpoint import (
    INDEXES,
    State,
    build,
    changed,
    choose,
    identity_of,
    read_shapes,
    read_weights,
)
from universal_ray.models.coder import Coders
from universal_ray.models.configuration import CONFIGURATION, check_regular, configure, read_json
from universal_ray.models.hub import directory_of, locate
from universal_ray.storage import hub
from universal_ray.storage.hub import sha256_of
from universal_ray.storage.hub_answers import offline

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel


@dataclass(frozen=True, kw_only=True)
class ModelSource:
    """One model as the study names it, resolved to content and shapes; holds no weights."""

    name: str  # as given: a directory, or "owner/name[@revision]"
    location: str  # absolute directory, or "owner/name"
    commit: str | None  # of a hub model; None for a directory
    identity: str  # 64 hex digits: the same content has the same identity wherever it lies
    kind: str  # what its configuration calls its type: "gpt2"
    architecture: str  # the class of transformers: "GPT2LMHeadModel"
    layers: int  # L, blocks
    d_model: int  # channels of the residual stream
    d_mlp: int  # neurons of the MLP of a block
    heads: int  # of the attention of a block, by their queries
    head_width: int | None  # K, what a head hands to W_O; None without such attention
    vocabulary: int  # V, rows of the embedding; a padded vocabulary exceeds the tokenizer's
    context: int  # positions of the longest row
    gated: bool  # whether a neuron's activation is act(gate) * up, of either sign, and not act(pre)
    files: tuple[tuple[str, str], ...]  # what is loaded, config.json first, with its sha256
    size: int  # bytes of these
    coders: Coders | None = None  # sparse autoencoders of it, where their latents are the units


def resolve(name: str) -> ModelSource:
    """Find a model, its shapes and the hashes of its files, and check that these make a model of
    its configuration; no weights are held in memory, nor downloaded from the hub where it tells
    their hashes.

    Raises MissingError where there is no such directory or hub model, ModelError where it has no
    configuration, no weights that fit it, or an architecture that is not supported; and what
    `storage.hub_answers.ask` does.
    """
    location, revision = locate(name, "model")
    directory = directory_of(name, location, revision, [CONFIGURATION, *INDEXES])
    if not (directory / CONFIGURATION).exists():
        raise ModelError(
            f"Model {name!r} holds no config.json in {directory}: give a model that "
            "save_pretrained wrote, with configuration, weights and tokenizer."
        )
    raw, configuration = read_json(name, directory / CONFIGURATION)
    config = configure(name, raw)
    architecture = _supported(name, config)
    shapes = _shapes(name, directory, config, architecture)
    commit = None if revision is None else directory.name  # the hub's cache names it so
    files = _files(name, location, commit, directory)
    loaded = _chosen(name, commit, directory, files)
    hashes = {each: file.sha256 if file else None for each, file in files.items()}
    parts = [
        (directory / each, _tensors(name, location, commit, directory / each, hashes[each]))
        for each in loaded
    ]
    read = [(path, state) for path, state in parts if state is not None]
    if len(read) == len(parts):
        _check_parts(name, config, architecture, read)
    digests = {each: hashes[each] or sha256_of(directory / each) for each in loaded}
    identity, kind = identity_of(configuration, digests), str(raw["model_type"])
    files_of = ((CONFIGURATION, configuration), *digests.items())
    size = (directory / CONFIGURATION).stat().st_size
    for each in loaded:
        file = files[each]
        size += file.size if file else (directory / each).stat().st_size
    return ModelSource(
        name=name, location=location, commit=commit, identity=identity, kind=kind,
        architecture=architecture, **shapes, files=files_of, size=size,
    )  # fmt: skip


def _files(
    name: str, location: str, commit: str | None, directory: Path
) -> dict[str, hub.File | None]:
    """Files of a model by name, as the hub tells them; nothing is told of those of a directory."""
    if commit is None:
        return {each.name: None for each in directory.iterdir()}
    return {**hub.told(hub.Repository(hub.MODEL, location), commit)}


def _chosen(
    name: str, commit: str | None, directory: Path, files: Collection[str]
) -> tuple[str, ...]:
    """As `choose`. Raises MissingError where it may be the cache of the hub alone that lacks them.
    """
    try:
        return choose(name, directory, files)
    except ModelError as error:
        if commit is None or not offline():
            raise
        raise MissingError(
            f"Model {name!r} has no weights in the hub's cache ({words(error)}), and the hub is "
            "not asked because HF_HUB_OFFLINE is set: download it (deploy/prefetch.py) while the "
            "network is there."
        ) from error


def _tensors(
    name: str, location: str, commit: str | None, path: Path, sha256: str | None
) -> State | None:
    """Names, shapes and dtypes of a file of weights, which stays on the hub where that tells what
    it holds; None where only a download would tell.
    """
    if commit is not None and not path.exists():
        place = hub.Repository(hub.MODEL, location), commit
        if sha256 is not None:
            with suppress(hub.PartsError), hub.opened(*place, path.name) as file:
                return read_shapes(name, file, path.name)
        hub.fetch(*place, [path.name])
    return read_weights(name, path)


def _check_parts(
    name: str, config: PreTrainedConfig, architecture: str, parts: Sequence[tuple[Path, State]]
) -> None:
    """Raises ModelError where weights of these names and shapes do not make the model."""
    tensors = sum(len(state) for _, state in parts)
    layers = getattr(config, "num_hidden_layers", 0)
    if layers > tensors:  # a model of so many would take minutes to make even without weights
        raise ModelError(
            f"Model {name!r} has {layers} layers by its config.json, and weights of only "
            f"{tensors} names: choose weights and configuration of one model."
        )
    build(
        name, config, architecture, parts, dtype=torch.float32, attn_implementation="eager",
        device_map={"": "meta"},
    )  # fmt: skip


def prefetch(source: ModelSource) -> str:
    """Local directory of the model on this machine, downloaded where it is a hub model.

    Raises as `storage.hub_answers.ask`.
    """
    if source.commit is None:
        return source.location
    repository = hub.Repository(hub.MODEL, source.location)
    return str(hub.fetch(repository, source.commit, [name for name, _ in source.files]))


def is_here(source: ModelSource) -> bool:
    """Whether nothing of the model is to be downloaded to this machine."""
    if source.commit is None:
        return True
    folder = hub.Repository(hub.MODEL, source.location).snapshots / source.commit
    return all((folder / name).is_file() for name, _ in source.files)


def check_files(source: ModelSource) -> str:
    """The directory of `prefetch`, every file of it compared with its hash.

    Raises ModelError for one that is another.
    """
    directory = prefetch(source)
    for name, expected in source.files:
        path = Path(directory) / name
        check_regular(source.name, path)
        found = sha256_of(path)
        if found != expected:
            raise ModelError(changed(source.name, path, found, expected))
    return directory


def load_model(
    source: ModelSource,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    *,
    attention: str = "eager",
) -> PreTrainedModel:
    """The model of transformers, of the very files that the source was resolved to.

    The only place where weights are loaded. Raises ModelError for a file that is another one by
    its hash, and for weights that are not the whole model.
    """
    directory = Path(prefetch(source))
    (configuration, expected), *weights = source.files
    raw, found = read_json(source.name, directory / configuration)
    if found != expected:
        raise ModelError(changed(source.name, directory / configuration, found, expected))
    read = [
        (directory / name, read_weights(source.name, directory / name, digest))
        for name, digest in weights
    ]
    model = build(
        source.name, configure(source.name, raw), source.architecture, read, dtype=dtype,
        attn_implementation=attention,
    )  # fmt: skip
    del read
    for parameter in model.parameters():  # some architectures keep a few in float32
        if parameter.is_floating_point():
            parameter.data = parameter.data.to(dtype)
    return model.to(torch.device(device))  # type: ignore[arg-type]


def names_of(name: str) -> frozenset[str]:
    """The last part of a model's name, and what else transformer_lens calls it by, in small
    letters.
    """
    from transformer_lens.supported_models import MODEL_ALIASES

    plain = name.split("@")[0].rstrip("/").casefold()
    found = {plain.split("/")[-1]}
    for official, others in MODEL_ALIASES.items():
        known = {official.casefold(), *(each.casefold() for each in others)}
        if plain in known or found & known:
            found |= {each.split("/")[-1] for each in known}
    return frozenset(found)


def _supported(name: str, config: PreTrainedConfig) -> str:
    """The architecture of a configuration, which is from now on its only one."""
    from transformer_lens.factories.architecture_adapter_factory import SUPPORTED_ARCHITECTURES

    architecture = next(filter(SUPPORTED_ARCHITECTURES.__contains__, _architectures(config)), None)
    if architecture is None:
        raise ModelError(
            f"Model {name!r} has architectures {config.architectures} in its config.json, none of "
            "which transformer_lens supports: choose a decoder that its bridge loads."
        )
    config.architectures = [architecture]
    return architecture


def _shapes(
    name: str, directory: Path, config: PreTrainedConfig, architecture: str
) -> dict[str, Any]:
    """Sizes of a ModelSource by name, as transformer_lens reads the configuration."""
    from transformer_lens.factories.architecture_adapter_factory import ArchitectureAdapterFactory
    from transformer_lens.model_bridge.sources import build_bridge_config_from_hf

    try:
        adapter = ArchitectureAdapterFactory.select_architecture_adapter(
            build_bridge_config_from_hf(config, architecture, str(directory), torch.float32)
        )
    except Exception as error:  # each adapter reads what it needs in its own way
        raise ModelError(
            f"Model {name!r} has a config.json that transformer_lens cannot read as that of a "
            f"{architecture}: check that it is whole."
        ) from error
    shapes = adapter.cfg
    # OPT and Falcon name it in their own way, where transformer_lens assumes four times d_model.
    named = [getattr(config, key, None) for key in ("ffn_dim", "ffn_hidden_size")]
    d_mlp = next(filter(None, [*named, shapes.d_mlp]), None)
    if d_mlp is None:
        raise ModelError(
            f"Model {name!r} has no MLP layers in its config.json: choose a decoder whose every "
            "layer has a plain or gated MLP."
        )
    return {
        "layers": shapes.n_layers, "d_model": shapes.d_model, "d_mlp": d_mlp,
        "heads": shapes.n_heads, "head_width": _head_width(config, adapter),
        "vocabulary": shapes.d_vocab, "context": shapes.n_ctx, "gated": bool(shapes.gated_mlp),
    }  # fmt: skip


def _head_width(config: PreTrainedConfig, adapter: Any) -> int | None:
    """How many values a head hands to W_O; None where not every block has such an attention."""
    blocks = (adapter.component_mapping or {}).get("blocks")
    attention = None if blocks is None else blocks.submodules.get("attn")
    if attention is None or attention.optional or "o" not in attention.submodules:
        return None
    # Latent attention has values of another width than its queries and keys.
    return getattr(config, "v_head_dim", None) or int(adapter.cfg.d_head)


def _architectures(config: PreTrainedConfig) -> list[str]:
    """Those that a configuration names; for a model saved without its head, the one with it."""
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_MAPPING_NAMES,
    )

    named = list(config.architectures or [])
    if MODEL_MAPPING_NAMES.get(config.model_type) in named:
        named.append(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(config.model_type, ""))
    return named
