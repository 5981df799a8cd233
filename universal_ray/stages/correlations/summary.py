"""The last step of the correlations: reduced pairs to the published tables and their summary."""

from collections import Counter, defaultdict
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from universal_ray.config.study import ModelsConfig
from universal_ray.maths.moments.shift import SHIFTED
from universal_ray.planning.items import Model
from universal_ray.planning.names import short_names
from universal_ray.stages.correlations.artifacts import Matched, Reduction
from universal_ray.stages.correlations.partners import anchors, mutual_best, partners
from universal_ray.stages.correlations.persistence import persistence
from universal_ray.stages.correlations.plan import Plan
from universal_ray.stages.correlations.published import published
from universal_ray.stages.correlations.reduce import read_pair
from universal_ray.stages.correlations.similarity_table import both_ways, similarity_table
from universal_ray.stages.correlations.tables import neuron_table, pair_table, with_anchors
from universal_ray.storage import artifacts
from universal_ray.storage.finished import (
    CORRELATIONS,
    NEURONS_PATH,
    PAIRS_PATH,
    SIMILARITY_PATH,
    SUMMARY_PATH,
    Draft,
)
from universal_ray.storage.store import Store


def assemble(
    recipe: Reduction, plan: Plan, models: ModelsConfig, threshold: float, fingerprint: str
) -> None:
    """Write the draft of the tables and of `summary.json`.

    `fingerprint`: of what they are made from.
    """
    store = Store(recipe.store_url)
    draft = Draft(store, CORRELATIONS, fingerprint)
    by_model: dict[str, list[pa.Table]] = defaultdict(list)
    best: dict[tuple[str, str], torch.Tensor] = {}
    similar: dict[tuple[str, str], pa.Table] = {}
    length = len(plan.models) // (len(models.revisions) or 1)
    groups = [plan.models[start : start + length] for start in range(0, len(plan.models), length)]
    for pair in plan.pairs:
        rows, columns = read_pair(store, recipe, pair)
        excluded = plan.total_tokens - int(rows.n)
        found = partners(rows, columns, artifacts.get(store, recipe.matched_file(pair), Matched))
        alike = both_ways(store, recipe, pair)
        # The same two models may meet at two revisions, under two names each.
        for named in ({model: model for model in group} for group in groups):
            if not all(model in named for model in pair.models):
                continue
            for direction, own, layers in zip((rows, columns), found, alike, strict=True):
                shown = replace(
                    direction, model=named[direction.model], other=named[direction.other]
                )
                who = shown.model.name, shown.other.name
                best[who] = mutual_best(shown, own.mutual_N)
                by_model[who[0]].append(pair_table(shown, own, excluded, recipe.site))
                similar[who] = similarity_table(
                    *who, layers, int(rows.n), recipe.site,
                    "shift" if recipe.shifts else "rotation",
                )  # fmt: skip
    names = [model.name for model in plan.models]
    order = sorted(best, key=lambda who: tuple(map(names.index, who)))
    for model, tables in by_model.items():
        tables.sort(key=lambda table: names.index(table["other"][0].as_py()))
        by_model[model] = [
            with_anchors(table, anchors(best, model, table["other"][0].as_py(), names))
            for table in tables
        ]
    neurons = [neuron_table(by_model[model.name], threshold) for model in plan.references]
    width = max(model.width for model in plan.models)
    every = [table for name in names for table in by_model[name]]
    draft.put_table(PAIRS_PATH, pa.concat_tables(every), width)
    draft.put_table(NEURONS_PATH, pa.concat_tables(neurons), width)
    draft.put_table(SIMILARITY_PATH, pa.concat_tables([similar[who] for who in order]), width)
    chance = SHIFTED if recipe.shifts else "rotated"
    content: dict[str, Any] = {
        "models": [
            {
                "model": model.name,
                "given": model.given,
                "identity": model.identity,
                "layers": model.layers,
                "neurons_per_layer": model.width,
                "places": list(model.places),
            }
            for model in plan.models
        ],
        "site": recipe.site.name,
        "unit_kind": recipe.site.unit,
        "chance": chance,
        "threshold": threshold,
        "tokens": plan.total_tokens,
        "tokens_kept": int(rows.n),
        "counted": recipe.counted,
        "references": [
            summary(model, table, by_model[model.name], chance)
            for model, table in zip(plan.references, neurons, strict=True)
        ],
    }
    if models.revisions:
        # References are listed revision by revision: one model's are a group's length apart.
        step = len(plan.references) // len(models.revisions)
        short = short_names([models.reference, *models.compared])
        content["followed"] = [
            {
                "model": list(short.values())[first],
                **persistence(models.revisions, neurons[first::step], reference.layers),
            }
            for first, reference in enumerate(plan.references[:step])
        ]
    draft.put_json(SUMMARY_PATH, content)
    draft.finish()


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if values.size else None


