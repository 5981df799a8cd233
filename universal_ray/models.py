"""Models: which one a name means, its tokenizer, and the values of its MLP neurons.

The only module that imports transformer_lens. A model is a directory in the Hugging Face layout
or a hub id with an optional revision, `owner/name[@revision]`.

Shapes: B rows, P positions, T = B * P tokens, L layers, D neurons per layer, N = L * D neurons,
V vocabulary.
"""

from __future__ import annotations

import hashlib
import json
import re
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from universal_ray.errors import MissingError, ModelError
from universal_ray.gelu import Gelu

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge
    from transformers import PreTrainedTokenizerBase

HUB_NAME = re.compile(r"(?P<id>[\w-][\w.-]*/[\w-][\w.-]*)(@(?P<revision>[^@\s]+))?")
ACTIVATIONS = ("post", "pre")
# What a forward pass and a tokenizer need: repositories also hold optimizer states of many
# gigabytes. Pickled weights are fetched only where there are no safetensors.
FILES = ["config.json", "tokenizer*", "vocab*", "merges.txt", "special_tokens_map.json", "*.model"]
WEIGHTS = [
    ["*.safetensors", "*.safetensors.index.json"],
    ["pytorch_model*.bin", "pytorch_model.bin.index.json"],
]


@dataclass(frozen=True)
class ModelSource:
    """One model as the study names it, resolved to content and shapes; holds no weights."""

    name: str  # as given: a directory, or "owner/name[@revision]"
    location: str  # absolute directory, or "owner/name"
    commit: str | None  # of a hub model; None for a directory
    identity: str  # 64 hex digits: the same content has the same identity wherever it lies
    layers: int  # L, MLP layers
    width: int  # D, neurons per layer
    vocabulary: int  # V, rows of the embedding; a padded vocabulary exceeds the tokenizer's
    context: int  # positions of the longest row
    gated: bool  # whether a neuron's activation is act(gate) * up, of either sign, and not act(pre)

    @property
    def neurons(self) -> int:
        """N = L * D."""
        return self.layers * self.width


def resolve(name: str) -> ModelSource:
    """Find a model and its shapes from files and configuration alone, no weights in memory.

    Raises MissingError where there is no such directory or hub model, ModelError where it has no
    configuration, no weights or an unknown architecture.
    """
    location, revision = _locate(name, "model")
    directory = _directory(name, location, revision, ["config.json"])
    if not (directory / "config.json").is_file():
        raise ModelError(
            f"Model {name!r} holds no config.json in {directory}: give a model that "
            "save_pretrained wrote, with configuration, weights and tokenizer."
        )
    commit: str | None = None
    if revision is None:
        identity = _content(directory)
    else:
        commit = directory.name  # the hub's cache names a snapshot by its commit
        identity = hashlib.sha256(f"{location}@{commit}".encode()).hexdigest()
    return ModelSource(name, location, commit, identity, *_shapes(name, directory))


def prefetch(source: ModelSource) -> str:
    """Local directory of the model on this machine, downloaded where it is a hub model.

    Raises MissingError where the hub or, offline, its cache does not hold the weights.
    """
    if source.commit is None:
        return source.location
    for weights in WEIGHTS:
        directory = _directory(source.name, source.location, source.commit, FILES + weights)
        if any(directory.glob(weights[0])):
            return str(directory)
    raise MissingError(
        f"Model {source.name!r} has no weights in {directory}: download it while the network is "
        "there, or choose a revision that holds safetensors or pytorch_model.bin."
    )


def tokenizer(name: str | ModelSource) -> PreTrainedTokenizerBase:
    """The tokenizer of a model, or of any directory or hub id that holds tokenizer files.

    Raises MissingError where there is no such directory or hub repository, ModelError where it
    holds no tokenizer that encodes text (transformers then makes up an empty one, silently).
    """
    if isinstance(name, ModelSource):
        shown, location, revision = name.name, name.location, name.commit
    else:
        shown, (location, revision) = name, _locate(name, "tokenizer")
    directory = _directory(shown, location, revision, FILES)
    from transformers import AutoTokenizer

    sentence = (
        f"{shown!r} has no usable tokenizer: put its tokenizer files beside the model, or name the "
        "tokenizer with models.tokenizer."
    )
    try:
        found = AutoTokenizer.from_pretrained(str(directory))
    except (OSError, ValueError, TypeError, KeyError, AttributeError, ImportError) as error:
        raise ModelError(sentence) from error
    ids = found.encode("neuron", add_special_tokens=False)
    if len(found) <= 1 or set(ids) <= {found.unk_token_id}:
        raise ModelError(sentence)
    return found


def check_tokenizers(
    sources: Sequence[ModelSource], named: str | None = None
) -> PreTrainedTokenizerBase:
    """The one tokenizer of all models: the one named, else the one they share.

    Raises ModelError where a model lacks a tokenizer and none is named, where two differ, or where
    the tokenizer has ids beyond a model's vocabulary.
    """
    shared = tokenizer(named if named is not None else sources[0])
    if named is None:
        for source in sources[1:]:
            if tokenizer_identity(tokenizer(source)) != tokenizer_identity(shared):
                raise ModelError(
                    f"Models {sources[0].name!r} and {source.name!r} have different tokenizers: "
                    "compare models that share one, or name it with models.tokenizer."
                )
    ids = max(shared.get_vocab().values()) + 1
    for source in sources:
        if ids > source.vocabulary:
            raise ModelError(
                f"The tokenizer of {named or sources[0].name!r} has ids up to {ids - 1}, but model "
                f"{source.name!r} embeds only {source.vocabulary}: name a tokenizer that fits."
            )
    return shared


