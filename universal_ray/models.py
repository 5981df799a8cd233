"""Models: which one a name means, its weights, and the values of its MLP neurons.

The only module that imports transformer_lens. A model is a directory in the Hugging Face layout
or a hub id with an optional revision, `owner/name[@revision]`.

Shapes: B rows, P positions, T = B * P tokens, L layers, D neurons per layer, N = L * D neurons,
V vocabulary.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from universal_ray.checkpoint import (
    INDEXES,
    State,
    build,
    changed,
    choose,
    digest_of,
    identity_of,
    on_meta,
    read_weights,
)
from universal_ray.configuration import CONFIGURATION, check_regular, configure, read_json
from universal_ray.errors import MissingError, ModelError
from universal_ray.gelu import Gelu
from universal_ray.hub import TOKENIZER, digests, directory_of, header, locate

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge
    from transformers import PreTrainedConfig, PreTrainedModel

ACTIVATIONS = ("post", "pre")


@dataclass(frozen=True)
class ModelSource:
    """One model as the study names it, resolved to content and shapes; holds no weights."""

    name: str  # as given: a directory, or "owner/name[@revision]"
    location: str  # absolute directory, or "owner/name"
    commit: str | None  # of a hub model; None for a directory
    identity: str  # 64 hex digits: the same content has the same identity wherever it lies
    kind: str  # what its configuration calls its type: "gpt2"
    architecture: str  # the class of transformers: "GPT2LMHeadModel"
    layers: int  # L, MLP layers
    width: int  # D, neurons per layer
    vocabulary: int  # V, rows of the embedding; a padded vocabulary exceeds the tokenizer's
    context: int  # positions of the longest row
    gated: bool  # whether a neuron's activation is act(gate) * up, of either sign, and not act(pre)
    files: tuple[tuple[str, str], ...]  # what is loaded, config.json first, with its sha256

    @property
    def neurons(self) -> int:
        """N = L * D."""
        return self.layers * self.width


def resolve(name: str) -> ModelSource:
    """Find a model, its shapes and the hashes of its files, and check that these make a model of
    its configuration; no weights are held in memory, nor downloaded from the hub where it tells
    their hashes.

    Raises MissingError where there is no such directory or hub model, ModelError where it has no
    configuration, no weights that fit it, or an architecture that is not supported.
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
    architecture, layers, width, vocabulary, context, gated = _shapes(name, directory, config)
    commit: str | None = None
    if revision is None:
        known: dict[str, str | None] = {path.name: None for path in directory.iterdir()}
        loaded, hashed = choose(name, directory, known)
    else:
        commit = directory.name  # the hub's cache names a snapshot by its commit
        known = digests(location, commit, directory)
        loaded, _ = choose(name, directory, known)
        hashed = loaded
        unknown = [each for each in hashed if known[each] is None]
        if unknown:  # small ones, which the hub keeps by another hash
            directory_of(name, location, commit, unknown)
    parts = _headers(name, location, commit, [directory / each for each in loaded])
    if parts:
        _check_parts(name, config, architecture, parts)
    for each in hashed:
        if known[each] is None:
            check_regular(name, directory / each)
            known[each] = digest_of(directory / each)
    found = {each: str(known[each]) for each in hashed}
    files = ((CONFIGURATION, configuration), *((each, found[each]) for each in loaded))
    identity, kind = identity_of(configuration, found), str(raw["model_type"])
    return ModelSource(
        name, location, commit, identity, kind, architecture, layers, width, vocabulary, context,
        gated, files,
    )  # fmt: skip


