"""What the weights of one model say its neurons could do; one task of the cluster.

Shapes: N neurons of a model, H heads of all layers, C channels, V vocabulary, R chosen neurons,
B bins, K entries of a list.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from universal_ray.config.named import named_paths
from universal_ray.errors import ConfigurationError
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
from universal_ray.maths.statistics.weights import ModelWeights
from universal_ray.models.decoder import load_decoder
from universal_ray.models.source import ModelSource
from universal_ray.models.weights import load_weights
from universal_ray.planning.items import Model
from universal_ray.stages.profile.artifacts import Bank, WeightStatistics
from universal_ray.stages.roles.artifacts import (
    AttentionScores,
    EntropyScores,
    FrequencyScores,
    LogitHistograms,
    LogitScores,
    Roles,
    RoleScores,
)
from universal_ray.stages.roles.named import STRONGEST, Named
from universal_ray.stages.roles.schemas import AT_BOS
from universal_ray.storage import artifacts
from universal_ray.storage.store import Store

DIRECTIONS = 1000
"""Random directions in the place of neurons."""
SCORE_EDGES = torch.linspace(-15, 15, 121, dtype=torch.float64)
"""Of scores in standard deviations of the head's null; beyond them one bin each."""
EFFECT_BINS = 60
"""Of a neuron's logit effect, between its smallest and its largest."""


def score_weights(recipe: Roles, model: Model, source: ModelSource) -> None:
    """Store every score from weights, the neurons to intervene on and the paths to ablate."""
    store = Store(recipe.store_url)
    bank, stored = recipe.profile.read_bank(store), recipe.profile.read_weights(store, model)
    weights = load_weights(source, recipe.profile.convention, recipe.device, ids=len(bank.counts_V))
    logits = _logits(recipe, weights, stored, bank)
    null_share_N = null_space_share(weights.w_out_NC, weights.unembed_CV).cpu()
    entropy = _entropy(recipe, weights.layers, stored, null_share_N)
    frequency = _frequency(recipe, weights, bank)
    named = recipe.named(model)
    named_R = torch.tensor(named.neurons, dtype=torch.int64)
    chosen = [entropy.candidates_R, entropy.controls_R, frequency.chosen_R, named_R]
    reason = recipe.no_attention(model) or weights.missing.get("query")
    found = RoleScores(
        logits=logits,
        entropy=entropy,
        frequency=frequency,
        named_R=named_R,
        histograms=_histograms(weights, logits, chosen, bank),
        attention=_attention(recipe, weights, source, named) if reason is None else None,
        not_measured={} if reason is None else {AT_BOS: reason},
    )
    artifacts.put(store, recipe.scores_file(model), found)


def _logits(
    recipe: Roles, weights: ModelWeights, stored: WeightStatistics, bank: Bank
) -> LogitScores:
    variance = recipe.options.partition / weights.w_out_NC.shape[1]
    options = LogitOptions(recipe.options.kurtosis, variance)
    told = logit_roles(
        {
            "vocab_var": stored.vocab_var,
            "vocab_skew": stored.vocab_skew,
            "vocab_kurt": stored.vocab_kurt,
        },
        options,
    )
    classes = token_classes(
        weights.w_out_NC, weights.unembed_CV, bank.membership_VF, options=options
    )
    class_N, reduction_N = classes.best()
    none_N, place_N, neuron_N = class_N < 0, class_N.clamp_min(0), torch.arange(len(class_N))
    difference_N = classes.scores.mean_difference_FN[place_N, neuron_N]
    welch_t_N = classes.welch_t_FR[place_N, neuron_N]
    return LogitScores(
        prediction_N=told.prediction_N,
        suppression_N=told.suppression_N,
        partition_N=told.partition_N,
        class_N=class_N,
        variance_reduction_N=reduction_N,
        mean_difference_N=difference_N.masked_fill(none_N, torch.nan),
        welch_t_N=welch_t_N.masked_fill(none_N, torch.nan),
    )


def _entropy(
    recipe: Roles, layers: int, stored: WeightStatistics, null_share_N: Tensor
) -> EntropyScores:
    """Neurons to intervene on, from the share in the null space and the statistics of the profile.
    """
    given = recipe.options
    options = EntropyOptions(
        last_layers=min(EntropyOptions.last_layers, layers),
        null_share=given.null_share,
        candidates=given.candidates,
        controls=given.controls,
        seed=given.seed,
    )
    statistics = {
        "w_out_norm": stored.w_out_norm,
        "vocab_var": stored.vocab_var,
        "vocab_kurt": stored.vocab_kurt,
        "null_share": null_share_N,
    }
    chosen = choose(statistics, layers, options)
    out = stored.out_sim
    antipode_N = torch.full_like(out.min_index_N, -1)
    for first, second in antipodal_pairs(out).tolist():
        antipode_N[first], antipode_N[second] = second, first
    return EntropyScores(
        null_share_N=null_share_N,
        candidates_R=chosen.candidates_R,
        controls_R=chosen.controls_R,
        entropy_rank_N=chosen.entropy_rank_N,
        null_share_rank_N=chosen.null_share_rank_N,
        antipode_N=antipode_N,
        antipode_cosine_N=out.min_N.double().masked_fill(antipode_N < 0, torch.nan),
    )


def _frequency(
    recipe: Roles, weights: ModelWeights, bank: Bank
) -> FrequencyScores:
    """Along the unigram direction; chosen are those of the last layers that lie most along it."""
    direction = unigram(bank.counts_V.to(weights.unembed_CV.device))
    scores = frequency_scores(weights.w_out_NC, weights.unembed_CV, direction)
    cosine_N = scores.cosine_N.cpu()
    late_N = cosine_N.abs().nan_to_num(0).view(weights.layers, -1).clone()
    late_N[: -EntropyOptions.last_layers] = 0
    value_K, index_K = largest(late_N.view(1, -1), None, recipe.options.candidates)
    return FrequencyScores(
        component_N=scores.component_N,
        cosine_N=cosine_N,
        chosen_R=index_K[0][value_K[0] > recipe.options.frequency],
    )