def tokenizer_identity(tokenizer: PreTrainedTokenizerBase) -> str:
    """64 hex digits over the tokenizer's vocabulary: every token string with its id."""
    vocabulary = sorted(tokenizer.get_vocab().items())
    return hashlib.sha256(json.dumps(vocabulary).encode()).hexdigest()


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
        bridge = _boot(prefetch(source), device=device, dtype=dtype)
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


def _locate(name: str, what: str) -> tuple[str, str | None]:
    """A name as (absolute directory, None) or (hub id, revision)."""
    directory = Path(name).expanduser()
    if name and directory.is_dir():  # Path("") is the working directory
        return str(directory.resolve()), None
    match = HUB_NAME.fullmatch(name)
    if match is None:
        raise MissingError(
            f"There is no {what} {name!r}: it is neither a directory nor a hub id of the form "
            "owner/name[@revision]."
        )
    return match["id"], match["revision"] or "main"


def _directory(name: str, location: str, revision: str | None, patterns: list[str]) -> Path:
    """The directory itself, or the snapshot of a hub model with the files that match `patterns`."""
    if revision is None:
        return Path(location)
    from huggingface_hub import constants, errors, snapshot_download

    try:
        return Path(snapshot_download(location, revision=revision, allow_patterns=patterns))
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
        raise MissingError(
            f"The hub has no {location!r} at revision {revision!r} that can be read: check "
            "spelling and revision, and log in where it is private."
        ) from error
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as error:
        reason = (
            "the hub is not asked because HF_HUB_OFFLINE is set"
            if constants.is_offline_mode()
            else "the hub cannot be reached"
        )
        raise MissingError(
            f"{name!r} is neither a directory nor in the local hub cache, and {reason}: check the "
            "path, or download it while the network is there."
        ) from error


def _content(directory: Path) -> str:
    """Hash of the configuration and of the weight files that transformers will load."""
    for pattern in ("*.safetensors", "pytorch_model*.bin"):
        weights = sorted(directory.glob(pattern))
        if weights:
            break
    else:
        raise ModelError(
            f"Directory {directory} holds no weights: it needs model.safetensors or "
            "pytorch_model.bin beside its config.json."
        )
    total = hashlib.sha256()
    for path in (directory / "config.json", *weights):
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        total.update(f"{path.name} {digest}\n".encode())
    return total.hexdigest()


def _shapes(name: str, directory: Path) -> tuple[int, int, int, int, bool]:
    """(L, D, V, context, gated) as transformer_lens reads them off the configuration."""
    from transformer_lens.factories.architecture_adapter_factory import (
        SUPPORTED_ARCHITECTURES,
        ArchitectureAdapterFactory,
    )
    from transformer_lens.model_bridge.sources import build_bridge_config_from_hf
    from transformers import AutoConfig

    try:
        configuration = AutoConfig.from_pretrained(str(directory))
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(
            f"Model {name!r} has a config.json that transformers cannot read: check that it is "
            "whole and of an architecture that transformers knows."
        ) from error
    architectures = configuration.architectures or []
    known = [each for each in architectures if each in SUPPORTED_ARCHITECTURES]
    if not known:
        raise ModelError(
            f"Model {name!r} has architectures {architectures} in its config.json, none of which "
            "transformer_lens supports: choose a decoder that its bridge loads."
        )
    adapter = ArchitectureAdapterFactory.select_architecture_adapter(
        build_bridge_config_from_hf(configuration, known[0], str(directory), torch.float32)
    )
    shapes = adapter.cfg
    # OPT and Falcon name D in their own way, where transformer_lens assumes four times d_model.
    named = [getattr(configuration, key, None) for key in ("ffn_dim", "ffn_hidden_size")]
    width = next(filter(None, [*named, shapes.d_mlp]), None)
    if width is None:
        raise ModelError(
            f"Model {name!r} has no MLP layers in its config.json: choose a decoder whose every "
            "layer has a plain or gated MLP."
        )
    return shapes.n_layers, width, shapes.d_vocab, shapes.n_ctx, bool(shapes.gated_mlp)


def _widths(name: str, bridge: TransformerBridge) -> list[int]:
    """D of each layer, read off W_out [D, d_model]."""
    try:
        return [block.mlp.W_out.shape[0] for block in bridge.blocks]
    except AttributeError as error:
        raise ModelError(
            f"Model {name!r} has layers without a plain or gated MLP: choose a decoder whose every "
            "layer has one."
        ) from error


def _boot(directory: str, **options: Any) -> TransformerBridge:
    """Boot a bridge from a local directory, quietly and without asking for its tokenizer."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformer_lens.model_bridge import TransformerBridge
    from transformers import PreTrainedTokenizerFast
    from transformers.utils import logging as messages

    # The bridge would load the model's tokenizer, twice, or make one up; nothing here uses it.
    unused = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel({"a": 0}, "a")))
    bars = messages.is_progress_bar_enabled()
    messages.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            # Optional hooks that an architecture does not have, none of them ours.
            warnings.filterwarnings("ignore", message="Hook alias .* did not resolve")
            return TransformerBridge.boot_transformers(directory, tokenizer=unused, **options)
    finally:
        if bars:
            messages.enable_progress_bar()


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
