"""A worker that sums what the statistics of neurons are made of, over one shard of tokens."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
import torch

from universal_ray.features.bank import Chosen, row_features, row_labels
from universal_ray.features.features import RowFeature, TokenRows
from universal_ray.features.sums import FeatureSums
from universal_ray.features.vocabulary import Vocabulary
from universal_ray.maths.statistics.activations import LayerSums, Places, places
from universal_ray.planning.items import Model, layer_file, marker
from universal_ray.planning.shards import Layers, Shard
from universal_ray.runtime.measure import Clock, peak_bytes
from universal_ray.runtime.worker import Assignment, Worker
from universal_ray.stages.profile.artifacts import Profile
from universal_ray.stages.profile.stored import StoredLabels, StoredShift, StoredSums
from universal_ray.storage import artifacts, checked
from universal_ray.storage.store import Receipt

ROWS = 64
"""Rows labelled together."""


@dataclass(frozen=True)
class ProfileAssignment(Assignment):
    """And what tokens are labelled by."""

    recipe: Profile
    vocabulary: Vocabulary
    chosen: Chosen


class ProfileWorker(Worker):
    """Labels of tokens, then statistics of one model over one shard."""

    told: ProfileAssignment

    @cached_property
    def _features(self) -> tuple[RowFeature, ...]:
        recipe = self.told.recipe
        topics = recipe.read_topics(self.store)
        return row_features(self.told.chosen.syntax, recipe.subsets, topics)

    def label(self, shard: Shard) -> Receipt:
        """Store the features of the row of every token of a shard, eight labels to a byte."""
        told, parts, features = self.told, [], 0
        for start in range(shard.start, shard.stop, ROWS):
            stop = min(start + ROWS, shard.stop)
            subsets = told.corpus.subsets(start, stop)
            rows = TokenRows(
                told.corpus.read(start, stop), told.vocabulary, tuple(subsets) if subsets else None
            )
            label_TE = row_labels(self._features, rows)
            features = label_TE.shape[1]
            parts.append(np.packbits(label_TE.numpy(), axis=1))
        stored = StoredLabels(torch.from_numpy(np.concatenate(parts)), features)
        return artifacts.put(self.store, told.recipe.labels_file(shard), stored)

    def shift(self, model: Model) -> Receipt:
        """Store the mean [L, D] of each pre-activation over the first batch: once for all workers,
        since another kind of device may differ in its bits.
        """
        recipe = self.told.recipe
        means: list[torch.Tensor] = []

        def add(_: int, pre_TD: torch.Tensor, __: torch.Tensor) -> None:
            means.append(pre_TD.mean(0, dtype=torch.float64).cpu())

        with self.computing():
            tokens_BP, _ = self.tokens(0, recipe.shift_rows)
            self.read_layers(model, tokens_BP, add)
        return artifacts.put(self.store, recipe.shift_file(model), StoredShift(torch.stack(means)))

    def _batches(self, shard: Shard) -> Iterator[tuple[torch.Tensor, Places, slice]]:
        """Tokens of each batch, which of them count, and where they lie in the shard."""
        told, context = self.told, self.told.recipe.context
        number = {name: index for index, name in enumerate(told.recipe.subsets)}
        for start in range(shard.start, shard.stop, told.batch_rows):
            stop = min(start + told.batch_rows, shard.stop)
            tokens_BP, kept_T = self.tokens(start, stop)
            subsets = told.corpus.subsets(start, stop)
            subset_B = None
            if subsets and number:
                subset_B = torch.tensor([number[name] for name in subsets], device=tokens_BP.device)
            where = places(
                tokens_BP, kept_T.to(tokens_BP.device), first_row=start, subset_B=subset_B
            )
            yield tokens_BP, where, slice(
                (start - shard.start) * context, (stop - shard.start) * context
            )

    def profile(self, model: Model, shard: Shard, groups: tuple[Layers, ...]) -> dict:
        """Store the sums of every layer over a shard, a group of layers at a time."""
        told = self.told
        folder = told.recipe.shard_folder(model, shard)
        receipts: list[Receipt] = []
        spent: dict[str, float] = {}
        label_TE = told.recipe.read_labels(self.store, shard)
        for layers in groups:
            with self.computing():
                clock = Clock(told.device)
                made = self._sum(model, shard, layers, label_TE, clock)
                files = {layer: self._on_host(made.pop(layer)) for layer in list(made)}
                clock.lap("copy")
                for name, seconds in clock.seconds().items():
                    spent[name] = spent.get(name, 0.0) + seconds
            began = time.monotonic()
            for layer in list(files):
                path = layer_file(folder, layer)
                receipts.append(self.store.put_tensors(path, files.pop(layer)))
            spent["write"] = spent.get("write", 0.0) + time.monotonic() - began
        shift = checked.checksum(self.store, told.recipe.shift_file(model))
        checked.finish(
            self.store, marker(folder), receipts, shift=shift, hardware=self.hardware,
            of=told.recipe.of(model),
        )
        return {
            "model": model.name,
            "shard": shard.index,
            "tokens": (shard.stop - shard.start) * told.recipe.context,
            "bytes": sum(receipt.bytes for receipt in receipts),
            "peak_bytes": peak_bytes(told.device),
            "hardware": self.hardware,
            "finished": time.time(),
            "seconds": {name: round(value, 4) for name, value in spent.items()},
        }

    def _on_host(self, sums: StoredSums) -> dict[str, torch.Tensor]:
        """All sums of a layer, as they are stored."""
        return {name: self.to_host(tensor) for name, tensor in artifacts.named(sums).items()}

    def _sum(
        self, model: Model, shard: Shard, layers: Layers, label_TE: torch.Tensor, clock: Clock
    ) -> dict[int, StoredSums]:
        told, recipe = self.told, self.told.recipe
        self.keep((model.identity,))
        stored = artifacts.get(self.store, recipe.shift_file(model), StoredShift)
        shift_LD = stored.shift.to(told.device)
        made = {
            layer: StoredSums(
                LayerSums.zeros(
                    shift_LD[layer],
                    vocabulary=recipe.vocabulary,
                    context=recipe.context,
                    subsets=len(recipe.subsets),
                    examples=recipe.examples,
                    both_ends=model.signed,
                    by_subset=recipe.by_subset,
                ),
                FeatureSums.zeros(label_TE.shape[1], model.width, told.device),
            )
            for layer in range(layers.start, layers.stop)
        }
        for tokens_BP, where, rows in self._batches(shard):
            batch_TE = label_TE[rows].to(tokens_BP.device)
            clock.lap("load")
            self.read_layers(model, tokens_BP, partial(_add, made, where, batch_TE, clock))
            clock.lap("forward")
        return made


def _add(
    made: dict[int, StoredSums], where: Places, batch_TE: torch.Tensor,
    clock: Clock, layer: int, pre_TD: torch.Tensor, post_TD: torch.Tensor,
) -> None:
    """A batch of one layer, when the model has made it, if its sums are asked for."""
    clock.lap("forward")
    if layer in made:
        sums = made[layer]
        sums.neuron.update_(pre_TD, post_TD, where)
        clock.lap("statistics")
        sums.feature.update_(batch_TE, post_TD, where)
        clock.lap("features")
