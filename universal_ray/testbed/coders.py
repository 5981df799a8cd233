"""Training of small sparse autoencoders on a model, saved as SAELens does: the worked example.

TopK (Gao et al., arXiv 2406.04093), one for each layer of one place, all layers at once, in float32
on a CPU or a GPU; the same seed gives the same weights on the same machine. Shapes: T tokens of a
step, B rows, P positions, C channels that are read, D latents.
"""

import json
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from universal_ray.config.numbers import check_positive
from universal_ray.corpus.rows import TokenCorpus, check_fits
from universal_ray.errors import ConfigurationError
from universal_ray.models import places
from universal_ray.models.capture import Capture
from universal_ray.models.sae import LENS, PLACES
from universal_ray.models.site import STREAM, Shape, Show, Site
from universal_ray.models.source import ModelSource
from universal_ray.models.tokenizer import find_tokenizers, tokenizer_identity
from universal_ray.planning.capacity import duration
from universal_ray.testbed.settings import CoderSettings as CoderSettings

log = logging.getLogger(__name__)

CONFIGURATION = "cfg.json"


@dataclass(frozen=True, kw_only=True)
class Read(Site):
    """What a sparse autoencoder is trained on, of every layer."""

    place: str
    name: str = "read"
    unit: str = "channel"
    lacks: Any = field(default_factory=lambda: STREAM, hash=False)

    def shape(self, source: ModelSource) -> Shape:
        return Shape(source.layers, places.width(source, self.place), signed=True)

    def attach(self, source: ModelSource, bridge: Any, show: Show) -> None:
        for layer in range(source.layers):
            places.watch(source, bridge, layer, self.place, partial(show, layer))


class Autoencoder(torch.nn.Module):
    """One autoencoder of what is read, in units of `scale`."""

    def __init__(self, channels: int, latents: int, k: int, generator: torch.Generator):
        super().__init__()
        decoder_DC = torch.randn(latents, channels, generator=generator)
        decoder_DC /= decoder_DC.norm(dim=1, keepdim=True)
        self.W_dec = torch.nn.Parameter(decoder_DC)
        self.W_enc = torch.nn.Parameter(decoder_DC.T.contiguous())
        self.b_enc = torch.nn.Parameter(torch.zeros(latents))
        self.b_dec = torch.nn.Parameter(torch.zeros(channels))
        self.k, self.scale = k, 1.0
        self.fired_D = torch.zeros(latents, dtype=torch.bool)

    def begin(self, x_TC: torch.Tensor) -> None:
        """Take scale and centre from the first tokens: lengths are √C, about the mean."""
        apart_TC = x_TC - x_TC.mean(0)
        self.scale = float(x_TC.shape[1] ** 0.5 / apart_TC.norm(dim=1).mean())
        self.b_dec.data = x_TC.mean(0) * self.scale

    def lost(self, x_TC: torch.Tensor) -> torch.Tensor:
        """The share of the variance of what is read that is not written again."""
        y_TC = x_TC * self.scale
        pre_TD = torch.addmm(self.b_enc, y_TC - self.b_dec, self.W_enc)
        value_TK, place_TK = pre_TD.relu().topk(self.k, dim=1, sorted=False)
        self.fired_D[place_TK[value_TK > 0]] = True
        latent_TD = torch.zeros_like(pre_TD).scatter(1, place_TK, value_TK)
        missed_TC = y_TC - torch.addmm(self.b_dec, latent_TD, self.W_dec)
        return missed_TC.square().sum() / (y_TC - y_TC.mean(0)).square().sum()

    @torch.no_grad()
    def tensors(self) -> dict[str, torch.Tensor]:
        """Its weights for what is read as it is."""
        return {
            "W_enc": self.W_enc * self.scale, "b_enc": self.b_enc.clone(),
            "W_dec": self.W_dec / self.scale, "b_dec": self.b_dec / self.scale,
        }  # fmt: skip


def check(source: ModelSource, corpus: TokenCorpus, settings: CoderSettings) -> Read:
    """What is read of a model. Raises ConfigurationError for settings that cannot be, CorpusError
    where the corpus is not of the model's tokenizer, ModelError where it has no such place.
    """
    place = PLACES.get(settings.hook)
    if place is None:
        raise ConfigurationError(
            f"hook={settings.hook} is no place that is known: one of {', '.join(PLACES)}"
        )
    check_positive({name: vars(settings)[name] for name in ("k", "latents", "steps", "rows")})
    if settings.k > settings.latents:
        raise ConfigurationError(f"k={settings.k} of {settings.latents} latents: give fewer")
    left = corpus.rows - settings.first
    if left < settings.rows or settings.first < 0:
        raise ConfigurationError(
            f"first={settings.first} leaves {max(left, 0):,} of the {corpus.rows:,} rows in "
            f"{corpus.path}, where a step takes rows={settings.rows}: give another number"
        )
    (tokenizer,) = find_tokenizers([source], None)
    check_fits(
        corpus, vocabulary={source.name: source.vocabulary}, context={source.name: source.context},
        tokenizer_identity=tokenizer_identity(tokenizer),
    )  # fmt: skip
    site = Read(place=place)
    site.shape(source)
    return site