def _attention(
    recipe: Roles, weights: ModelWeights, source: ModelSource, named: Named
) -> AttentionScores:
    """Of every neuron its strongest head, of every head all its scores, in short; the paths."""
    assert weights.query_HCK is not None and recipe.begin.id is not None
    decoder = load_decoder(source, recipe.device)
    direction_HC = bos_directions(weights.query_HCK, decoder.lone_keys(recipe.begin.id))
    score_NH = bos_scores(weights.w_out_NC, direction_HC, weights.layers)
    null_RH = null_scores(direction_HC, DIRECTIONS, recipe.options.seed)
    far_NH = standardised(score_NH, null_RH)
    strength_N, head_N = far_NH.abs().nan_to_num(-1).max(1)
    some_N = strength_N >= 0
    neuron_N = torch.arange(len(head_N), device=head_N.device)
    above_HN, below_HN = (sign * far_NH.T.nan_to_num(-sign * torch.inf) for sign in (1, -1))
    listed = recipe.profile.listed
    top_HK, top_index_HK = largest(above_HN, None, listed)
    bottom_HK, bottom_index_HK = largest(below_HN, None, listed)
    count, _ = named_paths(recipe.options.paths)
    found = list(map(tuple, strongest_pairs(score_NH, null_RH, count).tolist()))
    wanted = [
        (_first(far_NH, head, source) if neuron == STRONGEST else neuron, head)
        for neuron, head in named.paths
    ]
    pairs = list(dict.fromkeys([*found, *wanted]))
    pair_I2 = torch.tensor(pairs, dtype=torch.int64).view(-1, 2)
    nulls_RH = standardised(null_RH, null_RH)
    return AttentionScores(
        heads=score_NH.shape[1] // weights.layers,
        head_N=head_N.masked_fill(~some_N, -1),
        score_N=score_NH[neuron_N, head_N],
        deviations_N=far_NH[neuron_N, head_N],
        limit=float(furthest(null_RH)),
        neurons_H=far_NH.isfinite().sum(0),
        null_deviation_H=null_RH.square().mean(0).sqrt(),
        histogram_HB=_counts(far_NH.T),
        null_histogram_HB=_counts(nulls_RH.T),
        top_HK=top_HK,
        top_neuron_HK=top_index_HK,
        bottom_HK=-bottom_HK,
        bottom_neuron_HK=bottom_index_HK,
        path_I2=pair_I2,
        path_score_I=score_NH[pair_I2[:, 0], pair_I2[:, 1]],
        path_deviations_I=far_NH[pair_I2[:, 0], pair_I2[:, 1]],
        path_named_I=torch.tensor([pair in wanted for pair in pairs], dtype=torch.bool),
    )


def _first(far_NH: Tensor, head: int, source: ModelSource) -> int:
    """The neuron that moves a head most. Raises ConfigurationError where none does."""
    strength_N = far_NH[:, head].abs().nan_to_num(-1)
    neuron = int(strength_N.argmax())
    if strength_N[neuron] < 0:
        layer, within = divmod(head, far_NH.shape[1] // source.layers)
        raise ConfigurationError(
            f"roles.paths names >{layer}.{within}, and no neuron of {source.name} moves that head: "
            "leave it out"
        )
    return neuron


def _counts(value_HN: Tensor) -> Tensor:
    """Histogram [H, B] of each row between `SCORE_EDGES`; NaN counts nowhere."""
    bins = len(SCORE_EDGES) + 1
    bin_HN = torch.bucketize(value_HN.nan_to_num(0).contiguous(), SCORE_EDGES.to(value_HN.device))
    histogram_HB = torch.zeros(len(value_HN), bins, dtype=torch.int64, device=value_HN.device)
    return histogram_HB.scatter_add_(1, bin_HN, (~value_HN.isnan()).long())


def _histograms(
    weights: ModelWeights,
    logits: LogitScores,
    chosen: Sequence[Tensor],
    bank: Bank,
) -> LogitHistograms:
    """Logit effects of neurons with a role or chosen for one, ids of their class apart."""
    some_N = logits.some_N.clone()
    for index_R in chosen:
        some_N[index_R] = True
    neuron_R = torch.nonzero(some_N).flatten()
    member_VF = bank.membership_VF
    low, high, inside, outside = [], [], [], []
    unembed_CV = weights.unembed_CV.double()
    for neuron in neuron_R.tolist():
        effect_V = (weights.w_out_NC[neuron].double() @ unembed_CV).cpu()
        place = int(logits.class_N[neuron])
        member_V = member_VF[:, place] if place >= 0 else torch.zeros_like(member_VF[:, 0])
        low.append(effect_V.min())
        high.append(effect_V.max())
        ends = float(low[-1]), float(high[-1])
        inside.append(effect_V[member_V].histc(EFFECT_BINS, *ends))
        outside.append(effect_V[~member_V].histc(EFFECT_BINS, *ends))
    empty = torch.zeros(0, EFFECT_BINS, dtype=torch.float64)
    return LogitHistograms(
        neuron_R=neuron_R,
        low_R=torch.stack(low) if low else empty[:, 0],
        high_R=torch.stack(high) if high else empty[:, 0],
        inside_RB=torch.stack(inside) if inside else empty,
        outside_RB=torch.stack(outside) if outside else empty,
    )
