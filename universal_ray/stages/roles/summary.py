"""The last step of the roles: scores, responses and effects to tables, and what roles say about a
study: how many, at what depth, in which seeds, and what they do.

Shapes: N neurons of a model, I interventions, R rows of tokens, L layers, S models.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from universal_ray.maths.roles.logits import (
    counts_by_layer,
    percentiles_by_layer,
    spread_over_seeds,
)
from universal_ray.maths.statistics.comparison import beside_peers
from universal_ray.planning.items import Model
from universal_ray.stages.profile.artifacts import Bank
from universal_ray.stages.roles.artifacts import Roles
from universal_ray.stages.roles.declare import (
    CANDIDATE,
    CONTROL,
    CUT,
    FREQUENT,
    NAMED,
    RANDOM,
    SETS,
    SWEEP,
    UNIVERSAL,
    Declaration,
    universal,
    universality,
)
from universal_ray.stages.roles.reduce import Known, Measured, read_known, read_measured
from universal_ray.stages.roles.schemas import (
    AT_BOS,
    ATTENTION,
    HEADS,
    INTERVENED,
    INTERVENTIONS,
    ROLE_NEEDS,
)
from universal_ray.stages.roles.tables import (
    attention_table,
    heads_table,
    interventions_table,
    roles_table,
)
from universal_ray.storage import finished
from universal_ray.storage.columns import plain_numbers
from universal_ray.storage.finished import (
    ATTENTION_PATH,
    HEADS_PATH,
    INTERVENTIONS_PATH,
    ROLES_PATH,
    SUMMARY_PATH,
    Draft,
)
from universal_ray.storage.reasons import absent
from universal_ray.storage.store import Store

TABLE_PATHS = (ROLES_PATH, INTERVENTIONS_PATH, ATTENTION_PATH, HEADS_PATH)
PERCENTILES = (5.0, 10.0, 50.0, 90.0, 95.0)


@dataclass(frozen=True, kw_only=True)
class _Told:
    """What is told of one model."""

    has: dict[str, Tensor | None]
    tables: dict[str, pa.Table]
    """its rows, by path"""
    summary: dict[str, Any]
    reference: dict[str, Any] | None
    """and what else of a reference model"""


def assemble(recipe: Roles, declarations: dict[str, Declaration], fingerprint: str) -> None:
    """Write the draft of the tables of roles, and of `summary.json` with what they add to it.

    `declarations`: by name of a model that was intervened on, what was done; `fingerprint`: of what
    the tables are made from.
    """
    store, plan = Store(recipe.store_url), recipe.plan
    bank = recipe.profile.read_bank(store)
    draft = Draft(store, finished.ROLES, fingerprint)
    summary = finished.get_json(store, SUMMARY_PATH)
    summary.pop("descriptions", None)  # told of what was
    told = [_told(store, recipe, bank, m, declarations.get(m.name)) for m in plan.models]
    shapes = {(model.layers, model.width) for model in plan.models}
    seeds = None
    if len(shapes) == 1:
        seeds = seeds_summary([each.has for each in told], plan.models[0].layers)
    summary["roles"] = plain_numbers(
        {
            "tokens_intervened": plan.tokens,
            "models": [each.summary for each in told],
            "seeds": seeds,
            "not_measured": {} if seeds else {"seeds": "models are not of one shape"},
            "references": [each.reference for each in told if each.reference],
        }
    )
    width = max(model.width for model in plan.models)
    for path in TABLE_PATHS:
        parts = [each.tables[path] for each in told if path in each.tables]
        draft.put_table(path, pa.concat_tables(parts), width)
    draft.put_json(SUMMARY_PATH, summary)
    draft.finish()


def _told(
    store: Store, recipe: Roles, bank: Bank, model: Model, declared: Declaration | None
) -> _Told:
    known = read_known(store, recipe, bank, model)
    scores, missing = known.scores, dict(known.scores.not_measured)
    measured = None
    if declared is not None:
        measured = read_measured(store, recipe, bank, model, declared)
    else:
        missing[INTERVENED] = recipe.plan.untouched.get(
            model.identity, "reference models alone are intervened on"
        )
    is_universal, tables, reference = pa.nulls(model.neurons, pa.bool_()), {}, None
    if model in recipe.plan.references:
        is_universal = universality(store, model)
        tables = _intervened(known, measured, missing)
        reference = {
            "model": model.name,
            **_measured_summary(measured, missing),
            **_reference_summary(known, universal(is_universal).numpy()),
        }
    tables[ROLES_PATH] = roles_table(
        known, bank, is_universal, measured.mediated if measured else None, missing
    )
    tables[HEADS_PATH] = (
        absent(HEADS, model.name, missing[AT_BOS])
        if scores.attention is None
        else heads_table(model, scores.attention)
    )
    summary = {"model": model.name, **model_summary(known)}
    return _Told(has=known.has, tables=tables, summary=summary, reference=reference)


def _intervened(
    known: Known, measured: Measured | None, missing: dict[str, str]
) -> dict[str, pa.Table]:
    """Rows of what was done to a reference model, else the one that says why nothing was."""
    name = known.model.name
    if measured is None:
        return {
            INTERVENTIONS_PATH: absent(INTERVENTIONS, name, missing[INTERVENED]),
            ATTENTION_PATH: absent(ATTENTION, name, missing[INTERVENED]),
        }
    attention = known.scores.attention
    return {
        INTERVENTIONS_PATH: interventions_table(
            known.model, measured, known.scores.named_R
        ),
        ATTENTION_PATH: absent(ATTENTION, name, measured.declared.left_out[CUT])
        if attention is None or measured.paths is None
        else attention_table(known.model, attention, measured.paths),
    }


def _measured_summary(measured: Measured | None, missing: dict[str, str]) -> dict[str, Any]:
    if measured is None:
        return {
            "not_measured": {INTERVENED: missing[INTERVENED]},
            "sweeps": None,
            "sets": None,
        }
    return {
        "not_measured": measured.declared.left_out,
        "sweeps": sweeps(measured),
        "sets": ablated_sets(measured) or None,
    }


def _reference_summary(known: Known, universal_N: np.ndarray) -> dict[str, Any]:
    layer_N = np.repeat(np.arange(known.model.layers), known.model.width)
    return {
        "overlap": overlap(known.has, universal_N, layer_N),
        "next_token": next_tokens(known),
    }


def model_summary(known: Known) -> dict[str, Any]:
    """Neurons of every role by layer, those that the papers' rules for entropy neurons put first,
    and percentiles within layers of what roles are told from; null where not measured, with the
    reason.
    """
    layers, weights, entropy = known.model.layers, known.weights, known.scores.entropy
    missing = known.scores.not_measured
    statistics = {
        "vocab_kurt": weights.vocab_kurt,
        "vocab_skew": weights.vocab_skew,
        "vocab_var": weights.vocab_var,
    }
    return {
        "roles": {
            name: None
            if has_N is None
            else {
                "neurons": int(has_N.sum()),
                "by_layer": counts_by_layer(has_N, layers).long().tolist(),
            }
            for name, has_N in known.has.items()
        },
        "not_measured": {
            name: missing[ROLE_NEEDS[name]] for name, has_N in known.has.items() if has_N is None
        },
        "entropy_by_rule": {
            "least vocab_var (arXiv 2401.12181)": _first(known, entropy.entropy_rank_N),
            "largest null_share (arXiv 2406.16254)": _first(known, entropy.null_share_rank_N),
        },
        "percentiles": list(PERCENTILES),
        "percentiles_by_layer": {
            name: percentiles_by_layer(value_N, layers, PERCENTILES).tolist()
            for name, value_N in statistics.items()
        },
    }


FIRST = 6
"""Neurons told of each rule, as many as the papers show."""


def _first(known: Known, rank_N: Tensor) -> list[dict[str, Any]]:
    """Figures of the first neurons by a rank, and whether each is a candidate."""
    entropy, width = known.scores.entropy, known.model.width
    chosen = set(entropy.candidates_R.tolist())
    index_R = torch.nonzero(rank_N >= 0).flatten()
    return [
        {
            "layer": neuron // width,
            "neuron": neuron % width,
            "vocab_var": float(known.weights.vocab_var[neuron]),
            "null_share": float(entropy.null_share_N[neuron]),
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


def next_tokens(known: Known) -> dict[str, Any]:
    """Do neurons fire where the true next token is in the class that they promote or suppress?"""
    promotes_N = known.scores.logits.mean_difference_N > 0
    role_R = known.responses.found.role_R
    correlation_R = known.responses.found.next_correlation_R
    found = {}
    for name in ("prediction", "suppression", "partition"):
        has_N = known.has[name]
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


def sweeps(measured: Measured) -> dict[str, Any]:
    """How far a sweep moves each measure, largest minus smallest mean, averaged over a group."""
    found: dict[str, Any] = {}
    for group in (CANDIDATE, FREQUENT, CONTROL, NAMED):
        moved: dict[int, list[int]] = {}
        for place, each in enumerate(measured.declared.interventions):
            if each.kind == SWEEP and each.group == group:
                moved.setdefault(each.neuron, []).append(place)
        found[group] = {"neurons": len(moved)}
        for name in ("scale", "entropy", "loss", "reciprocal_rank"):
            mean_I = measured.means[name].value_I
            ranges = [
                float(mean_I[places].max() - mean_I[places].min()) for places in moved.values()
            ]
            found[group][name] = float(np.mean(ranges)) if ranges else None
    return found


def ablated_sets(measured: Measured) -> list[dict[str, Any]]:
    """Change of loss and KL with universal neurons ablated, and by how much more than with random
    ones of the same layers; the difference is taken row by row.
    """
    found = []
    rows, effects = measured.declared.interventions, measured.effects
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
            interval = measured.bootstrap.mean(three_IR, effects.count_R)
            for index, what in enumerate(("universal", "random", "difference")):
                entry[f"{name}_{what}"] = {
                    "mean": float(interval.value_I[index]),
                    "low": float(interval.low_I[index]),
                    "high": float(interval.high_I[index]),
                }
        found.append(entry)
    return found
