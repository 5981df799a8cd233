"""One sparse autoencoder or transcoder: what it reads, its weights in files, its encoder.

Shapes: C channels that are read, D latents.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from universal_ray.errors import ModelError
from universal_ray.maths.latents import GROUPS, TOPK, Encoder
from universal_ray.models.checkpoint import read_weights
from universal_ray.storage import hub


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
    rectified: bool
    """whether nothing below zero passes, whatever a threshold"""

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
    def places(self) -> tuple[str, ...]:
        """What each reads, in words."""
        return tuple(coder.where for coder in self.each)

    @property
    def directory(self) -> Path:
        """On this machine, downloaded where they are on the hub."""
        if self.commit is None:
            return Path(self.location)
        names = [f"{self.folder}/{name}".lstrip("/") for name, _ in self.files]
        repository = hub.Repository(hub.MODEL, self.location)
        return hub.fetch(repository, self.commit, names) / self.folder


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
        kind = str(state[name].dtype).removeprefix("torch.")
        if name != wanted.get("k") and not state[name].is_floating_point():
            raise ModelError(
                f"{path} has {name} of {kind}, where weights are floating-point numbers: choose "
                "another sparse autoencoder."
            )
        if state[name].layout is not torch.strided:
            raise ModelError(f"{path} has {name} as a sparse matrix: save it as a whole one.")
    weight = state[wanted["weight_CD"]]
    if weight.dim() != 2:
        raise ModelError(f"{path} has an encoder that is no matrix: choose another.")
    channels, latents = weight.shape[::-1] if coder.latents_first else weight.shape
    if coder.decoder and state[coder.decoder].shape != (latents, channels):
        raise ModelError(
            f"{path} has {coder.decoder} of {list(state[coder.decoder].shape)} beside an encoder "
            f"of {latents} latents: save it again."
        )
    sizes = {"C": channels, "D": latents}
    for name, tensor in wanted.items():
        shape = tuple(state[tensor].shape)
        one_of_all = name == "threshold_D" and not shape
        if name not in ("weight_CD", "k") and not one_of_all and shape != (sizes[name[-1]],):
            raise ModelError(
                f"{path} has {tensor} of {list(state[tensor].shape)} beside an encoder of "
                f"{latents} latents that read {channels} channels: save it again."
            )
    return channels, latents


def load(folder: Path, coder: Coder, sha256: str) -> Encoder:
    """The encoder in float32, of the very file that was planned with.

    Raises ModelError for another one, for weights that are not finite in float32, and for a k that
    is none of its latents.
    """
    path = folder / coder.weights
    state = read_weights(str(folder), path, sha256)
    given: dict[str, Any] = {name: state[tensor] for name, tensor in coder.tensors}
    told = given.pop("k").flatten().tolist() if "k" in given else [coder.k]
    given = {name: tensor.float() for name, tensor in given.items()}
    if coder.latents_first:
        given["weight_CD"] = given["weight_CD"].T.contiguous()
    latents = given["weight_CD"].shape[1]
    k = _checked_k(path, coder, told, latents)
    if "gain_D" in given:
        given["gain_D"] = given["gain_D"].exp()
    if "threshold_D" in given:
        given["threshold_D"] = given["threshold_D"].expand(latents).contiguous()
    if coder.decoder:
        given["scale_D"] = state[coder.decoder].float().norm(dim=1)
    for name, tensor in given.items():
        if not bool(tensor.isfinite().all()):
            source = dict(coder.tensors).get(name, coder.decoder)
            raise ModelError(
                f"{path} has {source} with values that are not finite in float32: choose another "
                "sparse autoencoder."
            )
    if not coder.rectified and bool((given.get("threshold_D", torch.zeros(1)) < 0).any()):
        raise ModelError(
            f"{path} has thresholds below zero, by which latents would be negative: choose another "
            "transcoder."
        )
    return Encoder(activation=coder.activation, before=coder.before, k=k, **given)


def _checked_k(path: Path, coder: Coder, told: list[Any], latents: int) -> int | None:
    """What a file or a configuration tells of k. Raises ModelError for what is none."""
    if coder.activation not in (TOPK, GROUPS):
        return None
    k: Any = told[0] if len(told) == 1 else None
    if k not in range(1, latents + 1) or (coder.activation == GROUPS and latents % k):
        raise ModelError(f"{path} is told to have k={k} for {latents} latents: correct it.")
    return int(k)
