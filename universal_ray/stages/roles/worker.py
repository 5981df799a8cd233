"""A worker that reads what neurons respond to, and intervenes on them."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch

from universal_ray.corpus.rows import kept_mask
from universal_ray.maths.roles.detectors import NO_NGRAM, most_active, ngrams, suppresses_its_token
from universal_ray.maths.roles.path_sums import PathSums, merge_paths
from universal_ray.maths.roles.responses import LENGTHS, NO_NEXT, LayerResponses, Where
from universal_ray.models.decoder import Decoder, load_decoder
from universal_ray.models.interventions import Effects, Intervener, merge_effects
from universal_ray.models.paths import ablate_paths
from universal_ray.models.weights import load_weights
from universal_ray.planning.items import Model, marker
from universal_ray.planning.shards import Layers, Shard
from universal_ray.runtime.measure import Clock, peak_bytes
from universal_ray.runtime.worker import Assignment, Worker
from universal_ray.stages.roles.declare import Declaration
from universal_ray.stages.roles.plan import RolesOrder
from universal_ray.storage import checked

BATCH_TOKENS = {"cpu": 2048, "cuda": 16384}
"""Tokens of one untouched pass: all their logits are held."""
SUMS = "sums.safetensors"
EFFECT, PATH = "effect.", "path."
"""What the names of the two kinds of sums begin with in a file."""


@dataclass(frozen=True)
class RolesAssignment(Assignment):
    """And what roles are told from."""

    order: RolesOrder


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

    # Responses

    def _rows(self) -> int:
        return self.told.order.profile.plan.shards[-1].stop

    def _grams(self, length: int) -> _Grams:
        """The same for every model and layer: made once."""
        if length not in self._every:
            tokens_BP = torch.from_numpy(self.told.corpus.read(0, self._rows()))
            gram_T = ngrams(tokens_BP, length, len(self.told.order.counts_V))
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
        order, width = self.told.order, model.width
        scores = checked.get_tensors(self.store, order.scores_path(model))
        with self.computing():
            self.keep((model.identity,))
            made = {
                layer: self._layer(model, layer, scores)
                for layer in range(layers.start, layers.stop)
            }
            for tokens_BP, place_T, where in self._batches():
                self.read_layers(model, tokens_BP, partial(_add, made, place_T, where))
            found = {layer: responses.found() for layer, responses in made.items()}
            vocabulary = len(order.counts_V)
            weights = load_weights(
                self.told.sources[model.identity], order.profile.convention, ids=vocabulary
            )
            for layer, tensors in found.items():
                last_D = tensors["detector_ngram"][:, 0].clamp_min(0) % vocabulary
                w_out_DC = weights.w_out_NC[layer * width : (layer + 1) * width]
                against_D = suppresses_its_token(last_D, w_out_DC, weights.unembed_CV)
                tensors["detector_suppresses"] = against_D & (tensors["detector_length"] > 0)
        for layer, tensors in found.items():
            checked.put_tensors(self.store, order.responses_path(model, layer), tensors)

    def _layer(
        self, model: Model, layer: int, scores: dict[str, torch.Tensor]
    ) -> LayerResponses:
        order, device = self.told.order, self.told.device
        columns = slice(layer * model.width, (layer + 1) * model.width)
        stored = checked.get_tensors(self.store, order.profile.layer_path(model, layer))
        counted = float(stored["support"][-1])
        fired_D = stored["sparsity"] * counted
        candidates = {}
        for length in LENGTHS:
            grams = self._grams(length)
            # At least so many of the tokens on which a neuron is active end an n-gram.
            least_D = fired_D - (counted - grams.counted)
            candidates[length] = torch.nonzero(least_D <= grams.most).flatten().to(device)
        some_D = scores["prediction"] | scores["suppression"] | scores["partition"]
        class_D = scores["class"][columns]
        role_R = torch.nonzero(some_D[columns] & (class_D >= 0)).flatten()
        member_VR = order.profile.bank.membership_VF[:, class_D[role_R]]
        return LayerResponses(
            context=order.profile.plan.context,
            width=model.width,
            candidates=candidates,
            role_R=role_R.to(device),
            member_VR=member_VR.to(device),
        )  # fmt: skip

    # Interventions

    def _decoder(self, model: Model) -> Decoder:
        if model.identity not in self._decoders:
            self._decoders.clear()
            source = self.told.sources[model.identity]
            self._decoders[model.identity] = load_decoder(
                source, self.told.device, ids=len(self.told.order.counts_V)
            )
        return self._decoders[model.identity]

    def intervene(self, model: Model, shard: Shard, declared: Declaration, folder: str) -> dict:
        """Store the effects of all interventions on a shard's rows, and sums of the paths."""
        told, context = self.told, self.told.corpus.context
        step = max(1, BATCH_TOKENS[told.device] // context)
        effects: list[Effects] = []
        paths: list[PathSums] = []
        with self.computing():
            clock = Clock(told.device)
            decoder = self._decoder(model)
            counts_V = torch.from_numpy(told.order.counts_V)
            intervener = Intervener(decoder, declared.chosen(), counts_V)
            clock.lap("load")
            for start in range(shard.start, shard.stop, step):
                tokens_BP, kept_T = self.tokens(start, min(start + step, shard.stop))
                keep_BP = kept_T.view(tokens_BP.shape).to(tokens_BP.device)
                effects.append(intervener(tokens_BP, keep_BP))
                clock.lap("interventions")
                if declared.paths:
                    keep_BP[:, : context // 2] = False  # the paper takes the later half of a row
                    paths.append(ablate_paths(decoder, declared.paths, tokens_BP, keep_BP))
                    clock.lap("paths")
            merged = merge_effects(effects)
            tensors = {EFFECT + name: tensor for name, tensor in merged.sums.items()}
            tensors[EFFECT + "count"] = merged.count_R
            if paths:
                ablated = merge_paths(paths)
                tensors[PATH + "count"] = torch.tensor(ablated.count, dtype=torch.float64)
                tensors[PATH + "totals"] = ablated.totals_IQ
                tensors[PATH + "products"] = ablated.products_IQQ
                tensors[PATH + "points"] = ablated.points_IXQ
            spent = clock.seconds()
        receipt = self.store.put_tensors(f"{folder}/{SUMS}", tensors)
        of = told.order.profile.plan.of(model)
        checked.finish(self.store, marker(folder), [receipt], hardware=self.hardware, of=of)
        return {
            "model": model.name,
            "shard": shard.index,
            "tokens": (shard.stop - shard.start) * context,
            "bytes": receipt.bytes,
            "peak_bytes": peak_bytes(told.device),
            "hardware": self.hardware,
            "finished": time.time(),
            "seconds": {name: round(value, 4) for name, value in spent.items()},
        }


def _add(
    made: dict[int, LayerResponses], place_T: torch.Tensor, where: Where,
    layer: int, pre_TD: torch.Tensor, post_TD: torch.Tensor,
) -> None:
    """A batch of one layer, when the model has made it, if it is asked for."""
    if layer in made:
        made[layer].update_(pre_TD[place_T], post_TD[place_T], where)