def train(
    source: ModelSource, corpus: TokenCorpus, settings: CoderSettings, output: Path
) -> list[dict[str, Any]]:
    """Train one on each layer of a model from the rows of a corpus after the first ones, in a new
    order each time that all have been read; save them in folders of `output`, and return what came
    of each. Those that are there already, of the same model and settings, stand.

    Raises as `check`.
    """
    site = check(source, corpus, settings)
    shape, content = site.shape(source), corpus.rows_hash(settings.first, corpus.rows)
    folders = [output / f"blocks.{layer}.{settings.hook}" for layer in range(shape.layers)]
    made_by = {**vars(settings), "model": source.identity, "rows_hash": content}
    if (found := _finished(folders, made_by)) is not None:
        return found
    generator = torch.Generator().manual_seed(settings.seed)
    coders = [Autoencoder(shape.width, settings.latents, settings.k, generator) for _ in folders]
    lost = _trained(coders, Capture(source, sites=[site]), corpus, settings)
    last = max(settings.steps // 10, 1)
    found = [
        {"lost": round(float(np.mean(each[-last:])), 4), "fired": int(coder.fired_D.sum())}
        for coder, each in zip(coders, lost, strict=True)
    ]
    for folder, coder, record in zip(folders, coders, found, strict=True):
        _save(folder, coder, source, settings, {**made_by, **record})
    return found


def _finished(folders: Sequence[Path], made_by: dict[str, Any]) -> list[dict[str, Any]] | None:
    """What came of the training of a model whose every coder is there."""
    found = []
    for folder in folders:
        try:
            told = json.loads((folder / CONFIGURATION).read_text())["metadata"]["trained"]
        except (OSError, ValueError, KeyError):
            return None
        record = {name: told.pop(name, None) for name in ("lost", "fired")}
        if told != made_by or not (folder / LENS).exists():
            return None
        found.append(record)
    return found


def _trained(
    coders: Sequence[Autoencoder], capture: Capture, corpus: TokenCorpus, settings: CoderSettings
) -> list[list[float]]:
    """Train them together; of each what it lost of the variance, step by step."""
    began, random = time.monotonic(), np.random.default_rng(settings.seed)
    weights = [weight for coder in coders for weight in coder.parameters()]
    optimizer = torch.optim.Adam(weights, lr=settings.learning_rate, betas=(0.9, 0.99))
    lost: list[list[float]] = [[] for _ in coders]
    waiting = np.empty(0, dtype=np.int64)
    for step in range(settings.steps):
        if len(waiting) < settings.rows:
            waiting = settings.first + random.permutation(corpus.rows - settings.first)
        chosen, waiting = waiting[: settings.rows], waiting[settings.rows :]
        rows_BP = np.concatenate([corpus.read(row, row + 1) for row in chosen.tolist()])
        for layer, x_TC in _read(capture, torch.from_numpy(rows_BP)).items():
            if step == 0:
                coders[layer].begin(x_TC)
            if step == settings.steps * 4 // 5:
                coders[layer].fired_D.zero_()
            loss = coders[layer].lost(x_TC)
            torch.autograd.backward(loss)
            lost[layer].append(float(loss.detach()))
        for group in optimizer.param_groups:  # down to zero in the last fifth
            ahead = (settings.steps - step) / settings.steps
            group["lr"] = settings.learning_rate * min(1.0, 5 * ahead)
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            for coder in coders:
                coder.W_dec.div_(coder.W_dec.norm(dim=1, keepdim=True))
        if step % 20 == 19:
            each = (time.monotonic() - began) / (step + 1)
            log.info(
                "step %d of %d: %s of the variance is lost, by layer; %s left", step + 1,
                settings.steps, ", ".join(f"{losses[-1]:.1%}" for losses in lost),
                duration(each * (settings.steps - step - 1)),
            )  # fmt: skip
    return lost


def _read(capture: Capture, tokens_BP: torch.Tensor) -> dict[int, torch.Tensor]:
    read: dict[int, torch.Tensor] = {}

    def take(_: str, layer: int, x_TC: torch.Tensor) -> None:
        with torch.inference_mode(False):  # so that it can be learnt from
            read[layer] = torch.empty(x_TC.shape).copy_(x_TC)

    capture.read(tokens_BP, take)
    return read


def _save(
    folder: Path,
    coder: Autoencoder,
    source: ModelSource,
    settings: CoderSettings,
    trained: dict[str, Any],
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    save_file(coder.tensors(), folder / LENS)
    content = {
        "architecture": "topk", "d_in": coder.W_enc.shape[0], "d_sae": settings.latents,
        "k": settings.k, "dtype": "float32", "device": "cpu", "apply_b_dec_to_input": True,
        "normalize_activations": "none", "reshape_activations": "none",
        "metadata": {
            "model_name": source.name, "model_identity": source.identity,
            "hook_name": folder.name, "sae_lens_version": "6.0.0", "trained": trained,
        },
    }  # fmt: skip
    (folder / CONFIGURATION).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
