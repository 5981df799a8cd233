"""What the profile says about universal neurons: against the rest, by family, across seeds. Pure.

Shapes: N neurons of a reference model, U universal ones, P pairs of a neuron and its partner.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from universal_ray.features.bank import Column
from universal_ray.features.families import NONE, Membership, duplicates, family_agreement
from universal_ray.maths.statistics.comparison import (
    PUBLISHED_DIRECTIONS,
    bootstrap_interval,
    compare,
    pearson,
)

APART = 1000
"""More than any model has layers: numbers the layers of several models apart."""
REDUNDANT = 0.9
"""A neuron with both cosines to another above this duplicates it by weights."""


def profile_summary(
    statistics: dict[str, np.ndarray],
    layer_N: np.ndarray,
    universal_N: np.ndarray,
    own: Membership,
    columns: Sequence[Column],
    partners: Sequence[tuple[np.ndarray, Membership, np.ndarray]],
    not_measured: Mapping[str, str],
) -> dict[str, Any]:
    """Of one reference model; JSON-able, null where something is not defined.

    `statistics`: columns of the statistics table, NaN for null; `partners`: of every other model
    each neuron's best partner (-1 for none), its families and its layers; `not_measured`: reasons
    by statistic.
    """
    found = {
        "universal_against_others": {
            name: {
                **asdict(result := compare(statistics[name], layer_N, universal_N)),
                "direction": result.direction,
                "published_direction": PUBLISHED_DIRECTIONS.get(name),
            }
            if name not in not_measured
            else None
            for name in statistics
        },
        "not_measured": dict(not_measured),
        "statistics": {
            "sparsity~in_out_sim": pearson(statistics["sparsity"], statistics["in_out_sim"]),
            "redundant_by_weights": float((statistics["both_sim"] > REDUNDANT).mean()),
            "redundant_by_weights_universal": float(
                (statistics["both_sim"][universal_N] > REDUNDANT).mean()
            )
            if universal_N.any()
            else None,
        },
        "families": _families(layer_N, universal_N, own),
        "groups": [
            {
                "feature": columns[feature].name,
                "family": columns[feature].family,
                "neurons": len(members),
                "universal": int(universal_N[members].sum()),
            }
            for feature, members in duplicates(own).items()
        ],
        "agreement": {
            "universal": _agreement(universal_N, own, partners),
            "others": _agreement(~universal_N, own, partners),
        },
    }
    return plain_numbers(found)


def beside_peers(
    chosen_N: np.ndarray, member_N: np.ndarray, universal_N: np.ndarray, layer_N: np.ndarray
) -> dict[str, Any]:
    """Share of members among chosen universal neurons, beside the others of their layers."""
    share_L = {
        layer: member_N[(layer_N == layer) & ~universal_N].mean()
        if ((layer_N == layer) & ~universal_N).any()
        else math.nan
        for layer in np.unique(layer_N)
    }
    gain_U = np.array([float(member_N[n]) - share_L[layer_N[n]] for n in np.flatnonzero(chosen_N)])
    gain_U = gain_U[~np.isnan(gain_U)]
    low, high = bootstrap_interval(gain_U)
    return {
        "neurons": int(chosen_N.sum()),
        "members": int(member_N[chosen_N].sum()),
        "share": float(member_N[chosen_N].mean()) if chosen_N.any() else math.nan,
        "gain": float(gain_U.mean()) if len(gain_U) else math.nan,
        "gain_low": low,
        "gain_high": high,
        "share_of_others": float(member_N[~universal_N].mean())
        if not universal_N.all()
        else math.nan,
    }


def _families(
    layer_N: np.ndarray, universal_N: np.ndarray, own: Membership
) -> dict[str, Any]:
    """Share of members by family and by layer, beside random other neurons of the same layers.

    The expectation of a random neuron is exact: the share among the others of its layer.
    """
    family_N = own.member_family_N.numpy()

    def row(chosen_N: np.ndarray, member_N: np.ndarray) -> dict[str, Any]:
        return beside_peers(chosen_N, member_N, universal_N, layer_N)

    explained_N = family_N != NONE
    return {
        "explained": row(universal_N, explained_N),
        "unexplained": row(universal_N, own.unexplained_N.numpy()),
        "by_family": {
            name: row(universal_N, family_N == index)
            for index, name in enumerate(own.families)
            if (family_N == index).any()
        },
        "by_layer": [
            {"layer": int(layer), **row(universal_N & (layer_N == layer), explained_N)}
            for layer in np.unique(layer_N)
        ],
    }


def _agreement(
    chosen_N: np.ndarray,
    own: Membership,
    partners: Sequence[tuple[np.ndarray, Membership, np.ndarray]],
) -> dict[str, Any]:
    """Over the pairs of some neurons with their partners in all other models together."""
    family_P, partner_P, families, layers = [], [], [], []
    offset = 0
    for place, (partner_N, other, layer_M) in enumerate(partners):
        has_N = chosen_N & (partner_N != NONE)
        family_P.append(own.member_family_N.numpy()[has_N])
        partner_P.append(partner_N[has_N] + offset)
        families.append(other.member_family_N.numpy())
        layers.append(layer_M + APART * place)
        offset += len(layer_M)
    return asdict(
        family_agreement(
            np.concatenate(family_P),
            np.concatenate(partner_P),
            np.concatenate(families),
            np.concatenate(layers),
        )
    )


def plain_numbers(value: Any) -> Any:
    """JSON has no NaN."""
    if isinstance(value, dict):
        return {key: plain_numbers(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [plain_numbers(entry) for entry in value]
    if isinstance(value, torch.Tensor | np.generic):
        value = value.item()
    return None if isinstance(value, float) and math.isnan(value) else value