def _headers(
    name: str, location: str, commit: str | None, paths: Sequence[Path]
) -> list[tuple[Path, State]]:
    """Names, shapes and dtypes of the weights, as the files tell them or else the hub; none where
    only a download would tell.
    """
    read = []
    for path in paths:
        if path.exists() or commit is None:
            read.append((path, read_weights(name, path)))
            continue
        told = header(location, commit, path.name)
        if told is None:
            return []
        read.append((path, on_meta(name, path, told)))
    return read


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

    Raises MissingError where the hub or, offline, its cache does not hold the weights.
    """
    if source.commit is None:
        return source.location
    names = [name for name, _ in source.files]
    directory = directory_of(source.name, source.location, source.commit, TOKENIZER + names)
    if not all((directory / name).is_file() for name in names):
        raise MissingError(
            f"Model {source.name!r} has no weights in {directory}: download it while the network "
            "is there, or choose a revision that holds safetensors or pytorch_model.bin."
        )
    return str(directory)


def check_files(source: ModelSource) -> str:
    """The directory of `prefetch`, every file of it compared with its hash.

    Raises ModelError for one that is another.
    """
    directory = prefetch(source)
    for name, expected in source.files:
        path = Path(directory) / name
        check_regular(source.name, path)
        found = digest_of(path)
        if found != expected:
            raise ModelError(changed(source.name, path, found, expected))
    return directory


def load_model(
    source: ModelSource,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
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


Take = Callable[[str, int, torch.Tensor], None]
"""Receives the values [T, D] of an activation in a layer: its name, the layer, the values."""


class _Enough(Exception):
    """Every activation is there: what the model would compute from them is not needed."""


class Capture:
    """One loaded model that maps tokens to the values of its MLP neurons, and computes no logits.

    Activation `post`: what enters W_out, for a gated MLP the product act(gate) * up.
    Activation `pre`: what enters the activation function, for a gated MLP the gate's.
    Raises ModelError where the weights loaded do not have the shapes of `source`.
    """

    def __init__(
        self,
        source: ModelSource,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
        activations: Sequence[str] = ("post",),
    ) -> None:
        for activation in activations:
            if activation not in ACTIVATIONS:
                raise ModelError(
                    f"Activation {activation!r} is unknown: choose of {', '.join(ACTIVATIONS)}."
                )
        self.source = source
        self.device = torch.device(device)
        self.dtype = dtype
        bridge = boot(source, device, dtype)
        widths = _widths(source.name, bridge)
        if widths != [source.width] * source.layers:
            raise ModelError(
                f"Model {source.name!r} has MLP layers of {widths} neurons where its configuration "
                f"says {source.layers} of {source.width}: choose a model whose layers are alike."
            )
        if any((getattr(b.mlp, "W_gate", None) is not None) != source.gated for b in bridge.blocks):
            raise ModelError(f"Model {source.name!r} mixes kinds of MLPs: choose one of one kind.")
        _unwrap(bridge)
        for layer, block in enumerate(bridge.blocks):
            for activation in activations:
                hook = getattr(block.mlp, f"hook_{activation}")
                hook.add_hook(partial(self._give, activation, layer))
        self._bridge = bridge.eval()
        self._base_model: Any = bridge.original_model.base_model  # all but the unembedding
        self._count = len(activations)
        self._take: Take = _drop
        self._given = 0
        # A hook that never fires shows here.
        self.read(torch.zeros(1, 2, dtype=torch.int64), _drop)

    def _give(self, activation: str, layer: int, x_BPD: torch.Tensor, hook: Any) -> None:
        self._take(activation, layer, x_BPD.reshape(-1, self.source.width))
        self._given += 1
        if self._given == self._count * self.source.layers:
            raise _Enough

    def read(self, tokens_BP: torch.Tensor, take: Take) -> None:
        """Run tokens [B, P] (int64) and give `take` every activation of every layer as the model
        makes it: values [T, D], tokens row by row, in the dtype and on the device of the model.

        They are the model's own, without a copy: to be kept or read, not to be changed.
        """
        self._take, self._given = take, 0
        try:
            with torch.inference_mode(), suppress(_Enough):
                self._base_model(tokens_BP.to(self.device), use_cache=False)
        finally:
            self._take = _drop
        if self._given != self._count * self.source.layers:
            raise ModelError(
                f"Model {self.source.name!r} showed {self._given // self._count} of its "
                f"{self.source.layers} MLP layers in one pass: its architecture is not supported "
                "for this activation."
            )


def _drop(activation: str, layer: int, x_TD: torch.Tensor) -> None:
    """Take nothing."""


def _shapes(
    name: str, directory: Path, config: PreTrainedConfig
) -> tuple[str, int, int, int, int, bool]:
    """(architecture, L, D, V, context, gated) as transformer_lens reads the configuration."""
    from transformer_lens.factories.architecture_adapter_factory import (
        SUPPORTED_ARCHITECTURES,
        ArchitectureAdapterFactory,
    )
    from transformer_lens.model_bridge.sources import build_bridge_config_from_hf

    architecture = next(filter(SUPPORTED_ARCHITECTURES.__contains__, _architectures(config)), None)
    if architecture is None:
        raise ModelError(
            f"Model {name!r} has architectures {config.architectures} in its config.json, none of "
            "which transformer_lens supports: choose a decoder that its bridge loads."
        )
    config.architectures = [architecture]
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
    # OPT and Falcon name D in their own way, where transformer_lens assumes four times d_model.
    named = [getattr(config, key, None) for key in ("ffn_dim", "ffn_hidden_size")]
    width = next(filter(None, [*named, shapes.d_mlp]), None)
    if width is None:
        raise ModelError(
            f"Model {name!r} has no MLP layers in its config.json: choose a decoder whose every "
            "layer has a plain or gated MLP."
        )
    sizes = shapes.n_layers, width, shapes.d_vocab, shapes.n_ctx
    return architecture, *sizes, bool(shapes.gated_mlp)


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


def _widths(name: str, bridge: TransformerBridge) -> list[int]:
    """D of each layer, read off W_out [D, d_model]."""
    try:
        return [block.mlp.W_out.shape[0] for block in bridge.blocks]
    except AttributeError as error:
        raise ModelError(
            f"Model {name!r} has layers without a plain or gated MLP: choose a decoder whose every "
            "layer has one."
        ) from error


def boot(source: ModelSource, device: str, dtype: torch.dtype) -> TransformerBridge:
    """A bridge to the loaded model, which needs no tokenizer here."""
    from transformer_lens.model_bridge.sources import build_bridge_from_module

    model = load_model(source, device, dtype)
    with warnings.catch_warnings():
        # Optional hooks that an architecture does not have, none of them ours.
        warnings.filterwarnings("ignore", message="Hook alias .* did not resolve")
        return build_bridge_from_module(
            model, source.architecture, hf_config=model.config, dtype=dtype, device=device,
            model_name=source.name,
        )  # fmt: skip


def _unwrap(bridge: TransformerBridge) -> None:
    """Put the model's own attention and normalization back where the bridge replaced them, and
    this project's GELU in the place of GPT-2's, which passes over memory eight times.

    The bridge computes both anew, operation by operation, so that every intermediate value can be
    hooked: a fifth to a third more time, and rounding that differs. Only its MLP hooks are used
    here, so the rest runs as transformers wrote it, with its fused attention where it has one
    (which keeps scores in float32, as `reorder_and_upcast_attn` asks).
    """
    from transformer_lens.model_bridge.generalized_components import (
        AttentionBridge,
        NormalizationBridge,
    )
    from transformer_lens.model_bridge.generalized_components.base import GeneralizedComponent
    from transformers.activations import NewGELUActivation

    model: Any = bridge.original_model
    for parent in list(model.modules()):
        if isinstance(parent, GeneralizedComponent):
            continue
        for name, child in list(parent.named_children()):
            if isinstance(child, AttentionBridge | NormalizationBridge):
                setattr(parent, name, child.original_component)
            elif isinstance(child, NewGELUActivation):
                setattr(parent, name, Gelu())
    if getattr(model, "_supports_sdpa", False):
        model.set_attn_implementation("sdpa")
