"""From scores, responses and effects to the tables of roles."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from universal_ray.features.bank import Column
from universal_ray.features.vocabulary import Vocabulary
from universal_ray.maths.roles.attention import path_correlation, path_means
from universal_ray.maths.roles.detectors import POSITION_KINDS, DetectorOptions
from universal_ray.maths.roles.path_sums import QUANTITIES, PathSums
from universal_ray.maths.statistics.bootstrap import Interval
from universal_ray.planning.items import Model
from universal_ray.stages.roles.declare import Declaration
from universal_ray.stages.roles.schemas import (
    AT_BOS,
    ATTENTION,
    CORRELATED,
    ENDS,
    HEADS,
    INTERVENTIONS,
    NEURON_ROLES,
    ROLES,
    SCORES,
)
from universal_ray.storage.columns import list_of
from universal_ray.storage.reasons import assembled, not_measured

Tensors = dict[str, Tensor]


def has_role(
    scores: Tensors, responses: Tensors, largest_N: Tensor
) -> dict[str, Tensor | None]:
    """Bool [N] by role, None where it was not measured; `largest_N`: the largest activation of each
    neuron, of gated ones, where it is of either sign, in absolute value."""
    count = len(scores["class"])

    def listed(index_R: Tensor) -> Tensor:
        found_N = torch.zeros(count, dtype=torch.bool)
        found_N[index_R] = True
        return found_N

    off_N = on_N = None
    if AT_BOS not in not_measured(scores):
        off_N = scores["bos_deviations"] > scores["bos_limit"]
        on_N = -scores["bos_deviations"] > scores["bos_limit"]
    length_N = responses["detector_length"]
    return {
        "prediction": scores["prediction"].bool(),
        "suppression": scores["suppression"].bool(),
        "partition": scores["partition"].bool(),
        "entropy": listed(scores["candidates"]),
        "token frequency": listed(scores["frequent"]),
        "attention deactivation": off_N,
        "attention activation": on_N,
        "dead": largest_N <= DetectorOptions.dead,
        "token detector": length_N == 1,
        "n-gram detector": length_N > 1,
        "position": responses["position_kind"] > 0,
    }


def _spread(value_R: Tensor, index_R: Tensor, count: int) -> Tensor:
    """Values of some neurons, NaN for all others."""
    found_N = torch.full((count,), torch.nan, dtype=torch.float64)
    found_N[index_R] = value_R.double()
    return found_N


def _numbers(value_N: Tensor) -> pa.Array:
    return pa.array(value_N.double().numpy(), pa.float64(), mask=value_N.isnan().numpy())


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
    model: Model,
    scores: Tensors,
    responses: Tensors,
    statistics: Tensors,
    has: dict[str, Tensor | None],
    universal: pa.Array,
    mediated: dict[str, tuple[Tensor, Interval]],
    missing: dict[str, str],
    columns: Sequence[Column],
    vocabulary: Vocabulary,
) -> pa.Table:
    """One row per neuron. `mediated`: by name, the neurons intervened on and their intervals;
    `missing`: what the model lacks, and why."""
    count = model.neurons
    index_N = torch.arange(count)
    every = {**statistics, **scores}
    every |= {
        name: _spread(responses[name], responses["role"], count)
        for name in ("next_inside", "next_outside", "next_correlation")
    }
    every |= {
        name: _spread(scores[name], scores["effect_neuron"], count)
        for name in ("effect_low", "effect_high")
    }
    every |= {
        name: responses[name] for name in ("detector_share", "detector_position_information")
    }
    found: dict[str, Any] = {
        "model": pa.array([model.name] * count),
        "layer": pa.array((index_N // model.width).numpy()).cast(pa.int16()),
        "neuron": pa.array((index_N % model.width).numpy()).cast(pa.int32()),
        "is_universal": universal,
    }
    told = [(name, has_N) for name in ROLES if (has_N := has[name]) is not None]
    found["roles"] = pa.array(
        [[name for name, has_N in told if has_N[neuron]] for neuron in range(count)],
        list_of(pa.string()),
    )
    class_N = scores["class"].tolist()
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
                class_N, scores["class_mean_difference"].tolist(), strict=True
            )
        ],
        pa.string(),
    )
    found |= {name: _numbers(every[name]) for name in SCORES if name in every}
    for name in ("entropy_rank", "null_share_rank"):
        found[name] = _indices(scores[name], pa.int32())
    antipode_N = scores["antipode"]
    found["antipode_layer"] = _indices(antipode_N // model.width, pa.int16())
    inside_N = torch.where(antipode_N < 0, antipode_N, antipode_N % model.width)
    found["antipode_neuron"] = _indices(inside_N, pa.int32())
    if AT_BOS not in missing:
        head_N, heads = scores["bos_head"], int(scores["heads"])
        found["bos_layer"] = _indices(head_N // heads, pa.int16())
        found["bos_head"] = _indices(torch.where(head_N < 0, head_N, head_N % heads), pa.int16())
    found |= _detectors(responses, vocabulary)
    for name, (index_R, interval) in mediated.items():
        parts = (interval.value_I, interval.low_I, interval.high_I)
        for end, part in zip(ENDS, parts, strict=True):
            found[f"{name}{end}"] = _numbers(_spread(part, index_R, count))
    for name in ("effect_inside", "effect_outside"):
        rows_RB, index_R = scores[name].long(), scores["effect_neuron"]
        found[name] = _some_lists(rows_RB, index_R, count, pa.int32())
    for side, name in enumerate(("next_outside_histogram", "next_inside_histogram")):
        rows_RB = responses["next_histogram"][:, side]
        found[name] = _some_lists(rows_RB, responses["role"], count, pa.int32())
    return assembled(NEURON_ROLES, found, missing, count)


def _detectors(responses: Tensors, vocabulary: Vocabulary) -> dict[str, Any]:
    length_N = responses["detector_length"]
    none = (length_N == 0).numpy()
    kinds = [POSITION_KINDS[kind] for kind in responses["position_kind"].tolist()]
    plain = responses["position_kind"] == 0
    return {
        "detector_length": pa.array(length_N.numpy(), mask=none).cast(pa.int16()),
        "detector_ngrams": pa.array(
            [
                [_text(ngram, length, vocabulary) for ngram in ngrams if ngram >= 0]
                if length
                else None
                for length, ngrams in zip(
                    length_N.tolist(), responses["detector_ngram"].tolist(), strict=True
                )
            ],
            list_of(pa.string()),
        ),
        "detector_suppresses": pa.array(
            responses["detector_suppresses"].bool().numpy(), pa.bool_(), mask=none
        ),
        "position_kind": pa.array(kinds, pa.string(), mask=plain.numpy()),
        "position_strong": pa.array(
            responses["position_strong"].bool().numpy(), pa.bool_(), mask=plain.numpy()
        ),
    }


def _text(ngram: int, length: int, vocabulary: Vocabulary) -> str:
    size = len(vocabulary)
    ids = [ngram // size**back % size for back in reversed(range(length))]
    return b"".join(vocabulary.pieces[index] for index in ids).decode("utf-8", "replace")


def interventions_table(
    model: Model,
    declared: Declaration,
    measured: dict[str, Interval],
    changed: dict[str, Interval],
    tokens: int,
) -> pa.Table:
    """One row per intervention, in the order declared."""
    rows = declared.interventions
    one = np.array([each.neuron for each in rows])
    layer = np.array(
        [each.neuron // model.width if each.neuron >= 0 else each.layer for each in rows]
    )
    value = np.array([each.value for each in rows])
    draw = np.array([each.draw for each in rows])
    found: dict[str, Any] = {
        "model": pa.array([model.name] * len(rows)),
        "kind": pa.array([each.kind for each in rows]),
        "group": pa.array([each.group or None for each in rows], pa.string()),
        "layer": pa.array(layer, mask=layer < 0).cast(pa.int16()),
        "neuron": pa.array(one % model.width, mask=one < 0).cast(pa.int32()),
        "neurons": pa.array([len(each.intervention.neurons) for each in rows], pa.int32()),
        "draw": pa.array(draw, mask=draw < 0).cast(pa.int16()),
        "at": pa.array([each.at or None for each in rows], pa.string()),
        "value": pa.array(value, mask=np.isnan(value)),
        "frozen": pa.array([each.intervention.frozen for each in rows], pa.string()),
        "tokens": pa.array([tokens] * len(rows), pa.int64()),
    }
    for name, interval in [
        *measured.items(), *((f"{name}_change", interval) for name, interval in changed.items()),
    ]:
        parts = (interval.value_I, interval.low_I, interval.high_I)
        found |= {f"{name}{end}": _numbers(part) for end, part in zip(ENDS, parts, strict=True)}
    found["null_reason"] = pa.nulls(len(rows), pa.string())
    return assembled(INTERVENTIONS, found, {}, len(rows))


def attention_table(model: Model, scores: Tensors, sums: PathSums, most: int = 2000) -> pa.Table:
    """One row per ablated path; at most so many points of each."""
    heads = int(scores["heads"])
    neuron_I = torch.tensor([path.neuron for path in sums.paths])
    head_I = torch.tensor([path.layer * heads + path.head for path in sums.paths])
    found: dict[str, Any] = {
        "model": pa.array([model.name] * len(sums.paths)),
        "layer": pa.array((neuron_I // model.width).numpy()).cast(pa.int16()),
        "neuron": pa.array((neuron_I % model.width).numpy()).cast(pa.int32()),
        "head_layer": pa.array((head_I // heads).numpy()).cast(pa.int16()),
        "head": pa.array((head_I % heads).numpy()).cast(pa.int16()),
        "score": _numbers(scores["paths_score"]),
        "deviations": _numbers(scores["paths_deviations"]),
        "positions": pa.array([int(sums.count)] * len(sums.paths), pa.int64()),
    }
    found |= {f"mean_{name}": _numbers(mean_I) for name, mean_I in path_means(sums).items()}
    for name, pair in CORRELATED.items():
        found[f"corr_{name}"] = _numbers(path_correlation(sums, *pair))
    points_IXQ = sums.points_IXQ[:, :: -(-sums.points_IXQ.shape[1] // most)]
    every = torch.arange(len(sums.paths))
    for place, name in enumerate(QUANTITIES):
        rows_IX = points_IXQ[:, :, place].contiguous()
        found[f"points_{name}"] = _some_lists(rows_IX, every, len(every), pa.float32())
    found["null_reason"] = pa.nulls(len(every), pa.string())
    return assembled(ATTENTION, found, {}, len(every))


def heads_table(model: Model, scores: Tensors) -> pa.Table:
    """One row per head."""
    count, heads = len(scores["heads_neurons"]), int(scores["heads"])
    every = torch.arange(count)
    found: dict[str, Any] = {
        "model": pa.array([model.name] * count),
        "layer": pa.array((every // heads).numpy()).cast(pa.int16()),
        "head": pa.array((every % heads).numpy()).cast(pa.int16()),
        "neurons": pa.array(scores["heads_neurons"].numpy()).cast(pa.int32()),
        "null_deviation": _numbers(scores["heads_null_deviation"]),
    }
    for name in ("histogram", "null_histogram"):
        found[name] = _some_lists(scores[f"heads_{name}"], every, count, pa.int32())
    for end in ("top", "bottom"):
        value_HK, index_HK = scores[f"heads_{end}"], scores[f"heads_{end}_neuron"]
        some_H = value_HK.isfinite().all(1)
        index_S = every[some_H]
        for name, rows_HK, kind in (
            ("deviations", value_HK, pa.float32()),
            ("layer", index_HK // model.width, pa.int16()),
            ("neuron", index_HK % model.width, pa.int32()),
        ):
            found[f"{end}_{name}"] = _some_lists(rows_HK[some_H], index_S, count, kind)
    found["null_reason"] = pa.nulls(count, pa.string())
    return assembled(HEADS, found, {}, count)