def _share(flags: pa.ChunkedArray) -> float | None:
    """Of true among those that are not null."""
    return pc.mean(flags.cast(pa.float64())).as_py()


def _universal(known: np.ndarray, neurons: int) -> dict[str, int | float | None]:
    """How many of some neurons are universal; `known`: which, of those that have a correlation."""
    if not known.size:
        return {"universal": None, "universal_share": None}
    return {"universal": int(known.sum()), "universal_share": float(known.sum() / neurons)}


def summary(model: Model, neurons: pa.Table, pairs: list[pa.Table], chance: str) -> dict:
    """What the paper prints about a reference model, with the published figures where it has them;
    null where no neuron has a correlation. `chance`: what baselines are of.

    `partner_layers[l][k]`: share of layer l's neurons whose best partner lies in layer k, averaged
    over the other models. `spread`: mean of max_corr - min_corr. `statistics`: Pearson
    correlations between columns of the neuron table.
    """
    layers = model.layers
    live = neurons.filter(pc.is_valid(neurons["excess_corr"]))
    layer = live["layer"].to_numpy()
    universal = live["is_universal"].to_numpy(zero_copy_only=False)
    columns = {
        key: live[key].to_numpy() for key in
        ("max_corr", "mean_corr", "min_corr", "mean_baseline", "excess_corr")
    }
    spread = columns["max_corr"] - columns["min_corr"]
    counts = np.bincount(neurons["layer"].to_numpy(), minlength=layers)
    statistics = {}
    if len(layer) > 2:
        keys = ("mean_corr", "mean_baseline", "excess_corr")
        with np.errstate(invalid="ignore", divide="ignore"):
            matrix = np.corrcoef([columns[key] for key in keys])
        statistics = {
            f"{keys[i]}~{keys[j]}": float(matrix[i, j]) if np.isfinite(matrix[i, j]) else None
            for i in range(len(keys)) for j in range(i)
        }
    return {
        "model": model.name,
        "others": [table["other"][0].as_py() for table in pairs],
        "neurons": neurons.num_rows,
        "neurons_without_correlation": neurons.num_rows - len(layer),
        "reasons_without_correlation": dict(
            sorted(Counter(filter(None, neurons["null_reason"].to_pylist())).items())
        ),
        **_universal(universal, neurons.num_rows),
        "layers": [
            {
                "layer": index,
                "neurons": int(counts[index]),
                **_universal(universal[layer == index], int(counts[index])),
                "mean_corr": _mean(columns["mean_corr"][layer == index]),
                "mean_baseline": _mean(columns["mean_baseline"][layer == index]),
                "mean_excess": _mean(columns["excess_corr"][layer == index]),
            }
            for index in range(layers)
        ],
        "mean_corr": _mean(columns["mean_corr"]),
        "mean_baseline": _mean(columns["mean_baseline"]),
        "mean_excess": _mean(columns["excess_corr"]),
        "largest_excess": float(columns["excess_corr"].max()) if len(layer) else None,
        "excess_above": {
            f"{level:.1f}": float((columns["excess_corr"] > level).sum() / neurons.num_rows)
            if len(layer)
            else None
            for level in (0.3, 0.4, 0.5)
        },
        "spread": _mean(spread),
        "spread_universal": _mean(spread[universal]),
        "mutual_share": _mean(
            np.array([share for table in pairs if (share := _share(table["mutual"])) is not None])
        ),
        "partner_layers": partner_layers(pairs, layers),
        "statistics": statistics,
        "published": published(model.given, neurons["site"][0].as_py(), chance),
    }


def partner_layers(pairs: list[pa.Table], layers: int) -> list[list[float] | None]:
    """Share of each layer's neurons by the layer of their best partner, mean over other models;
    None for a layer none of whose neurons has a partner in any.
    """
    depth = max(pc.max(table["max_layer"]).as_py() or 0 for table in pairs) + 1
    matrix = torch.zeros(layers, max(depth, layers), dtype=torch.float64)
    models_L = torch.zeros(layers, dtype=torch.float64)
    for table in pairs:
        live = table.filter(pc.is_valid(table["max_layer"]))
        here = torch.tensor(live["layer"].to_numpy()).long()
        there = torch.tensor(live["max_layer"].to_numpy()).long()
        counts = torch.zeros_like(matrix)
        counts.index_put_((here, there), torch.ones(len(here)).double(), accumulate=True)
        matrix += counts / counts.sum(1, keepdim=True).clamp_min(1)
        models_L += counts.any(1)
    shares = (matrix / models_L.clamp_min(1)[:, None]).tolist()
    return [row if some else None for row, some in zip(shares, models_L.tolist(), strict=True)]
