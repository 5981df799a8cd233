"""From scores, responses and effects to the tables of roles."""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from universal_ray.features.features import CURRENT
from universal_ray.features.vocabulary import Vocabulary
from universal_ray.maths.roles.attention import (
    path_correlation,
    path_means,
    path_rank_correlation,
)
from universal_ray.maths.roles.detectors import POSITION_KINDS
from universal_ray.maths.roles.path_sums import QUANTITIES, PathSums
from universal_ray.maths.statistics.bootstrap import Interval
from universal_ray.planning.items import Model
from universal_ray.stages.neurons import who
from universal_ray.stages.profile.artifacts import Bank
from universal_ray.stages.roles.artifacts import AttentionScores, LayerResponses
from universal_ray.stages.roles.reduce import Known, Measured, Mediated
from universal_ray.stages.roles.schemas import (
    ATTENTION,
    CORRELATED,
    ENDS,
    HEADS,
    INTERVENTIONS,
    NEURON_ROLES,
    ROLES,
)
from universal_ray.storage.columns import list_of, lists
from universal_ray.storage.reasons import assembled


def _spread(value_R: Tensor, index_R: Tensor, count: int) -> Tensor:
    """Values of some neurons, NaN for all others."""
    found_N = torch.full((count,), torch.nan, dtype=torch.float64)
    found_N[index_R] = value_R.double()
    return found_N


def _numbers(value_N: Tensor) -> pa.Array:
    return pa.array(value_N.double().numpy(), pa.float64(), mask=value_N.isnan().numpy())


def _ends(intervals: dict[str, Interval]) -> dict[str, torch.Tensor]:
    """Estimates and the ends of their intervals, by the names of columns."""
    return {
        f"{name}{end}": value_I
        for name, interval in intervals.items()
        for end, value_I in zip(
            ENDS, (interval.value_I, interval.low_I, interval.high_I), strict=True
        )
    }


def _indices(value_N: Tensor, kind: pa.DataType) -> pa.Array:
    return pa.array(value_N.numpy(), mask=(value_N < 0).numpy()).cast(kind)


def _some_lists(rows_RB: Tensor, index_R: Tensor, count: int, kind: pa.DataType) -> pa.Array:
    """Rows of some neurons as lists, null for all others."""
    missing = np.ones(count, bool)
    missing[index_R.numpy()] = False
    sizes = np.where(missing, 0, rows_RB.shape[1])
    offsets = np.concatenate([[0], sizes.cumsum()]).astype(np.int32)
    ordered = rows_RB[index_R.argsort()]
    flat = pa.array(ordered.flatten().numpy()).cast(kind)
    return pa.ListArray.from_arrays(pa.array(offsets), flat, mask=pa.array(missing))


