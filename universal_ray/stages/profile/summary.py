"""The last step of the profile: scored layers to the tables of all models, and what they say about
universal neurons: against the rest, by family, across seeds.

Shapes: N neurons of a reference model, U universal ones, P pairs of a neuron and its partner.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from universal_ray.corpus.rows import TokenCorpus
from universal_ray.features.bank import Column
from universal_ray.features.families import (
    NONE,
    Membership,
    duplicates,
    family_agreement,
    membership,
)
from universal_ray.maths.statistics.comparison import (
    PUBLISHED_DIRECTIONS,
    beside_peers,
    compare,
    pearson,
)
from universal_ray.maths.statistics.variance_reduction import why_none
from universal_ray.planning.items import Model
from universal_ray.stages.correlations.schemas import NEURONS
from universal_ray.stages.profile.artifacts import Profile, WeightStatistics
from universal_ray.stages.profile.schemas import ADDED, NUMBERS, STATISTICS, WEIGHTS
from universal_ray.stages.profile.tables import (
    bank_table,
    features_table,
    join_layers,
    statistics_table,
    taxonomy_table,
)
from universal_ray.storage import finished
from universal_ray.storage.columns import plain_numbers
from universal_ray.storage.finished import (
    BANK_PATH,
    FEATURES_PATH,
    NEURONS_PATH,
    PAIRS_PATH,
    PROFILE,
    STATISTICS_PATH,
    SUMMARY_PATH,
    TAXONOMY_PATH,
    Draft,
)
from universal_ray.storage.reasons import why_null
from universal_ray.storage.store import Store

APART = 1000
"""More than any model has layers: numbers the layers of several models apart."""
REDUNDANT = 0.9
"""A neuron with both cosines to another above this duplicates it by weights."""

OF_WEIGHTS = ("sparsity~in_out_sim", "redundant_by_weights", "redundant_by_weights_universal")


def assemble(
    recipe: Profile, references: Sequence[Model], listed: int, corpus: TokenCorpus, fingerprint: str
) -> None:
    """Write the draft of the profile's tables, and of `neurons.parquet` and `summary.json` with
    what it adds to them.

    `listed`: features of every neuron; `fingerprint`: of what the tables are made from.
    """
    store = Store(recipe.store_url)
    bank, draft = recipe.read_bank(store), Draft(store, PROFILE, fingerprint)
    summary = finished.get_json(store, SUMMARY_PATH)
    for later in ("roles", "descriptions"):
        summary.pop(later, None)  # told of what was
    neurons = finished.get_table(store, NEURONS_PATH, NEURONS.names)
    partners = _partners(store, recipe.models)
    members: dict[str, Membership] = {}
    missing: dict[str, dict[str, str]] = {}
    weights: WeightStatistics | None
    statistics, features = [], []
    for model in recipe.models:
        found = join_layers(
            [recipe.read_layer(store, model, layer) for layer in range(model.layers)]
        )
        members[model.name] = membership(found.reduction, bank.columns)
        if recipe.weightless is None:
            weights = recipe.read_weights(store, model)
            absent = weights.not_measured
        else:
            weights, absent = None, {WEIGHTS: recipe.weightless}
        missing[model.name] = why_null(STATISTICS, absent)
        statistics.append(
            statistics_table(model, found, weights, absent, corpus, bank.vocabulary)
        )
        features.append(features_table(model, found, bank.columns, listed))
        support_F = found.support
    tokens = float(support_F[-1])
    reasons = [why_none(tokens, n, recipe.minimum_support) for n in support_F.tolist()[:-1]]
    taxonomy, added = [], []
    for model, table in zip(recipe.models, statistics, strict=True):
        is_universal = pa.nulls(model.neurons, pa.bool_())
        if model in references:
            mine = neurons.filter(pc.equal(neurons["model"], model.name))
            is_universal = mine["is_universal"].combine_chunks()
        others = partners[model.name]
        told = taxonomy_table(
            model,
            members[model.name],
            bank.columns,
            is_universal,
            [(partner_N, members[name]) for name, partner_N in others.items()],
        )
        taxonomy.append(told)
        if model not in references:
            continue
        for column in ADDED:
            source = table if column.name in STATISTICS.names else told
            mine = mine.append_column(column, source[column.name])
        added.append(mine)
        entry = next(each for each in summary["references"] if each["model"] == model.name)
        null = missing[model.name]
        entry["profile"] = profile_summary(
            {name: _numbers(table[name]) for name in NUMBERS},
            _layers(model),
            pc.fill_null(is_universal, False).to_numpy(zero_copy_only=False),
            members[model.name],
            bank.columns,
            [
                (partner_N, members[name], _layers(_named(recipe.models, name)))
                for name, partner_N in others.items()
            ],
            {name: null[name] for name in NUMBERS if name in null},
        )
    summary["profile"] = {
        "tokens": recipe.tokens,
        "tokens_counted": int(tokens),
        "subsets": list(recipe.subsets),
        "features": len(bank.columns),
        "convention": recipe.convention,
        "features_without_tokens_of_their_own": bank.left_out,
    }
    width = max(model.width for model in recipe.models)
    draft.put_table(STATISTICS_PATH, pa.concat_tables(statistics), width)
    draft.put_table(FEATURES_PATH, pa.concat_tables(features), width)
    draft.put_table(TAXONOMY_PATH, pa.concat_tables(taxonomy), width)
    draft.put_table(BANK_PATH, bank_table(bank.columns, support_F, [*reasons, None]), width)
    draft.put_table(NEURONS_PATH, pa.concat_tables(added), width)
    draft.put_json(SUMMARY_PATH, summary)
    draft.finish()


def _named(models: Sequence[Model], name: str) -> Model:
    return next(model for model in models if model.name == name)


def _layers(model: Model) -> np.ndarray:
    return np.repeat(np.arange(model.layers), model.width)


def _numbers(column: pa.ChunkedArray) -> np.ndarray:
    return column.fill_null(float("nan")).to_numpy()


def _partners(store: Store, models: Sequence[Model]) -> dict[str, dict[str, np.ndarray]]:
    """By model and other model: every neuron's best partner as a flat index, -1 for none."""
    names = ["model", "other", "max_layer", "max_neuron"]
    pairs = finished.get_table(store, PAIRS_PATH, names)
    found: dict[str, dict[str, np.ndarray]] = {model.name: {} for model in models}
    keys = dict.fromkeys(zip(pairs["model"].to_pylist(), pairs["other"].to_pylist(), strict=True))
    for name, other in keys:
        mine = pairs.filter(
            pc.and_(pc.equal(pairs["model"], name), pc.equal(pairs["other"], other))
        )
        width = _named(models, other).width
        flat = pc.add(
            pc.multiply(pc.cast(mine["max_layer"], pa.int64()), width),
            pc.cast(mine["max_neuron"], pa.int64()),
        )
        found[name][other] = pc.fill_null(flat, NONE).to_numpy()
    return found


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
        "statistics": _of_weights(statistics, universal_N)
        if "both_sim" not in not_measured
        else dict.fromkeys(OF_WEIGHTS),
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


def _of_weights(
    statistics: Mapping[str, np.ndarray], universal_N: np.ndarray
) -> dict[str, float | None]:
    """`OF_WEIGHTS` by name."""
    redundant_N = statistics["both_sim"] > REDUNDANT
    found = (
        pearson(statistics["sparsity"], statistics["in_out_sim"]),
        float(redundant_N.mean()),
        float(redundant_N[universal_N].mean()) if universal_N.any() else None,
    )
    return dict(zip(OF_WEIGHTS, found, strict=True))


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
