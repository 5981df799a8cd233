"""From stored sums to the statistics and scores of one layer, and from weights to theirs.

Plain functions over the store, each one task of the cluster. Shapes: D neurons of a layer, N of a
model, F columns of the bank with the one of the position after them, K entries of a list.
"""

from dataclasses import dataclass

import torch

from universal_ray.config.hashing import fingerprint
from universal_ray.errors import NumericalError
from universal_ray.features.bank import Column, FeatureBank
from universal_ray.features.features import CURRENT, PREVIOUS
from universal_ray.features.sums import FeatureSums, id_sums, merge_features, score_layer
from universal_ray.maths.moments.row_summary import largest
from universal_ray.maths.statistics.activations import (
    LayerSums,
    group_means,
    merge_layers,
    neuron_statistics,
)
from universal_ray.maths.statistics.position import mutual_information, position_variance_explained
from universal_ray.maths.statistics.weights import (
    composition,
    head_maps,
    meets,
    resemblance,
    strongest_head,
    vector_statistics,
    vocabulary,
)
from universal_ray.models.source import ModelSource
from universal_ray.models.weights import load_weights
from universal_ray.planning.items import Model
from universal_ray.stages.correlations.folding import read_sums
from universal_ray.stages.profile.plan import ProfilePlan
from universal_ray.stages.profile.worker import FEATURE, NEURON
from universal_ray.storage import checked
from universal_ray.storage.reasons import with_reasons
from universal_ray.storage.store import Store

WEIGHTS_FOLDER = "profile/weights-2"
"""A new one whenever its figures mean something else: those of before are not taken for them."""
LISTED = 10
"""Tokens listed of what a neuron writes, and of what it answers to most."""
SEEN = 50
"""Occurrences of a token id whose mean activation is listed, as in the paper's Figure 4."""
POSITION = Column("position_one_hot", "position", "variance between positions of the row", CURRENT)


@dataclass(frozen=True)
class ProfileOrder:
    """What every task is told."""

    store_url: str
    plan: ProfilePlan
    bank: FeatureBank
    convention: str
    minimum_support: int

    @property
    def columns(self) -> tuple[Column, ...]:
        """What each row of the scores is about."""
        return (
            *self.bank.id_columns(CURRENT),
            *self.bank.id_columns(PREVIOUS),
            *self.bank.row_columns(),
            POSITION,
        )

    def layer_path(self, model: Model, layer: int) -> str:
        names = [f"{column.name}" for column in self.columns]
        key = fingerprint([names, self.bank.identity, self.minimum_support, LISTED, SEEN])[:8]
        return f"{self.plan.folder}/{model.short}/scores-{key}/layer-{layer:02d}.safetensors"

    def weights_path(self, model: Model) -> str:
        # Ids that only pad a vocabulary do not count.
        told = f"{self.convention}-{self.plan.vocabulary}"
        return f"{WEIGHTS_FOLDER}/{model.short}-{told}.safetensors"


def _sums(
    store: Store, plan: ProfilePlan, model: Model, layer: int
) -> tuple[LayerSums, FeatureSums]:
    """Of all shards, merged in their order."""
    neurons, features = [], []
    for shard in plan.shards:
        stored = read_sums(store, plan.shard_folder(model, shard), layer)
        neurons.append(LayerSums.of(_named(stored, NEURON)))
        features.append(FeatureSums.of(_named(stored, FEATURE)))
    return merge_layers(neurons), merge_features(features)


def _named(stored: dict[str, torch.Tensor], kind: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(kind): t for name, t in stored.items() if name.startswith(kind)}