def roles_table(
    known: Known,
    bank: Bank,
    universality: pa.Array,
    mediated: Mediated | None,
    missing: dict[str, str],
) -> pa.Table:
    """One row per neuron. `universality`: whether each is universal; `missing`: what the model
    lacks, and why."""
    model, scores, answers = known.model, known.scores, known.responses
    count, columns = model.neurons, bank.id_columns(CURRENT)
    found = {**who(model), "is_universal": universality}
    found["named"] = pa.array(torch.isin(torch.arange(count), scores.named_R).numpy())
    told = [(name, has_N) for name in ROLES if (has_N := known.has[name]) is not None]
    found["roles"] = pa.array(
        [[name for name, has_N in told if has_N[neuron]] for neuron in range(count)],
        list_of(pa.string()),
    )
    class_N = scores.logits.class_N.tolist()
    found["logit_class"] = pa.array(
        [columns[place].name if place >= 0 else None for place in class_N], pa.string()
    )
    found["logit_class_family"] = pa.array(
        [columns[place].family if place >= 0 else None for place in class_N], pa.string()
    )
    found["logit_effect"] = pa.array(
        [
            None if place < 0 else "promotes" if difference > 0 else "suppresses"
            for place, difference in zip(
                class_N, scores.logits.mean_difference_N.tolist(), strict=True
            )
        ],
        pa.string(),
    )
    found |= {name: _numbers(value_N) for name, value_N in _scores(known).items()}
    found["entropy_rank"] = _indices(scores.entropy.entropy_rank_N, pa.int32())
    found["null_share_rank"] = _indices(scores.entropy.null_share_rank_N, pa.int32())
    antipode_N = scores.entropy.antipode_N
    found["antipode_layer"] = _indices(antipode_N // model.width, pa.int16())
    inside_N = torch.where(antipode_N < 0, antipode_N, antipode_N % model.width)
    found["antipode_neuron"] = _indices(inside_N, pa.int32())
    if scores.attention is not None:
        head_N, heads = scores.attention.head_N, scores.attention.heads
        found["bos_layer"] = _indices(head_N // heads, pa.int16())
        found["bos_head"] = _indices(torch.where(head_N < 0, head_N, head_N % heads), pa.int16())
    found |= _detectors(answers, bank.vocabulary)
    if mediated is not None:
        found |= {
            name: _numbers(_spread(value_R, mediated.neuron_R, count))
            for name, value_R in _ends(mediated.intervals).items()
        }
    effects, next_tokens = scores.histograms, answers.found
    for name, rows_RB, index_R in (
        ("effect_inside", effects.inside_RB.long(), effects.neuron_R),
        ("effect_outside", effects.outside_RB.long(), effects.neuron_R),
        ("next_outside_histogram", next_tokens.next_histogram_R2H[:, 0], next_tokens.role_R),
        ("next_inside_histogram", next_tokens.next_histogram_R2H[:, 1], next_tokens.role_R),
    ):
        found[name] = _some_lists(rows_RB, index_R, count, pa.int32())
    return assembled(NEURON_ROLES, found, missing, count)


def _scores(known: Known) -> dict[str, torch.Tensor]:
    """[N] by the names of `schemas.SCORES`, NaN for null."""
    scores, weights, count = known.scores, known.weights, known.model.neurons
    responses, histograms = known.responses.found, scores.histograms
    found = {
        "w_out_norm": weights.w_out_norm,
        "vocab_var": weights.vocab_var,
        "vocab_skew": weights.vocab_skew,
        "vocab_kurt": weights.vocab_kurt,
        "class_variance_reduction": scores.logits.variance_reduction_N,
        "class_mean_difference": scores.logits.mean_difference_N,
        "class_welch_t": scores.logits.welch_t_N,
        "null_share": scores.entropy.null_share_N,
        "antipode_cosine": scores.entropy.antipode_cosine_N,
        "frequency_component": scores.frequency.component_N,
        "frequency_cosine": scores.frequency.cosine_N,
        "next_inside": _spread(responses.next_inside_R, responses.role_R, count),
        "next_outside": _spread(responses.next_outside_R, responses.role_R, count),
        "next_correlation": _spread(responses.next_correlation_R, responses.role_R, count),
        "detector_share": responses.detector_share_D,
        "detector_position_information": responses.detector_position_information_D,
        "effect_low": _spread(histograms.low_R, histograms.neuron_R, count),
        "effect_high": _spread(histograms.high_R, histograms.neuron_R, count),
    }
    if scores.attention is not None:
        found["bos_score"] = scores.attention.score_N
        found["bos_deviations"] = scores.attention.deviations_N
    return found


def _detectors(responses: LayerResponses, vocabulary: Vocabulary) -> dict[str, Any]:
    found = responses.found
    length_N, kind_N = found.detector_length_D, found.position_kind_D
    none = (length_N == 0).numpy()
    kinds = [POSITION_KINDS[kind] for kind in kind_N.tolist()]
    plain = kind_N == 0
    ids = [
        [_ids(ngram, length, len(vocabulary)) for ngram in ngrams if ngram >= 0] if length else None
        for length, ngrams in zip(length_N.tolist(), found.detector_ngram_DG.tolist(), strict=True)
    ]
    shown = [
        None if told is None else ["".join(vocabulary.shown[key] for key in each) for each in told]
        for told in ids
    ]
    return {
        "detector_length": pa.array(length_N.numpy(), mask=none).cast(pa.int16()),
        "detector_ngrams": pa.array(shown, list_of(pa.string())),
        "detector_ngram_ids": pa.array(ids, list_of(list_of(pa.int32()))),
        "detector_suppresses": pa.array(
            responses.detector_suppresses_D.numpy(), pa.bool_(), mask=none
        ),
        "position_kind": pa.array(kinds, pa.string(), mask=plain.numpy()),
        "position_strong": pa.array(
            found.position_strong_D.numpy(), pa.bool_(), mask=plain.numpy()
        ),
    }


def _ids(ngram: int, length: int, size: int) -> list[int]:
    return [ngram // size**back % size for back in reversed(range(length))]


def interventions_table(model: Model, measured: Measured, named_R: Tensor) -> pa.Table:
    """One row per intervention, in the order declared; `named_R`: neurons that the study names."""
    rows = measured.declared.interventions
    one = np.array([each.neuron for each in rows])
    known = who(model, torch.from_numpy(one).clamp_min(0))
    layer = np.array(
        [each.neuron // model.width if each.neuron >= 0 else each.layer for each in rows]
    )
    value, pre = (np.array([getattr(each, name) for each in rows]) for name in ("value", "pre"))
    draw = np.array([each.draw for each in rows])
    found: dict[str, Any] = {
        "id": pc.if_else(pa.array(one >= 0), known["id"], None),
        "model": known["model"],
        "named": pc.if_else(pa.array(one >= 0), pa.array(np.isin(one, named_R.numpy())), None),
        "kind": pa.array([each.kind for each in rows]),
        "group": pa.array([each.group or None for each in rows], pa.string()),
        "layer": pa.array(layer, mask=layer < 0).cast(pa.int16()),
        "neuron": pa.array(one % model.width, mask=one < 0).cast(pa.int32()),
        "neurons": pa.array([len(each.intervention.neurons) for each in rows], pa.int32()),
        "draw": pa.array(draw, mask=draw < 0).cast(pa.int16()),
        "at": pa.array([each.at or None for each in rows], pa.string()),
        "value": pa.array(value, mask=np.isnan(value)),
        "pre_value": pa.array(pre, mask=np.isnan(pre)),
        "frozen": pa.array([each.intervention.frozen for each in rows], pa.string()),
        "tokens": pa.array([measured.tokens] * len(rows), pa.int64()),
    }
    changes = {f"{name}_change": interval for name, interval in measured.changes.items()}
    every = _ends({**measured.means, **changes})
    found |= {name: _numbers(value_I) for name, value_I in every.items()}
    found["null_reason"] = pa.nulls(len(rows), pa.string())
    return assembled(INTERVENTIONS, found, {}, len(rows))


def attention_table(
    model: Model, scores: AttentionScores, sums: PathSums, most: int = 2000
) -> pa.Table:
    """One row per ablated path; at most so many points of each."""
    heads = scores.heads
    neuron_I = torch.tensor([path.neuron for path in sums.paths])
    head_I = torch.tensor([path.layer * heads + path.head for path in sums.paths])
    found: dict[str, Any] = {
        **who(model, neuron_I),
        "head_layer": pa.array((head_I // heads).numpy()).cast(pa.int16()),
        "head": pa.array((head_I % heads).numpy()).cast(pa.int16()),
        "score": _numbers(scores.path_score_I),
        "deviations": _numbers(scores.path_deviations_I),
        "named": pa.array(scores.path_named_I.numpy()),
        "positions": pa.array([int(sums.count)] * len(sums.paths), pa.int64()),
    }
    found |= {f"mean_{name}": _numbers(mean_I) for name, mean_I in path_means(sums).items()}
    for name, pair in CORRELATED.items():
        found[f"corr_{name}"] = _numbers(path_correlation(sums, *pair))
        found[f"rank_corr_{name}"] = _numbers(path_rank_correlation(sums, *pair))
    found["points"] = pa.array([sums.points_IXQ.shape[1]] * len(sums.paths), pa.int64())
    points_IXQ = sums.points_IXQ[:, :: -(-sums.points_IXQ.shape[1] // most)]
    every = torch.arange(len(sums.paths))
    for place, name in enumerate(QUANTITIES):
        rows_IX = points_IXQ[:, :, place].contiguous()
        found[f"points_{name}"] = _some_lists(rows_IX, every, len(every), pa.float32())
    found["null_reason"] = pa.nulls(len(every), pa.string())
    return assembled(ATTENTION, found, {}, len(every))


def heads_table(model: Model, scores: AttentionScores) -> pa.Table:
    """One row per head."""
    count, heads = len(scores.neurons_H), scores.heads
    every = torch.arange(count)
    found: dict[str, Any] = {
        "model": pa.array([model.name] * count),
        "layer": pa.array((every // heads).numpy()).cast(pa.int16()),
        "head": pa.array((every % heads).numpy()).cast(pa.int16()),
        "neurons": pa.array(scores.neurons_H.numpy()).cast(pa.int32()),
        "null_deviation": _numbers(scores.null_deviation_H),
        "histogram": _some_lists(scores.histogram_HB, every, count, pa.int32()),
        "null_histogram": _some_lists(scores.null_histogram_HB, every, count, pa.int32()),
    }
    for end, value_HK, index_HK in (
        ("top", scores.top_HK, scores.top_neuron_HK),
        ("bottom", scores.bottom_HK, scores.bottom_neuron_HK),
    ):
        for name, rows_HK, kind in (
            ("deviations", value_HK, pa.float32()),
            ("layer", index_HK // model.width, pa.int16()),
            ("neuron", index_HK % model.width, pa.int32()),
        ):
            found[f"{end}_{name}"] = lists(rows_HK, value_HK.isfinite(), kind)
    found["null_reason"] = pa.nulls(count, pa.string())
    return assembled(HEADS, found, {}, count)
