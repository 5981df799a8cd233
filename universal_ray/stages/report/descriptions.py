"""The table of descriptions, and what they say about a model: how many hold, and whether those of
universal neurons hold for their partners in other models too.

Shapes: N neurons of a model, S other models.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from universal_ray.features.bank import Column
from universal_ray.features.features import CURRENT, PREVIOUS
from universal_ray.maths.statistics.comparison import bootstrap_interval
from universal_ray.maths.statistics.descriptions import AND, NONE, NOT, OR
from universal_ray.stages.profile.artifacts import Bank
from universal_ray.stages.report.artifacts import LayerDescriptions
from universal_ray.stages.report.earlier import Story
from universal_ray.stages.report.plan import Described
from universal_ray.stages.report.schemas import DESCRIPTIONS, SCORES
from universal_ray.stages.report.tables import name_of

JOINS = {OR: "or", AND: "and", NOT: "but not"}
OWN_IDS = 8
"""Ids of a neuron's own set that its description names."""
NO_DESCRIPTION = "nothing that was tried goes with its activations on the half that describes"


def texts(found: LayerDescriptions, bank: Bank, neuron: int) -> tuple[list[str], list[str]]:
    """Terms of a neuron's description, and how each joins those before it."""
    terms, joins = [], []
    for term, join in zip(
        found.fitted.term_DK[neuron].tolist(), found.fitted.join_DK[neuron].tolist(), strict=True
    ):
        if term != NONE:
            terms.append(_term(term, found.fitted.ids_D2J[neuron], bank))
            joins.append(JOINS.get(join, ""))
    return terms, joins[1:]


def _term(term: int, ids_2J: Tensor, bank: Bank) -> str:
    columns = bank.columns[:-1]
    if term < len(columns):
        return _about(columns[term])
    before = term - len(columns)
    ids = ids_2J[before][ids_2J[before] != NONE].tolist()
    shown = [bank.vocabulary.shown[key] for key in ids[:OWN_IDS]]
    more = f" and {len(ids) - OWN_IDS} more" if len(ids) > OWN_IDS else ""
    what = "the token before is one of" if before else "the token is one of"
    return f"{what}: {' | '.join(shown)}{more}"


def _about(column: Column) -> str:
    where = {CURRENT: "", PREVIOUS: "of the token before: "}[column.looks_at]
    return f"{where}{column.description} ({column.name})"


def sentence(terms: Sequence[str], joins: Sequence[str], story: Story, neuron: int) -> str:
    """A description for people, from its terms and what else is known of the neuron."""
    told = terms[0]
    for join, term in zip(joins, terms[1:], strict=True):
        told = f"({told}) {join} ({term})"
    parts = [f"Fires on: {told}."]
    roles = story.roles[neuron]
    effect, of = story.effects[neuron], story.classes[neuron]
    if effect and {"prediction", "suppression", "partition"} & {*roles}:
        parts.append(f"{effect.capitalize()} {of} as the next token.")
    if roles:
        parts.append(f"Roles: {', '.join(roles)}.")
    return " ".join(parts)


def descriptions_table(
    each: Described,
    found: LayerDescriptions,
    partners: Mapping[str, Tensor],
    transfer: Mapping[str, tuple[Tensor, Tensor]],
    *,
    bank: Bank,
    story: Story,
    least: float,
) -> pa.Table:
    """One row per neuron of one model.

    `partners`: by name of another model, each neuron's partner [N], -1 for none; `transfer`: as
    well, r [N] of what the descriptions say with the partners, and with neurons that are none;
    `least`: score below which a description is withheld.
    """
    model, scores = each.model, found.scores
    rows = []
    for neuron in range(model.neurons):
        terms, joins = texts(found, bank, neuron)
        pearson = float(scores.pearson_D[neuron])
        described = bool(terms) and pearson >= least
        reason = None
        if not terms:
            reason = NO_DESCRIPTION
        elif not described:
            reason = f"its score is below {least}, or has no value: withheld"
        row: dict[str, Any] = {
            "id": name_of(model, neuron),
            "model": model.name,
            "layer": neuron // model.width,
            "neuron": neuron % model.width,
            "text": sentence(terms, joins, story, neuron) if described else None,
            "null_reason": reason,
            "terms": terms,
            "joins": joins,
            "token_ids": [key for key in found.fitted.ids_D2J[neuron, 0].tolist() if key != NONE],
            "score_fitted": found.fitted.correlation_D[neuron],
            "threshold": found.fitted.threshold_D[neuron],
            "inside": scores.inside_D[neuron],
            "partners": [_partner(each, partners, other.name, neuron) for other in each.others],
            "transfer": [transfer[other.name][0][neuron] for other in each.others],
            "transfer_control": [transfer[other.name][1][neuron] for other in each.others],
        }
        for name, field in zip(SCORES, ("pearson_D", "auprc_D", "f1_D"), strict=True):
            row[name] = getattr(scores, field)[neuron]
            row[f"{name}_shuffled"] = getattr(found.shuffled, field)[neuron]
        if not terms:
            row |= dict.fromkeys(("threshold", "inside", *SCORES))
            row |= dict.fromkeys(f"{name}_shuffled" for name in SCORES)
        rows.append({name: _plain(value) for name, value in row.items()})
    return pa.Table.from_pylist(rows, schema=DESCRIPTIONS)


def _partner(
    each: Described, partners: Mapping[str, Tensor], name: str, neuron: int
) -> str | None:
    other = next(other for other in each.others if other.name == name)
    flat = int(partners[name][neuron])
    return None if flat == NONE else name_of(other, flat)


def _plain(value: Any) -> Any:
    """Numbers of tensors as such; None for NaN."""
    if isinstance(value, list):
        return [_plain(entry) for entry in value]
    if isinstance(value, Tensor):
        value = value.item()
    return None if isinstance(value, float) and np.isnan(value) else value


def descriptions_summary(
    name: str,
    found: LayerDescriptions,
    transfer: Sequence[tuple[Tensor, Tensor]],
    universal_N: np.ndarray,
    least: float,
) -> dict[str, Any]:
    """Of one model: how many neurons have a description that holds, how well, and how far it holds
    for their partners, beside neurons that are none; universal neurons beside the others.
    """
    pearson_N = found.scores.pearson_D.numpy()
    described_N = np.nan_to_num(pearson_N, nan=-np.inf) >= least
    shuffled_N = found.shuffled.pearson_D.numpy()
    partner_N, control_N = (
        torch.stack([pair[part] for pair in transfer]).nanmean(0).numpy() for part in (0, 1)
    )
    gain_N = partner_N - control_N
    groups = {"universal": universal_N, "others": ~universal_N}
    told = {"model": name, "least": least}
    for group, mine_N in groups.items():
        some_N = mine_N & described_N
        low, high = bootstrap_interval(gain_N[some_N & ~np.isnan(gain_N)])
        told[group] = {
            "neurons": int(mine_N.sum()),
            "described": int(some_N.sum()),
            "score": _mean(pearson_N[some_N]),
            "score_shuffled": _mean(shuffled_N[some_N]),
            "transfer": _mean(partner_N[some_N]),
            "transfer_control": _mean(control_N[some_N]),
            "gain": _mean(gain_N[some_N]),
            "gain_low": low,
            "gain_high": high,
            "kept": _mean((partner_N / pearson_N)[some_N]),
        }
    return told


def _mean(values_X: np.ndarray) -> float:
    """Of those that have a value; NaN where none has."""
    some_X = values_X[~np.isnan(values_X)]
    return float(some_X.mean()) if len(some_X) else float("nan")
