"""What the weights of one model say its neurons could do; one task of the cluster.

Shapes: N neurons of a model, H heads of all layers, C channels, V vocabulary, R chosen neurons,
B bins, K entries of a list.
"""

import torch
from torch import Tensor

from universal_ray.maths.moments.row_summary import largest
from universal_ray.maths.roles.attention import (
    bos_directions,
    bos_scores,
    furthest,
    null_scores,
    standardised,
    strongest_pairs,
)
from universal_ray.maths.roles.entropy import (
    EntropyOptions,
    antipodal_pairs,
    choose,
    null_space_share,
)
from universal_ray.maths.roles.frequency import frequency_scores, unigram
from universal_ray.maths.roles.logits import LogitOptions, logit_roles, token_classes
from universal_ray.maths.statistics.weights import ModelWeights, Resemblance
from universal_ray.models.decoder import load_decoder
from universal_ray.models.source import ModelSource
from universal_ray.models.weights import load_weights
from universal_ray.planning.items import Model
from universal_ray.stages.roles.plan import RolesOrder
from universal_ray.stages.roles.schemas import AT_BOS
from universal_ray.storage import checked
from universal_ray.storage.reasons import with_reasons
from universal_ray.storage.store import Store

DIRECTIONS = 1000
"""Random directions in the place of neurons."""
LISTED = 10
"""Neurons listed of those that move a head most, either way."""
SCORE_EDGES = torch.linspace(-15, 15, 121, dtype=torch.float64)
"""Of scores in standard deviations of the head's null; beyond them one bin each."""
EFFECT_BINS = 60
"""Of a neuron's logit effect, between its smallest and its largest."""


def score_weights(order: RolesOrder, model: Model, source: ModelSource) -> None:
    """Store every score from weights, the neurons to intervene on and the paths to ablate."""
    store = Store(order.store_url)
    ids = len(order.counts_V)
    weights = load_weights(source, order.profile.convention, order.device, ids=ids)
    stored = checked.get_tensors(store, order.profile.weights_path(model))
    found = _logits(order, weights, stored)
    found["null_share"] = null_space_share(weights.w_out_NC, weights.unembed_CV).cpu()
    found |= _entropy(order, weights.layers, {**stored, "null_share": found["null_share"]})
    found |= _frequency(order, weights)
    missing = {}
    reason = (
        order.untouched.get(model.identity) or order.no_bos or weights.missing.get("query")
    )
    if reason is None:
        found |= _attention(order, weights, source)
    else:
        missing[AT_BOS] = reason
    found |= _histograms(order, weights, found)
    tensors = {name: tensor.cpu().contiguous() for name, tensor in found.items()}
    checked.put_tensors(store, order.scores_path(model), with_reasons(tensors, missing))


def _logits(
    order: RolesOrder, weights: ModelWeights, stored: dict[str, Tensor]
) -> dict[str, Tensor]:
    variance = order.options.partition / weights.w_out_NC.shape[1]
    options = LogitOptions(order.options.kurtosis, variance)
    roles = logit_roles(stored, options)
    classes = token_classes(
        weights.w_out_NC, weights.unembed_CV, order.profile.bank.membership_VF, options=options
    )
    class_N, reduction_N = classes.best()
    none_N, place_N, neuron_N = class_N < 0, class_N.clamp_min(0), torch.arange(len(class_N))
    difference_N = classes.scores.mean_difference_FN[place_N, neuron_N]
    welch_t_N = classes.welch_t_FR[place_N, neuron_N]
    return {
        "prediction": roles.prediction_N,
        "suppression": roles.suppression_N,
        "partition": roles.partition_N,
        "class": class_N,
        "class_variance_reduction": reduction_N,
        "class_mean_difference": difference_N.masked_fill(none_N, torch.nan),
        "class_welch_t": welch_t_N.masked_fill(none_N, torch.nan),
    }


def _entropy(order: RolesOrder, layers: int, stored: dict[str, Tensor]) -> dict[str, Tensor]:
    """Neurons to intervene on, from `null_share` and the statistics of the profile."""
    given = order.options
    options = EntropyOptions(
        last_layers=min(EntropyOptions.last_layers, layers),
        null_share=given.null_share,
        candidates=given.candidates,
        controls=given.controls,
        seed=given.seed,
    )
    chosen = choose(stored, layers, options)
    out = Resemblance(
        max_N=stored["out_sim"],
        max_index_N=stored["out_sim_index"],
        min_N=stored["out_sim_min"],
        min_index_N=stored["out_sim_min_index"],
    )
    antipode_N = torch.full_like(out.min_index_N, -1)
    for first, second in antipodal_pairs(out).tolist():
        antipode_N[first], antipode_N[second] = second, first
    return {
        "candidates": chosen.candidates_R,
        "controls": chosen.controls_R,
        "entropy_rank": chosen.entropy_rank_N,
        "null_share_rank": chosen.null_share_rank_N,
        "antipode": antipode_N,
        "antipode_cosine": out.min_N.double().masked_fill(antipode_N < 0, torch.nan),
    }


