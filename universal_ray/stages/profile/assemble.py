"""The last step of the profile: scored layers to the tables of all models and their summary."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from universal_ray.corpus.rows import TokenCorpus
from universal_ray.features.families import NONE, Membership, membership
from universal_ray.features.vocabulary import Vocabulary
from universal_ray.maths.statistics.variance_reduction import why_none
from universal_ray.planning.items import Model
from universal_ray.stages.correlations.schemas import NEURONS
from universal_ray.stages.profile.reduce import ProfileOrder
from universal_ray.stages.profile.schemas import ADDED, NUMBERS, STATISTICS
from universal_ray.stages.profile.summary import profile_summary
from universal_ray.stages.profile.tables import (
    Tensors,
    bank_table,
    features_table,
    join_layers,
    statistics_table,
    taxonomy_table,
)
from universal_ray.storage import checked, finished
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
from universal_ray.storage.reasons import not_measured, why_null
from universal_ray.storage.store import Store


@dataclass(frozen=True)
class Texts:
    """What tokens are read back from."""

    corpus: TokenCorpus
    vocabulary: Vocabulary


def assemble_profile(
    order: ProfileOrder, references: Sequence[Model], listed: int, texts: Texts, fingerprint: str
) -> None:
    """Write the draft of the profile's tables, and of `neurons.parquet` and `summary.json` with
    what it adds to them.

    `fingerprint`: of what they are made from.
    """
    store, models, columns = Store(order.store_url), order.plan.models, order.columns
    draft = Draft(store, PROFILE, fingerprint)
    summary = finished.get_json(store, SUMMARY_PATH)
    summary.pop("roles", None)  # told of what was
    neurons = finished.get_table(store, NEURONS_PATH, NEURONS.names)
    partners = _partners(store, models)
    members: dict[str, Membership] = {}
    missing: dict[str, dict[str, str]] = {}
    statistics, features = [], []
    for model in models:
        found = _found(store, order, model)
        members[model.name] = membership(found["reduction"], columns)
        weights = checked.get_tensors(store, order.weights_path(model))
        missing[model.name] = not_measured(weights)
        statistics.append(statistics_table(model, found, weights, texts.corpus, texts.vocabulary))
        features.append(features_table(model, found, columns, listed))
        support_F = found["support"]
    tokens = float(support_F[-1])
    reasons = [why_none(tokens, count, order.minimum_support) for count in support_F.tolist()[:-1]]
    taxonomy, added = [], []
    for model, table in zip(models, statistics, strict=True):
        is_universal = pa.nulls(model.neurons, pa.bool_())
        if model in references:
            mine = neurons.filter(pc.equal(neurons["model"], model.name))
            is_universal = mine["is_universal"].combine_chunks()
        others = partners[model.name]
        told = taxonomy_table(
            model,
            members[model.name],
            columns,
            is_universal,
            [(partner_N, members[name]) for name, partner_N in others.items()],
        )
        taxonomy.append(told)
        if model not in references:
            continue
        universal = pc.fill_null(is_universal, False).to_numpy(zero_copy_only=False)
        for column in ADDED:
            source = table if column.name in STATISTICS.names else told
            mine = mine.append_column(column, source[column.name])
        added.append(mine)
        entry = next(each for each in summary["references"] if each["model"] == model.name)
        null = why_null(STATISTICS, missing[model.name])
        entry["profile"] = profile_summary(
            {name: _numbers(table[name]) for name in NUMBERS},
            _layers(model),
            universal,
            members[model.name],
            columns,
            [
                (partner_N, members[name], _layers(_named(models, name)))
                for name, partner_N in others.items()
            ],
            {name: null[name] for name in NUMBERS if name in null},
        )
    summary["profile"] = {
        "tokens": order.plan.tokens,
        "tokens_counted": int(tokens),
        "subsets": list(order.plan.subsets),
        "features": len(columns),
        "convention": order.convention,
        "features_without_tokens_of_their_own": order.bank.left_out,
    }
    width = max(model.width for model in models)
    draft.put_table(STATISTICS_PATH, pa.concat_tables(statistics), width)
    draft.put_table(FEATURES_PATH, pa.concat_tables(features), width)
    draft.put_table(TAXONOMY_PATH, pa.concat_tables(taxonomy), width)
    draft.put_table(BANK_PATH, bank_table(columns, support_F, [*reasons, None]), width)
    draft.put_table(NEURONS_PATH, pa.concat_tables(added), width)
    draft.put_json(SUMMARY_PATH, summary)
    draft.finish()


def _found(store: Store, order: ProfileOrder, model: Model) -> Tensors:
    return join_layers(
        [
            checked.get_tensors(store, order.layer_path(model, layer))
            for layer in range(model.layers)
        ]
    )


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


