"""What is gathered as a model reads all rows of a shard, each of these if it is wanted.

Shapes: B rows, P positions, T = B·P tokens, D neurons of a layer, R chosen ones, E features of the
row.
"""

from dataclasses import fields
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from universal_ray.corpus.rows import TokenCorpus, kept_mask
from universal_ray.maths.statistics.conditional import GroupSums, joined
from universal_ray.maths.statistics.windows import Peaks
from universal_ray.planning.items import Model
from universal_ray.planning.shards import Shard
from universal_ray.stages.report.artifacts import SPARE, ModelPeaks, Report, groups_file
from universal_ray.stages.report.labels import Chosen, TokenLabels
from universal_ray.storage import artifacts
from universal_ray.storage.store import Receipt, Store


@runtime_checkable
class Gatherer(Protocol):
    """Adds up batches of rows, one layer after another, and stores what it has found."""

    def begin(self, tokens_BP: Tensor, start: int) -> None:
        """A batch: tokens of the rows `start` and after, on the CPU."""

    def take(self, layer: int, pre_TD: Tensor, post_TD: Tensor) -> None:
        """What the neurons of a layer do in it."""

    def put(self, store: Store) -> Receipt: ...


class Largest:
    """Windows around the largest activations, and around the smallest of both signs."""

    def __init__(self, recipe: Report, model: Model, shard: Shard, device: str):
        self._recipe, self._path = recipe, recipe.peaks_file(model, shard)
        self._device, self._layers = device, range(model.layers)
        count, window = SPARE * recipe.options.top, recipe.plan.window
        self._made = {
            (layer, sign): Peaks.none(model.width, count, window, device)
            for sign in ((1, -1) if model.signed else (1,))
            for layer in self._layers
        }

    def begin(self, tokens_BP: Tensor, start: int) -> None:
        kept_T = kept_mask(tokens_BP, self._recipe.excluded)
        self._kept_BP, self._start = kept_T.view(tokens_BP.shape).to(self._device), start

    def take(self, layer: int, pre_TD: Tensor, post_TD: Tensor) -> None:
        post_BPD = post_TD.view(*self._kept_BP.shape, -1)
        self._made[layer, 1].update_(post_BPD, self._kept_BP, self._start)
        if (layer, -1) in self._made:
            self._made[layer, -1].update_(-post_BPD, self._kept_BP, self._start)

    def _end(self, sign: int) -> Peaks:
        """Of all layers, neurons numbered through."""
        layers = [self._made[layer, sign] for layer in self._layers]
        return Peaks(**{each.name: torch.cat([getattr(layer, each.name) for layer in layers])
                        for each in fields(Peaks)})  # fmt: skip

    def put(self, store: Store) -> Receipt:
        lowest = self._end(-1) if (0, -1) in self._made else None
        stored = ModelPeaks(highest=self._end(1), lowest=lowest)
        return artifacts.put(store, self._path, stored)


class Groups:
    """Activations of chosen neurons by what their tokens are."""

    def __init__(
        self, recipe: Report, model: Model, shard: Shard, device: str,
        *, store: Store, corpus: TokenCorpus, chosen: Chosen, folder: str,
    ):  # fmt: skip
        self._recipe, self._shard, self._device, self._corpus = recipe, shard, device, corpus
        self._path, self._chosen = groups_file(folder, shard), chosen
        profile = recipe.profile
        self._labels = TokenLabels(profile.read_bank(store), profile.subsets)
        self._label_TE = profile.read_labels(store, shard)
        layer_R = torch.tensor(chosen.neuron_R, dtype=torch.int64) // model.width
        ends = [int((layer_R < layer).sum()) for layer in range(model.layers + 1)]
        self._places = [range(ends[n], ends[n + 1]) for n in range(model.layers)]
        column_R = torch.tensor(chosen.neuron_R, dtype=torch.int64) % model.width
        self._columns = [column_R[each.start : each.stop].to(device) for each in self._places]
        self._made = [
            GroupSums.zeros(
                len(each), shared=self._labels.shared, own=2, context=profile.context,
                tokens=len(self._labels.pairs), device=device,
            )
            for each in self._places
        ]  # fmt: skip

    def begin(self, tokens_BP: Tensor, start: int) -> None:
        stop, context = start + len(tokens_BP), tokens_BP.shape[1]
        first = self._shard.start
        self._tokens_BP = tokens_BP.numpy()
        self._rows_TE = self._label_TE[(start - first) * context : (stop - first) * context]
        self._kept_T = kept_mask(tokens_BP, self._recipe.profile.excluded).to(self._device)
        self._shared_TG = self._labels.shared_groups(self._tokens_BP).to(self._device)
        subsets = self._corpus.subsets(start, stop)
        self._token_T = self._labels.pair(self._tokens_BP, subsets).to(self._device)

    def take(self, layer: int, pre_TD: Tensor, post_TD: Tensor) -> None:
        if not len(self._places[layer]):
            return
        own_T2R = self._labels.own_groups(
            self._tokens_BP, self._rows_TE, self._chosen, self._places[layer]
        )
        self._made[layer].update_(
            pre_TD[:, self._columns[layer]],
            post_TD[:, self._columns[layer]],
            self._kept_T,
            shared_TG=self._shared_TG,
            own_TOR=own_T2R.to(self._device),
            token_T=self._token_T,
        )

    def put(self, store: Store) -> Receipt:
        return artifacts.put(store, self._path, joined(self._made))