def _frequency(order: RolesOrder, weights: ModelWeights) -> dict[str, Tensor]:
    """Along the unigram direction; chosen are those of the last layers that lie most along it."""
    direction = unigram(torch.from_numpy(order.counts_V).to(weights.unembed_CV.device))
    scores = frequency_scores(weights.w_out_NC, weights.unembed_CV, direction)
    cosine_N = scores.cosine_N.cpu()
    late_N = cosine_N.abs().nan_to_num(0).view(weights.layers, -1).clone()
    late_N[: -EntropyOptions.last_layers] = 0
    value_K, index_K = largest(late_N.view(1, -1), None, order.options.candidates)
    return {
        "frequency_component": scores.component_N,
        "frequency_cosine": cosine_N,
        "frequent": index_K[0][value_K[0] > order.options.frequency],
    }


def _attention(
    order: RolesOrder, weights: ModelWeights, source: ModelSource
) -> dict[str, Tensor]:
    """Of every neuron its strongest head, of every head all its scores, in short; the paths."""
    assert weights.query_HCK is not None and order.bos is not None
    decoder = load_decoder(source, order.device)
    direction_HC = bos_directions(weights.query_HCK, decoder.lone_keys(order.bos))
    score_NH = bos_scores(weights.w_out_NC, direction_HC, weights.layers)
    null_RH = null_scores(direction_HC, DIRECTIONS, order.options.seed)
    far_NH = standardised(score_NH, null_RH)
    strength_N, head_N = far_NH.abs().nan_to_num(-1).max(1)
    some_N = strength_N >= 0
    neuron_N = torch.arange(len(head_N), device=head_N.device)
    above_HN, below_HN = (sign * far_NH.T.nan_to_num(-sign * torch.inf) for sign in (1, -1))
    top_HK, top_index_HK = largest(above_HN, None, LISTED)
    bottom_HK, bottom_index_HK = largest(below_HN, None, LISTED)
    pairs = strongest_pairs(score_NH, null_RH, order.options.paths)
    nulls_RH = standardised(null_RH, null_RH)
    return {
        "bos_head": head_N.masked_fill(~some_N, -1),
        "bos_score": score_NH[neuron_N, head_N],
        "bos_deviations": far_NH[neuron_N, head_N],
        "bos_limit": furthest(null_RH),
        "heads_neurons": far_NH.isfinite().sum(0),
        "heads_null_deviation": null_RH.square().mean(0).sqrt(),
        "heads_histogram": _counts(far_NH.T),
        "heads_null_histogram": _counts(nulls_RH.T),
        "heads_top": top_HK,
        "heads_top_neuron": top_index_HK,
        "heads_bottom": -bottom_HK,
        "heads_bottom_neuron": bottom_index_HK,
        "heads": torch.tensor(score_NH.shape[1] // weights.layers),
        "paths": pairs,
        "paths_score": score_NH[pairs[:, 0], pairs[:, 1]],
        "paths_deviations": far_NH[pairs[:, 0], pairs[:, 1]],
    }


def _counts(value_HN: Tensor) -> Tensor:
    """Histogram [H, B] of each row between `SCORE_EDGES`; NaN counts nowhere."""
    bins = len(SCORE_EDGES) + 1
    bin_HN = torch.bucketize(value_HN.nan_to_num(0).contiguous(), SCORE_EDGES.to(value_HN.device))
    histogram_HB = torch.zeros(len(value_HN), bins, dtype=torch.int64, device=value_HN.device)
    return histogram_HB.scatter_add_(1, bin_HN, (~value_HN.isnan()).long())


def _histograms(
    order: RolesOrder, weights: ModelWeights, found: dict[str, Tensor]
) -> dict[str, Tensor]:
    """Logit effects of neurons with a role or chosen for one, ids of their class apart."""
    some_N = found["prediction"] | found["suppression"] | found["partition"]
    for name in ("candidates", "controls", "frequent"):
        some_N[found[name]] = True
    index_R = torch.nonzero(some_N).flatten()
    member_VF = order.profile.bank.membership_VF
    low, high, inside, outside = [], [], [], []
    unembed_CV = weights.unembed_CV.double()
    for neuron in index_R.tolist():
        effect_V = (weights.w_out_NC[neuron].double() @ unembed_CV).cpu()
        place = int(found["class"][neuron])
        member_V = member_VF[:, place] if place >= 0 else torch.zeros_like(member_VF[:, 0])
        low.append(effect_V.min())
        high.append(effect_V.max())
        ends = float(low[-1]), float(high[-1])
        inside.append(effect_V[member_V].histc(EFFECT_BINS, *ends))
        outside.append(effect_V[~member_V].histc(EFFECT_BINS, *ends))
    empty = torch.zeros(0, EFFECT_BINS, dtype=torch.float64)
    return {
        "effect_neuron": index_R,
        "effect_low": torch.stack(low) if low else empty[:, 0],
        "effect_high": torch.stack(high) if high else empty[:, 0],
        "effect_inside": torch.stack(inside) if inside else empty,
        "effect_outside": torch.stack(outside) if outside else empty,
    }
