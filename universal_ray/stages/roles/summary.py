"""What roles say about a study: how many, at what depth, in which seeds, and what they do. Pure.

Shapes: N neurons of a model, I interventions, R rows of tokens, L layers, S models.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from universal_ray.maths.roles.logits import (
    counts_by_layer,
    percentiles_by_layer,
    spread_over_seeds,
)
from universal_ray.maths.statistics.bootstrap import Bootstrap, Interval
from universal_ray.models.interventions import Effects
from universal_ray.stages.profile.summary import beside_peers
from universal_ray.stages.roles.declare import (
    CANDIDATE,
    CONTROL,
    FREQUENT,
    RANDOM,
    SETS,
    SWEEP,
    UNIVERSAL,
    Declaration,
)
from universal_ray.stages.roles.schemas import ROLE_NEEDS

PERCENTILES = (5.0, 10.0, 50.0, 90.0, 95.0)


def model_summary(
    has: dict[str, Tensor | None],
    scores: dict[str, Tensor],
    statistics: dict[str, Tensor],
    missing: dict[str, str],
    layers: int,
) -> dict[str, Any]:
    """Neurons of every role by layer, those that the papers' rules for entropy neurons put first,
    and percentiles within layers of what roles are told from; null where not measured, by what is
    `missing`.
    """
    return {
        "roles": {
            name: None
            if has_N is None
            else {
                "neurons": int(has_N.sum()),
                "by_layer": counts_by_layer(has_N, layers).long().tolist(),
            }
            for name, has_N in has.items()
        },
        "not_measured": {name: missing[ROLE_NEEDS[name]] for name in has if has[name] is None},
        "entropy_by_rule": {
            "least vocab_var (arXiv 2401.12181)": _first(
                "entropy_rank", scores, statistics, layers
            ),
            "largest null_share (arXiv 2406.16254)": _first(
                "null_share_rank", scores, statistics, layers
            ),
        },
        "percentiles": list(PERCENTILES),
        "percentiles_by_layer": {
            name: percentiles_by_layer(statistics[name], layers, PERCENTILES).tolist()
            for name in ("vocab_kurt", "vocab_skew", "vocab_var")
        },
    }


FIRST = 6
"""Neurons told of each rule, as many as the papers show."""


def _first(
    rank: str, scores: dict[str, Tensor], statistics: dict[str, Tensor], layers: int
) -> list[dict[str, Any]]:
    """Figures of the first neurons by a rank, and whether each is a candidate."""
    rank_N, chosen = scores[rank], set(scores["candidates"].tolist())
    width = len(rank_N) // layers
    index_R = torch.nonzero(rank_N >= 0).flatten()
    return [
        {
            "layer": neuron // width,
            "neuron": neuron % width,
            "vocab_var": float(statistics["vocab_var"][neuron]),
            "null_share": float(scores["null_share"][neuron]),
            "candidate": neuron in chosen,
        }
        for neuron in index_R[rank_N[index_R].argsort()][:FIRST].tolist()
    ]


def seeds_summary(has_S: Sequence[dict[str, Tensor | None]], layers: int) -> dict[str, Any]:
    """Mean and spread over models of the counts by layer; null where one was not measured."""
    found: dict[str, Any] = {}
    for name in has_S[0]:
        measured = [has_N for has in has_S if (has_N := has[name]) is not None]
        found[name] = None
        if len(measured) == len(has_S):
            counts_SL = torch.stack([counts_by_layer(has_N, layers) for has_N in measured])
            spread = spread_over_seeds(counts_SL)
            found[name] = {kind: values_L.tolist() for kind, values_L in spread.items()}
    return found


def overlap(
    has: dict[str, Tensor | None], universal_N: np.ndarray, layer_N: np.ndarray
) -> dict[str, Any]:
    """Of every role the share among universal neurons, beside the others of their layers; null
    where not measured."""
    return {
        name: None
        if has_N is None
        else beside_peers(universal_N, has_N.numpy(), universal_N, layer_N)
        for name, has_N in has.items()
    }


def next_tokens(
    has: dict[str, Tensor | None], responses: dict[str, Tensor], promotes_N: Tensor
) -> dict[str, Any]:
    """Do neurons fire where the true next token is in the class that they promote or suppress?"""
    role_R, correlation_R = responses["role"], responses["next_correlation"]
    found = {}
    for name in ("prediction", "suppression", "partition"):
        has_N = has[name]
        assert has_N is not None  # told from weights alone
        some_R = has_N[role_R] & ~correlation_R.isnan()
        for effect, wanted_R in (
            ("promotes", promotes_N[role_R]), ("suppresses", ~promotes_N[role_R]),
        ):
            value_X = correlation_R[some_R & wanted_R]
            found[f"{name}, {effect}"] = {
                "neurons": len(value_X),
                "fire_before_class": float((value_X > 0).double().mean()),
                "mean_correlation": float(value_X.mean()),
            }
    return found


def sweeps(declared: Declaration, measured: dict[str, Interval]) -> dict[str, Any]:
    """How far a sweep moves each measure, largest minus smallest mean, averaged over a group."""
    found: dict[str, Any] = {}
    for group in (CANDIDATE, FREQUENT, CONTROL):
        moved: dict[int, list[int]] = {}
        for place, each in enumerate(declared.interventions):
            if each.kind == SWEEP and each.group == group:
                moved.setdefault(each.neuron, []).append(place)
        found[group] = {"neurons": len(moved)}
        for name in ("scale", "entropy", "loss", "reciprocal_rank"):
            ranges = [
                float(measured[name].value_I[places].max() - measured[name].value_I[places].min())
                for places in moved.values()
            ]
            found[group][name] = float(np.mean(ranges)) if ranges else None
    return found


def ablated_sets(
    declared: Declaration, effects: Effects, bootstrap: Bootstrap
) -> list[dict[str, Any]]:
    """Change of loss and KL with universal neurons ablated, and by how much more than with random
    ones of the same layers; the difference is taken row by row.
    """
    found = []
    rows = declared.interventions
    for place, each in enumerate(rows):
        if each.kind != SETS or each.group != UNIVERSAL:
            continue
        random = [
            index
            for index, other in enumerate(rows)
            if (other.kind, other.group, other.layer, other.at)
            == (SETS, RANDOM, each.layer, each.at)
        ]
        entry: dict[str, Any] = {
            "at": each.at,
            "layer": each.layer if each.layer >= 0 else None,
            "neurons": len(each.intervention.neurons),
        }
        for name in ("loss", "kl"):
            sums_IR = effects.sums[name] - effects.sums[name][:1]
            random_1R = sums_IR[random].mean(0, keepdim=True)
            three_IR = torch.cat([sums_IR[place : place + 1], random_1R])
            three_IR = torch.cat([three_IR, three_IR[:1] - three_IR[1:]])
            interval = bootstrap.mean(three_IR, effects.count_R)
            for index, what in enumerate(("universal", "random", "difference")):
                entry[f"{name}_{what}"] = {
                    "mean": float(interval.value_I[index]),
                    "low": float(interval.low_I[index]),
                    "high": float(interval.high_I[index]),
                }
        found.append(entry)
    return found
