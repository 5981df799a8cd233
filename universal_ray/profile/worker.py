"""A worker that sums what the statistics of neurons are made of, over one shard of tokens."""

import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from universal_ray.items import Model, layer_file, marker
from universal_ray.measure import Clock, peak_bytes
from universal_ray.profile.plan import Layers, ProfilePlan, Shard
from universal_ray.statistics.activations import LayerSums, Places, places
from universal_ray.store import Receipt
from universal_ray.taxonomy.bank import FeatureBank
from universal_ray.taxonomy.features import TokenRows
from universal_ray.taxonomy.sums import FeatureSums
from universal_ray.taxonomy.vocabulary import Vocabulary
from universal_ray.worker import Assignment, Worker

ROWS = 64
"""Rows labelled together."""
PRE, POST = "pre", "post"
NEURON, FEATURE = "neuron.", "feature."
"""What the names of the two kinds of sums begin with in a file."""


@dataclass(frozen=True)
class ProfileAssignment(Assignment):
    """And what tokens are labelled by."""

    plan: ProfilePlan
    vocabulary: Vocabulary
    bank: FeatureBank


class ProfileWorker(Worker):
    """Labels of tokens, then statistics of one model over one shard."""

    told: ProfileAssignment

    def __init__(self, assignment: ProfileAssignment):
        super().__init__(assignment)
        self._shifts: dict[str, torch.Tensor] = {}

    def label(self, shard: Shard) -> Receipt:
        """Store the features of the row of every token of a shard, eight labels to a byte."""
        told, parts = self.told, []
        for start in range(shard.start, shard.stop, ROWS):
            stop = min(start + ROWS, shard.stop)
            subsets = told.corpus.subsets(start, stop)
            rows = TokenRows(
                told.corpus.read(start, stop), told.vocabulary, tuple(subsets) if subsets else None
            )
            parts.append(np.packbits(told.bank.labels(rows).numpy(), axis=1))
        bits = torch.from_numpy(np.concatenate(parts))
        return self.store.put_tensors(told.plan.labels_file(shard), {"bits": bits})

    def _labels(self, shard: Shard) -> torch.Tensor:
        """Bool [T, E] of a whole shard."""
        bits = self.store.get_tensors(self.told.plan.labels_file(shard))["bits"].numpy()
        count = len(self.told.bank.row_columns())
        return torch.from_numpy(np.unpackbits(bits, axis=1, count=count).astype(bool))

    def _shift(self, model: Model) -> torch.Tensor:
        """Mean [L, D] of each pre-activation over the first batch; the same on every worker."""
        if model.identity not in self._shifts:
            stop = min(self.told.batch_rows, self.told.plan.shards[-1].stop)
            tokens_BP, _ = self.tokens(0, stop)
            pre_LTD, _ = self.activations(model, tokens_BP)
            means = [pre_TD.mean(0, dtype=torch.float64) for pre_TD in pre_LTD]
            self._shifts[model.identity] = torch.stack(means)
        return self._shifts[model.identity]

    def _batches(self, shard: Shard) -> Iterator[tuple[torch.Tensor, Places, slice]]:
        """Tokens of each batch, which of them count, and where they lie in the shard."""
        told = self.told
        context, number = told.plan.context, {name: i for i, name in enumerate(told.plan.subsets)}
        for start in range(shard.start, shard.stop, told.batch_rows):
            stop = min(start + told.batch_rows, shard.stop)
            tokens_BP, kept_T = self.tokens(start, stop)
            subsets = told.corpus.subsets(start, stop)
            subset_B = None
            if subsets and number:
                subset_B = torch.tensor([number[name] for name in subsets], device=tokens_BP.device)
            where = places(tokens_BP, kept_T.to(tokens_BP.device), start, subset_B)
            yield tokens_BP, where, slice(
                (start - shard.start) * context, (stop - shard.start) * context
            )

    def profile(self, model: Model, shard: Shard, groups: tuple[Layers, ...]) -> dict:
        """Store the sums of every layer over a shard, a group of layers at a time."""
        told = self.told
        folder = told.plan.shard_folder(model, shard)
        receipts: list[Receipt] = []
        spent: dict[str, float] = {}
        label_TE = self._labels(shard)
        for layers in groups:
            with self.computing():
                clock = Clock(told.device)
                made = self._sum(model, shard, layers, label_TE, clock)
                for name, seconds in clock.seconds().items():
                    spent[name] = spent.get(name, 0.0) + seconds
            began = time.monotonic()
            for layer, (neurons, features) in made.items():
                tensors = {NEURON + name: t.cpu() for name, t in neurons.tensors().items()}
                tensors |= {FEATURE + name: t.cpu() for name, t in features.tensors().items()}
                receipts.append(self.store.put_tensors(layer_file(folder, layer), tensors))
            spent["write"] = spent.get("write", 0.0) + time.monotonic() - began
        self.store.finish(marker(folder), {"files": [vars(receipt) for receipt in receipts]})
        return {
            "model": model.name,
            "shard": shard.index,
            "tokens": (shard.stop - shard.start) * told.plan.context,
            "bytes": sum(receipt.bytes for receipt in receipts),
            "peak_bytes": peak_bytes(told.device),
            "finished": time.time(),
            "seconds": {name: round(value, 4) for name, value in spent.items()},
        }

    def _sum(
        self, model: Model, shard: Shard, layers: Layers, label_TE: torch.Tensor, clock: Clock
    ) -> dict[int, tuple[LayerSums, FeatureSums]]:
        told = self.told
        plan, shift_LD = told.plan, self._shift(model)
        made = {
            layer: (
                LayerSums.zeros(
                    shift_LD[layer],
                    plan.vocabulary,
                    plan.context,
                    len(plan.subsets),
                    plan.examples,
                ),
                FeatureSums.zeros(label_TE.shape[1], model.width, told.device),
            )
            for layer in range(layers.start, layers.stop)
        }
        for tokens_BP, where, rows in self._batches(shard):
            clock.lap("load")
            pre_LTD, post_LTD = self.activations(model, tokens_BP)
            clock.lap("forward")
            batch_TE = label_TE[rows].to(tokens_BP.device)
            for layer, (neurons, features) in made.items():
                neurons.update_(pre_LTD[layer], post_LTD[layer], where)
                clock.lap("statistics")
                features.update_(batch_TE, post_LTD[layer], where)
                clock.lap("features")
        return made