def reduce_layer(order: ProfileOrder, model: Model, layer: int) -> None:
    """Statistics of a layer's neurons, and scores of every feature on each of them."""
    store, plan = Store(order.store_url), order.plan
    neurons, features = _sums(store, plan, model, layer)
    found = dict(neuron_statistics(neurons))
    position = neurons.count["position"]
    found["position_information"] = mutual_information(neurons.fired_PD, position)
    between_D = position_variance_explained(neurons.total["position"], position, neurons.squares_D)
    found["position_variance_explained"] = between_D
    found["histogram"] = neurons.histogram_DH
    found["mean_by_position"] = group_means(neurons, "position").T.contiguous()
    found["mean_by_subset"] = group_means(neurons, "subset").T.contiguous()
    rare_V = neurons.count["current"] < SEEN
    mean_DV = group_means(neurons, "current").masked_fill(rare_V[:, None], torch.nan).T
    found |= _ends(neurons, mean_DV, model.gated, plan.context)
    parts = [id_sums(neurons, order.bank.membership_VF, token) for token in (CURRENT, PREVIOUS)]
    scores = score_layer(neurons, [*parts, features], order.minimum_support)
    found["reduction"] = torch.cat([scores.variance_reduction_FN, between_D[None]])
    found["difference"] = torch.cat(
        [scores.mean_difference_FN, torch.full_like(between_D, torch.nan)[None]]
    )
    found["support"] = torch.cat([scores.support_F, neurons.powers_5D[0, :1]])
    tensors = {name: value.contiguous() for name, value in found.items()}
    checked.put_tensors(store, order.layer_path(model, layer), tensors)


def _ends(
    neurons: LayerSums, mean_DV: torch.Tensor, both: bool, context: int
) -> dict[str, torch.Tensor]:
    """Tokens and examples of the largest activations, and of the smallest where both ends are kept;
    `reach` [D], how far activations go from zero: upwards alone where the lower end is a floor.

    `mean_DV`: mean activation by token id, NaN for one that is not to be listed.
    """
    high_VD, low_VD, lowest = neurons.maximum_VD, neurons.minimum_VD, neurons.lowest
    ends = [(1, neurons.examples, {"token_mean": mean_DV, "token_max": high_VD.T.double()}, "")]
    reach_D = high_VD.amax(0)
    if both:
        if low_VD is None or lowest is None:
            raise NumericalError("sums of a gated layer lack their lower end: sum them anew")
        by_token = {"token_mean_low": mean_DV, "token_min": low_VD.T.double()}
        ends.append((-1, lowest, by_token, "_low"))
        reach_D = torch.maximum(reach_D, -low_VD.amin(0))
    found = {"reach": reach_D}
    for sign, examples, by_token, end in ends:
        for name, value_DV in by_token.items():
            ordered_DV = (sign * value_DV).masked_fill(value_DV.isnan(), -torch.inf)
            value_DK, found[f"{name}_id"] = largest(ordered_DV, None, LISTED)
            found[name] = sign * value_DK
        found[f"example{end}_value"] = sign * examples.value_DK
        row_DK, position_DK = examples.place(context)
        found[f"example{end}_row"], found[f"example{end}_position"] = row_DK, position_DK
    return found


def reduce_weights(order: ProfileOrder, model: Model, source: ModelSource) -> None:
    """What the weights of a model say about each of its neurons."""
    weights = load_weights(source, order.convention, ids=order.plan.vocabulary)
    found = dict(vector_statistics(weights))
    written = vocabulary(weights.w_out_NC, weights.unembed_CV, LISTED)
    found |= written.moments
    for end, value_NK, id_NK in (
        ("top", written.top_RT, written.top_id_RT),
        ("bottom", written.bottom_RT, written.bottom_id_RT),
    ):
        found[f"vocab_{end}"], found[f"vocab_{end}_id"] = value_NK, id_NK
    for name, alike in resemblance(weights.w_in_NC, weights.w_out_NC, weights.up_NC).items():
        found[f"{name}_sim"], found[f"{name}_sim_index"] = alike.max_N, alike.max_index_N
        found[f"{name}_sim_min"], found[f"{name}_sim_min_index"] = alike.min_N, alike.min_index_N
    for name, map_HCK in head_maps(weights).items():
        value_NH = composition(weights.w_in_NC if name == "o" else weights.w_out_NC, map_HCK)
        heads, layers = len(map_HCK), weights.layers
        before_NH = meets(
            name, layers=layers, heads=heads, neurons=model.neurons, parallel=weights.parallel
        )
        value_N, head_N = strongest_head(value_NH, before_NH)
        found[f"{name}_composition"], found[f"{name}_composition_head"] = value_N, head_N
        found["heads"] = torch.tensor(heads // layers)
    tensors = {name: value.contiguous() for name, value in found.items()}
    checked.put_tensors(
        Store(order.store_url), order.weights_path(model), with_reasons(tensors, weights.missing)
    )
