"""From stored sums to the statistics and scores of one layer, and from weights to theirs.

Plain functions over the store, each one task of the cluster. Shapes: D neurons of a layer, N of a
model, F columns of the bank with the one of the position after them, K entries of a list.
"""

from typing import Any

import torch
from torch import Tensor

from universal_ray.errors import NumericalError
from universal_ray.features.features import CURRENT, PREVIOUS
from universal_ray.features.sums import FeatureSums, id_sums, merge_features, score_layer
from universal_ray.maths.moments.row_summary import largest
from universal_ray.maths.statistics.activations import (
    LayerSums,
    group_means,
    merge_layers,
    neuron_statistics,
)
from universal_ray.maths.statistics.examples import Examples
from universal_ray.maths.statistics.position import mutual_information, position_variance_explained
from universal_ray.maths.statistics.weights import (
    ModelWeights,
    Vocabulary,
    composition,
    extreme_heads,
    head_maps,
    meets,
    resemblance,
    vector_statistics,
    vocabulary,
)
from universal_ray.models.source import ModelSource
from universal_ray.models.weights import load_weights
from universal_ray.planning.items import Model, layer_file, marker
from universal_ray.stages.profile.artifacts import SEEN, Profile
from universal_ray.stages.profile.schemas import BY_SUBSET, LOWER_END, UNASKED
from universal_ray.stages.profile.stored import (
    Composed,
    Cosines,
    End,
    Heads,
    LayerStatistics,
    StoredSums,
    WeightStatistics,
)
from universal_ray.storage import artifacts
from universal_ray.storage.store import Store


def _sums(
    store: Store, recipe: Profile, model: Model, layer: int
) -> tuple[LayerSums, FeatureSums]:
    """Of all shards, merged in their order."""
    parts = []
    for shard in recipe.shards:
        folder = recipe.shard_folder(model, shard)
        parts.append(artifacts.get(store, layer_file(folder, layer), StoredSums, marker(folder)))
    neurons = merge_layers([part.neuron for part in parts])
    return neurons, merge_features([part.feature for part in parts])


def reduce_layer(recipe: Profile, model: Model, layer: int) -> None:
    """Store statistics of a layer's neurons, and scores of every feature on each of them."""
    store = Store(recipe.store_url)
    neurons, features = _sums(store, recipe, model, layer)
    position = neurons.count["position"]
    between_D = position_variance_explained(neurons.total["position"], position, neurons.squares_D)
    mean_DV = _listed_means(neurons)
    low_VD, lowest = neurons.minimum_VD, neurons.lowest
    if model.signed and (low_VD is None or lowest is None):
        raise NumericalError("sums of a layer of either sign lack their lower end: sum them anew")
    low = None
    if model.signed and low_VD is not None and lowest is not None:
        low = _end(-1, lowest, mean_DV, low_VD, recipe.context, recipe.listed)
    member_VF = recipe.read_bank(store).membership_VF
    parts = [id_sums(neurons, member_VF, token) for token in (CURRENT, PREVIOUS)]
    scores = score_layer(neurons, [*parts, features], recipe.minimum_support)
    none_D = torch.full_like(between_D, torch.nan)
    stored = LayerStatistics(
        **neuron_statistics(neurons),
        position_information=mutual_information(neurons.fired_PD, position),
        position_variance_explained=between_D,
        reach=_reach(neurons, model.signed),
        histogram=neurons.histogram_DH,
        histogram_by_subset=None
        if (by_subset := neurons.histogram_SDH) is None
        else by_subset.transpose(0, 1).contiguous(),
        mean_by_position=group_means(neurons, "position").T,
        mean_by_subset=group_means(neurons, "subset").T,
        highest=_end(
            1, neurons.examples, mean_DV, neurons.maximum_VD, recipe.context, recipe.listed
        ),
        lowest=low,
        reduction=torch.cat([scores.variance_reduction_FN, between_D[None]]),
        difference=torch.cat([scores.mean_difference_FN, none_D[None]]),
        support=torch.cat([scores.support_F, neurons.powers_5D[0, :1]]),
        not_measured={
            **({} if model.signed else {LOWER_END: recipe.site.floor}),
            **({} if recipe.by_subset else {BY_SUBSET: UNASKED}),
        },
    )
    artifacts.put(store, recipe.layer_file(model, layer), stored)


