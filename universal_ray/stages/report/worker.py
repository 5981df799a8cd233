"""A worker that looks at neurons in windows: where they are largest, in a sample, in other models.

Shapes: B rows, P positions, T tokens, N neurons of a model, D of a layer, C candidates of a neuron,
M windows, W tokens of a window.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor

from universal_ray.corpus.rows import kept_mask
from universal_ray.corpus.scattered import read_rows
from universal_ray.maths.statistics.windows import NONE, windows
from universal_ray.planning.items import Model
from universal_ray.planning.shards import Layers, Shard
from universal_ray.runtime.measure import Clock, peak_bytes
from universal_ray.runtime.worker import Assignment, Worker
from universal_ray.stages.report.artifacts import (
    ModelTransfer,
    Partners,
    Report,
    partners_file,
)
from universal_ray.stages.report.labels import Chosen
from universal_ray.stages.report.sampled import (
    SampleLabels,
    Transfer,
    candidates,
    describe_layer,
    other_neurons,
)
from universal_ray.stages.report.survey import Gatherer, Groups, Largest
from universal_ray.storage import artifacts

WINDOWS, DESCRIPTIONS = "windows", "descriptions"
"""What may be asked of the sample."""


@dataclass(frozen=True)
class ReportAssignment(Assignment):
    """And whose windows are wanted."""

    recipe: Report


class ReportWorker(Worker):
    """Windows of one model over a shard or in the sample; partners in windows of others."""

    told: ReportAssignment

    def __init__(self, assignment: ReportAssignment):
        super().__init__(assignment)
        self._said: dict[str, Tensor] = {}

    def survey(
        self, model: Model, shard: Shard, peaks: bool, groups: tuple[Chosen, str] | None
    ) -> dict[str, Any]:
        """Store the windows in which the neurons of a model are largest over a shard, if they are
        wanted, and the activations of chosen ones by what tokens are, in a folder.
        """
        recipe, device = self.told.recipe, self.told.device
        wanted: list[Gatherer] = []
        with self.computing():
            clock = Clock(device)
            self.keep((model.identity,))
            if peaks:
                wanted.append(Largest(recipe, model, shard, device))
            if groups is not None:
                chosen, folder = groups
                wanted.append(
                    Groups(
                        recipe, model, shard, device, store=self.store, corpus=self.told.corpus,
                        chosen=chosen, folder=folder,
                    )
                )  # fmt: skip
            for start in range(shard.start, shard.stop, self.told.batch_rows):
                stop = min(start + self.told.batch_rows, shard.stop)
                tokens_BP, _ = self.tokens(start, stop)
                for each in wanted:
                    each.begin(tokens_BP.cpu(), start)
                clock.lap("load")
                self.read_layers(model, tokens_BP, partial(_give, wanted, clock))
                clock.lap("forward")
            spent = clock.seconds()
        size = sum(each.put(self.store).bytes for each in wanted)
        return self._told(model, shard.stop - shard.start, size, spent, shard=shard.index)

    def _batches(self, rows: Sequence[int]) -> Iterator[tuple[Sequence[int], Tensor, Tensor]]:
        """Some rows, their tokens [B, P] on the device, and which of these may be an example."""
        for start in range(0, len(rows), self.told.batch_rows):
            some = rows[start : start + self.told.batch_rows]
            tokens_BP = torch.from_numpy(read_rows(self.told.corpus, some))
            kept_T = kept_mask(tokens_BP, self.told.excluded)
            yield some, tokens_BP.to(self.told.device), kept_T.to(self.told.device)

    @cached_property
    def _labels(self) -> SampleLabels:
        return SampleLabels.read(self.store, self.told.recipe, self.told.corpus)

    def sample(self, model: Model, layers: Layers, asked: frozenset[str]) -> dict[str, Any]:
        """Store what is asked of some layers, from the rows of the sample: candidates for windows,
        descriptions.
        """
        recipe, total = self.told.recipe, 0
        wanted = range(layers.start, layers.stop)
        with self.computing():
            clock = Clock(self.told.device)
            self.keep((model.identity,))
            seen: dict[int, list[tuple[Tensor, Tensor]]] = {layer: [] for layer in wanted}
            kept: list[Tensor] = []
            for _, tokens_BP, kept_T in self._batches(recipe.plan.sample):
                kept.append(kept_T)
                self.read_layers(model, tokens_BP, partial(_keep, seen))
            clock.lap("forward")
            stored: dict[str, Any] = {}
            for layer in wanted:
                parts = seen.pop(layer)
                post_TD = torch.cat([post_TD for post_TD, _ in parts])
                if WINDOWS in asked:
                    fires_TD = torch.cat([fires_TD for _, fires_TD in parts])
                    stored[recipe.sample_file(model, layer)] = candidates(
                        recipe, model, layer, post_TD, fires_TD, torch.cat(kept)
                    )
                    clock.lap("windows")
                if DESCRIPTIONS in asked:
                    stored[recipe.descriptions_file(model, layer)] = describe_layer(
                        recipe, model, layer, post_TD.cpu(), self._labels
                    )
                    clock.lap("descriptions")
            spent = clock.seconds()
        for path, found in stored.items():
            total += artifacts.put(self.store, path, found).bytes
        return self._told(model, len(recipe.plan.sample), total, spent, layer=layers.start)

    def _said_of(self, model: Model) -> Tensor:
        """Bool [T, N]: where its descriptions say that neurons fire, on the half that scores them;
        the same for every other model: made once.
        """
        if model.identity not in self._said:
            layers = self.told.recipe.read_descriptions(self.store, model)
            scores_T = self._labels.half_2T[1]
            self._said[model.identity] = torch.cat(
                [self._labels.says(each.fitted, scores_T) for each in layers], dim=1
            )
        return self._said[model.identity]

    def transfer(
        self, other: Model, path: str, wanted: tuple[tuple[Model, Tensor], ...]
    ) -> dict[str, Any]:
        """Store how far descriptions of others' neurons hold for a model's, on the half that scores
        them. `wanted`: as `partners` has it.
        """
        recipe, scores_T = self.told.recipe, self._labels.half_2T[1]
        with self.computing():
            clock = Clock(self.told.device)
            self.keep((other.identity,))
            sums: dict[str, list[Transfer]] = {}
            for model, partner_N in wanted:
                said_TN = self._said_of(model)
                neurons = partner_N, other_neurons(recipe, model, other, partner_N)
                sums[model.identity] = [Transfer(said_TN, each, other.width) for each in neurons]
            clock.lap("load")
            every = [each for pair in sums.values() for each in pair]
            first, scored = 0, 0
            for some, tokens_BP, _ in self._batches(recipe.plan.sample):
                length = len(some) * recipe.plan.context
                mine_T = scores_T[first : first + length]
                count = int(mine_T.sum())
                tokens = slice(scored, scored + count)
                self.read_layers(other, tokens_BP, partial(_beside, every, mine_T, tokens))
                first, scored = first + length, scored + count
            clock.lap("forward")
            spent = clock.seconds()
        stored = ModelTransfer(
            partner_5N={identity: pair[0].sums_5N for identity, pair in sums.items()},
            control_5N={identity: pair[1].sums_5N for identity, pair in sums.items()},
        )
        receipt = artifacts.put(self.store, path, stored)
        return self._told(other, len(recipe.plan.sample), receipt.bytes, spent)

    def partners(
        self,
        other: Model,
        shard: Shard,
        rows: tuple[int, ...],
        folder: str,
        wanted: tuple[tuple[Model, Tensor], ...],
    ) -> dict[str, Any]:
        """Store what a model's neurons do in windows of others.

        `rows`: on which partners are read, those of the shard among them; `wanted`: models whose
        windows these are, each with its neurons' partners in the other model as flat indices.
        """
        recipe, mine = self.told.recipe, rows[shard.start : shard.stop]
        window = recipe.plan.window
        with self.computing():
            clock = Clock(self.told.device)
            self.keep((other.identity,))
            place_of = {row: place for place, row in enumerate(mine)}
            looked = {}
            for model, partner_N in wanted:
                found = recipe.read_windows(self.store, model)
                inside_M = torch.isin(found.row_M, torch.tensor(mine))
                index_M = torch.nonzero(inside_M).flatten()
                looked[model.identity] = _Looked(
                    index_M=index_M,
                    place_M=torch.tensor(
                        [place_of[row] for row in found.row_M[index_M].tolist()],
                        dtype=torch.int64,
                    ),
                    start_M=found.start_M[index_M],
                    partner_M=partner_N[found.neuron_M[index_M]],
                    value_MW=torch.zeros(len(index_M), window),
                )
            clock.lap("load")
            first = 0
            for some, tokens_BP, _ in self._batches(mine):
                take = partial(_look, tuple(looked.values()), other.width, first, tokens_BP.shape)
                self.read_layers(other, tokens_BP, take)
                first += len(some)
            clock.lap("forward")
            spent = clock.seconds()
        stored = Partners(
            window_M={identity: each.index_M for identity, each in looked.items()},
            value_MW={identity: each.value_MW for identity, each in looked.items()},
        )
        receipt = artifacts.put(self.store, partners_file(folder, shard), stored)
        return self._told(other, len(mine), receipt.bytes, spent, shard=shard.index)

    def _told(
        self, model: Model, rows: int, size: int, spent: dict[str, float], **which: int
    ) -> dict[str, Any]:
        """A line of the metrics."""
        return {
            "model": model.name,
            **which,
            "tokens": rows * self.told.corpus.context,
            "bytes": size,
            "peak_bytes": peak_bytes(self.told.device),
            "hardware": self.hardware,
            "finished": time.time(),
            "seconds": {name: round(value, 4) for name, value in spent.items()},
        }


@dataclass(frozen=True, kw_only=True)
class _Looked:
    """The windows of one model in which another is read."""

    index_M: Tensor
    place_M: Tensor
    """which of the rows read"""
    start_M: Tensor
    partner_M: Tensor
    value_MW: Tensor


def _give(
    wanted: Sequence[Gatherer], clock: Clock, layer: int, pre_TD: Tensor, post_TD: Tensor
) -> None:
    """A batch of one layer, when the model has made it."""
    clock.lap("forward")
    for each in wanted:
        each.take(layer, pre_TD, post_TD)
    clock.lap("gather")


def _keep(
    seen: dict[int, list[tuple[Tensor, Tensor]]], layer: int, pre_TD: Tensor, post_TD: Tensor
) -> None:
    if layer in seen:
        seen[layer].append((post_TD, pre_TD > 0))


def _beside(
    every: Sequence[Transfer], mine_T: Tensor, tokens: slice,
    layer: int, pre_TD: Tensor, post_TD: Tensor,
) -> None:
    post_XD = post_TD.cpu()[mine_T]
    for each in every:
        each.add(layer, post_XD, tokens)


def _look(
    looked: Sequence[_Looked], width: int, first: int, shape: torch.Size,
    layer: int, pre_TD: Tensor, post_TD: Tensor,
) -> None:
    """Values of one layer in the windows of a batch, whose first row is the `first` of those read.
    """
    post_BPD = post_TD.view(*shape, width)
    for each in looked:
        here_M = (each.place_M >= first) & (each.place_M < first + shape[0])
        here_M &= (each.partner_M != NONE) & (each.partner_M // width == layer)
        some_X = torch.nonzero(here_M).flatten()
        each.value_MW[some_X] = windows(
            post_BPD,
            (each.place_M[some_X] - first).to(post_TD.device),
            each.start_M[some_X].to(post_TD.device),
            (each.partner_M[some_X] % width).to(post_TD.device),
            each.value_MW.shape[1],
        ).cpu()
