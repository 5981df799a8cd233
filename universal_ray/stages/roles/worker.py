"""A worker that reads what neurons respond to, and intervenes on them."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch

from universal_ray.corpus.rows import kept_mask
from universal_ray.maths.roles import responses
from universal_ray.maths.roles.detectors import NO_NGRAM, most_active, ngrams, suppresses_its_token
from universal_ray.maths.roles.path_sums import Path, PathSums, merge_paths
from universal_ray.maths.roles.readout import MEASURES
from universal_ray.maths.roles.responses import LENGTHS, NO_NEXT, Where
from universal_ray.models.decoder import Decoder, load_decoder
from universal_ray.models.interventions import (
    Effects,
    Intervener,
    Intervention,
    by_neurons,
    merge_effects,
)
from universal_ray.models.paths import ablate_paths
from universal_ray.models.weights import load_weights
from universal_ray.planning.items import Model, marker
from universal_ray.planning.shards import Layers, Shard
from universal_ray.runtime.measure import Clock, peak_bytes
from universal_ray.runtime.worker import Assignment, Worker
from universal_ray.stages.profile.artifacts import Bank
from universal_ray.stages.roles.artifacts import (
    LayerResponses,
    Roles,
    RoleScores,
    ShardEffects,
    ShardPaths,
    classes_key,
    group_key,
    path_key,
    sums_file,
)
from universal_ray.storage import artifacts, checked

BATCH_TOKENS = {"cpu": 2048, "cuda": 16384}
"""Tokens of one untouched pass: all their logits are held."""


@dataclass(frozen=True)
class RolesAssignment(Assignment):
    """And what roles are told from."""

    recipe: Roles


@dataclass(frozen=True)
class _Grams:
    """N-grams of one length of all tokens."""

    gram_T: torch.Tensor
    """as numbers, -1 for none"""
    counted: int
    """tokens that end one and count"""
    most: float
    """tokens that a detector is active on at most"""


class RolesWorker(Worker):
    """Responses of one model's layers over all tokens; interventions on one shard."""

    told: RolesAssignment

    def __init__(self, assignment: RolesAssignment):
        super().__init__(assignment)
        self._every: dict[int, _Grams] = {}
        self._decoders: dict[str, Decoder] = {}

    @cached_property
    def _bank(self) -> Bank:
        return self.told.recipe.profile.read_bank(self.store)

    # Responses

    def _rows(self) -> int:
        return self.told.recipe.profile.rows

    def _grams(self, length: int) -> _Grams:
        """The same for every model and layer: made once."""
        if length not in self._every:
            tokens_BP = torch.from_numpy(self.told.corpus.read(0, self._rows()))
            gram_T = ngrams(tokens_BP, length, len(self._bank.counts_V))
            gram_T[~kept_mask(tokens_BP, self.told.excluded)] = NO_NGRAM
            count_U = gram_T[gram_T != NO_NGRAM].unique(return_counts=True)[1]
            self._every[length] = _Grams(gram_T, int(count_U.sum()), most_active(count_U))
        return self._every[length]

    def _batches(self) -> Iterator[tuple[torch.Tensor, torch.Tensor, Where]]:
        """Tokens of each batch, the places of those that count, and what is around these."""
        context, rows = self.told.corpus.context, self._rows()
        for start in range(0, rows, self.told.batch_rows):
            stop = min(start + self.told.batch_rows, rows)
            tokens_BP, kept_T = self.tokens(start, stop)
            next_BP = tokens_BP.roll(-1, dims=1)
            next_BP[:, -1] = NO_NEXT
            place_T = kept_T.nonzero().flatten().to(tokens_BP.device)
            tokens = slice(start * context, stop * context)
            grams = {length: self._grams(length).gram_T[tokens][kept_T] for length in LENGTHS}
            yield tokens_BP, place_T, Where(
                place_T % context,
                next_BP.flatten()[place_T],
                {length: gram_T.to(tokens_BP.device) for length, gram_T in grams.items()},
            )

    def respond(self, model: Model, layers: Layers) -> None:
        """Store what the neurons of some layers respond to."""
        recipe, width = self.told.recipe, model.width
        scores = recipe.read_scores(self.store, model)
        with self.computing():
            self.keep((model.identity,))
            made = {
                layer: self._layer(model, layer, scores)
                for layer in range(layers.start, layers.stop)
            }
            for tokens_BP, place_T, where in self._batches():
                self.read_layers(model, tokens_BP, partial(_add, made, place_T, where))
            found = {layer: sums.found() for layer, sums in made.items()}
            vocabulary = len(self._bank.counts_V)
            weights = load_weights(
                self.told.sources[model.identity], recipe.profile.convention, ids=vocabulary
            )
            stored = {}
            for layer, each in found.items():
                last_D = each.detector_ngram_DG[:, 0].clamp_min(0) % vocabulary
                w_out_DC = weights.w_out_NC[layer * width : (layer + 1) * width]
                against_D = suppresses_its_token(last_D, w_out_DC, weights.unembed_CV)
                suppresses_D = against_D & (each.detector_length_D > 0)
                stored[layer] = LayerResponses(found=each, detector_suppresses_D=suppresses_D)
        classes = classes_key(scores, self._bank.membership_VF)
        for layer, responses_of in stored.items():
            path = recipe.responses_file(model, classes, layer)
            artifacts.put(self.store, path, responses_of)

    def _layer(self, model: Model, layer: int, scores: RoleScores) -> responses.LayerResponses:
        """Nothing yet of the tokens, and which neurons are looked at for what."""
        profile, device = self.told.recipe.profile, self.told.device
        stored = profile.read_layer(self.store, model, layer)
        columns = slice(layer * model.width, (layer + 1) * model.width)
        counted = float(stored.support[-1])
        fired_D = stored.sparsity * counted
        candidates = {}
        for length in LENGTHS:
            grams = self._grams(length)
            # At least so many of the tokens on which a neuron is active end an n-gram.
            least_D = fired_D - (counted - grams.counted)
            candidates[length] = torch.nonzero(least_D <= grams.most).flatten().to(device)
        class_D = scores.logits.class_N[columns]
        role_R = torch.nonzero(scores.logits.some_N[columns] & (class_D >= 0)).flatten()
        member_VR = self._bank.membership_VF[:, class_D[role_R]]
        return responses.LayerResponses(
            context=profile.context,
            width=model.width,
            candidates=candidates,
            role_R=role_R.to(device),
            member_VR=member_VR.to(device),
        )

    # Interventions

    def _decoder(self, model: Model) -> Decoder:
        if model.identity not in self._decoders:
            self._decoders.clear()
            source = self.told.sources[model.identity]
            self._decoders[model.identity] = load_decoder(
                source, self.told.device, ids=len(self._bank.counts_V)
            )
        return self._decoders[model.identity]

    def _shard(self, shard: Shard) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Tokens of each batch of a shard, and which of them count, both [B, P]."""
        step = max(1, BATCH_TOKENS[self.told.device] // self.told.corpus.context)
        for start in range(shard.start, shard.stop, step):
            tokens_BP, kept_T = self.tokens(start, min(start + step, shard.stop))
            yield tokens_BP, kept_T.view(tokens_BP.shape).to(tokens_BP.device)

    def intervene(
        self, model: Model, shard: Shard, done: tuple[Intervention, ...], folder: str
    ) -> dict[str, Any]:
        """Store the effects of interventions, group by group, on a shard's rows."""
        effects: list[Effects] = []
        with self.computing():
            clock = Clock(self.told.device)
            intervener = Intervener(self._decoder(model), done, self._bank.counts_V)
            clock.lap("load")
            for tokens_BP, keep_BP in self._shard(shard):
                effects.append(intervener(tokens_BP, keep_BP))
                clock.lap("interventions")
            merged = merge_effects(effects)
            sums_MIT = torch.stack([merged.sums[name] for name in MEASURES])
            spent = clock.seconds()
        stored = ShardEffects(count_T=merged.count_R, sums_MIT=sums_MIT)
        groups = [[group_key(group), len(group)] for group in by_neurons(done)]
        return self._finish(model, shard, folder, stored, spent, groups=groups)

    def ablate(
        self, model: Model, shard: Shard, paths: tuple[Path, ...], folder: str
    ) -> dict[str, Any]:
        """Store the sums of ablated paths over a shard's rows."""
        sums: list[PathSums] = []
        with self.computing():
            clock = Clock(self.told.device)
            decoder = self._decoder(model)
            clock.lap("load")
            for tokens_BP, keep_BP in self._shard(shard):
                keep_BP[:, : self.told.corpus.context // 2] = False  # the paper's later half
                sums.append(ablate_paths(decoder, paths, tokens_BP, keep_BP))
                clock.lap("paths")
            merged = merge_paths(sums)
            spent = clock.seconds()
        stored = ShardPaths(
            count=merged.count,
            totals_IQ=merged.totals_IQ,
            products_IQQ=merged.products_IQQ,
            points_IXQ=merged.points_IXQ,
        )
        groups = [[path_key(path), 1] for path in paths]
        return self._finish(model, shard, folder, stored, spent, groups=groups)

    def _finish(
        self, model: Model, shard: Shard, folder: str, stored: Any, spent: dict[str, float],
        *, groups: list[list[Any]],
    ) -> dict[str, Any]:
        """Store sums over a shard, and tell what they took; `groups`: keys in the order of the
        sums, each with how many of these it has.
        """
        receipt = self.store.put_tensors(sums_file(folder), artifacts.tensors(stored))
        of = self.told.recipe.of(model, shard)
        checked.finish(
            self.store, marker(folder), [receipt], groups=groups, hardware=self.hardware, of=of
        )
        return {
            "model": model.name,
            "shard": shard.index,
            "tokens": (shard.stop - shard.start) * self.told.corpus.context,
            "bytes": receipt.bytes,
            "peak_bytes": peak_bytes(self.told.device),
            "hardware": self.hardware,
            "finished": time.time(),
            "seconds": {name: round(value, 4) for name, value in spent.items()},
        }


def _add(
    made: dict[int, responses.LayerResponses], place_T: torch.Tensor, where: Where,
    layer: int, pre_TD: torch.Tensor, post_TD: torch.Tensor,
) -> None:
    """A batch of one layer, when the model has made it, if it is asked for."""
    if layer in made:
        made[layer].update_(pre_TD[place_T], post_TD[place_T], where)