def _listed_means(neurons: LayerSums) -> Tensor:
    """Mean activation by token id [D, V], NaN for one that is seen too rarely to be listed."""
    rare_V = neurons.count["current"] < SEEN
    return group_means(neurons, "current").masked_fill(rare_V[:, None], torch.nan).T


def _reach(neurons: LayerSums, both: bool) -> Tensor:
    """How far activations go from zero [D]: upwards alone where the lower end is a floor."""
    reach_D, low_VD = neurons.maximum_VD.amax(0), neurons.minimum_VD
    return torch.maximum(reach_D, -low_VD.amin(0)) if both and low_VD is not None else reach_D


def _end(
    sign: int, examples: Examples, mean_DV: Tensor, extreme_VD: Tensor, context: int, listed: int
) -> End:
    """Tokens and examples of the largest activations, or by a `sign` of -1 of the smallest."""

    def first(value_DV: Tensor) -> tuple[Tensor, Tensor]:
        ordered_DV = (sign * value_DV).masked_fill(value_DV.isnan(), -torch.inf)
        value_DK, id_DK = largest(ordered_DV, None, listed)
        return sign * value_DK, id_DK

    (mean, mean_id), (extreme, extreme_id) = first(mean_DV), first(extreme_VD.T.double())
    row, position = examples.place(context)
    return End(mean, mean_id, extreme, extreme_id, sign * examples.value_DK, row, position)


def reduce_weights(recipe: Profile, model: Model, source: ModelSource) -> None:
    """Store what the weights of a model say about each of its neurons."""
    weights = load_weights(source, recipe.convention, ids=recipe.vocabulary)
    listed, in_embed = recipe.listed, weights.embed_CV
    written = vocabulary(weights.w_out_NC, weights.unembed_CV, listed)
    alike = resemblance(weights.w_in_NC, weights.w_out_NC, weights.up_NC)
    vectors: dict[str, Any] = vector_statistics(weights)
    moments: dict[str, Any] = written.moments
    heads: dict[str, Any] = {}
    for name, map_HCK in head_maps(weights).items():
        heads[f"{name}_composition"] = _composed(weights, model, name, map_HCK, listed)
        heads["heads"] = len(map_HCK) // weights.layers
    stored = WeightStatistics(
        **vectors,
        **moments,
        vocab_top=written.top_RT,
        vocab_top_id=written.top_id_RT,
        vocab_bottom=written.bottom_RT,
        vocab_bottom_id=written.bottom_id_RT,
        in_vocab=_cosines(vocabulary(weights.w_in_NC, weights.unembed_CV, listed)),
        in_embed=None
        if in_embed is None
        else _cosines(vocabulary(weights.w_in_NC, in_embed, listed)),
        in_sim=alike["in"],
        out_sim=alike["out"],
        both_sim=alike["both"],
        **heads,
        not_measured=weights.missing,
    )
    artifacts.put(Store(recipe.store_url), recipe.weights_file(model), stored)


def _cosines(found: Vocabulary) -> Cosines:
    moments = {name.removeprefix("vocab_"): value_N for name, value_N in found.moments.items()}
    return Cosines(
        **moments,
        top=found.top_RT,
        top_id=found.top_id_RT,
        bottom=found.bottom_RT,
        bottom_id=found.bottom_id_RT,
    )


def _composed(
    weights: ModelWeights, model: Model, name: str, map_HCK: Tensor, listed: int
) -> Composed:
    """Of every neuron by one kind of composition."""
    value_NH = composition(weights.w_in_NC if name == "o" else weights.w_out_NC, map_HCK)
    before_NH = meets(
        name,
        layers=weights.layers,
        heads=len(map_HCK),
        neurons=model.neurons,
        parallel=weights.parallel,
    )
    top, bottom = (
        Heads(*extreme_heads(sign, value_NH, before_NH, listed)) for sign in (1, -1)
    )
    return Composed(top=top, bottom=bottom)
