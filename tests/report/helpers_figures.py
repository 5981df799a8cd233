"""Tables of a made-up run that allow every figure, with texts that would do harm."""

from collections.abc import Iterable, Mapping
from functools import cache
from hashlib import sha256
from typing import Any

import numpy as np
import pyarrow as pa
from helpers_site import HOSTILE

from universal_ray.report.figures.draw import Drawn, drawn
from universal_ray.report.figures.registry import FIGURES
from universal_ray.report.figures.source import SCHEMAS, Source

MODELS = ("a", "b", "c")
LAYERS, WIDTH = 3, 20
NEURONS = LAYERS * WIDTH
THRESHOLD = 0.5
FAMILIES = ("unigram", "alphabet", "previous token", "position", "syntax", "semantic")
TEXTS = (*HOSTILE, "$x^2$", r"$\frac{1}{2$", "␣" * 9, "\u05d0", "\u6f22", "-1")
BINS, DRAWS = 257, 3
BY_NAME = {figure.name: figure for figure in FIGURES}


def table(name: str, columns: Mapping[str, Iterable[Any]]) -> pa.Table:
    """Some columns of a table, of the types that it has."""
    return pa.table({
        each: pa.array(list(values), SCHEMAS[name].field(each).type)
        for each, values in columns.items()
    })  # fmt: skip


def who(*models: str) -> dict[str, list[Any]]:
    """A row for every neuron of some models."""
    rows = [(model, layer, neuron) for model in models for layer in range(LAYERS)
            for neuron in range(WIDTH)]  # fmt: skip
    model, layer, neuron = zip(*rows, strict=True)
    return {"model": list(model), "layer": list(layer), "neuron": list(neuron)}


@cache
def source() -> Source:
    rng = np.random.default_rng(0)
    return Source(
        {
            "neurons": _neurons(rng), "pairs": _pairs(rng), "similarity": _similarity(rng),
            "statistics": _statistics(rng),
            "taxonomy": _taxonomy(rng), "conditional": _conditional(rng), "roles": _roles(rng),
            "vocabulary": table("vocabulary", {"token_id": range(len(TEXTS)), "text": TEXTS}),
            "interventions": _interventions(rng), "heads": _heads(rng),
            "attention": _attention(rng),
        },
        summary(),
    )  # fmt: skip


def _neurons(rng: np.random.Generator) -> pa.Table:
    best, spread, baseline = rng.uniform(0.5, 1, NEURONS), 0.1, rng.uniform(0, 0.3, NEURONS)
    return table("neurons", {
        **who("a"), "mean_corr": best, "max_corr": best + spread, "min_corr": best - spread,
        "mean_baseline": baseline, "excess_corr": best - baseline,
        "is_universal": best - baseline > THRESHOLD, "null_reason": [None] * NEURONS,
    })  # fmt: skip


def _pairs(rng: np.random.Generator) -> pa.Table:
    keys = {name: values * 2 for name, values in who("a").items()}
    rows = 2 * NEURONS
    return table("pairs", {
        **keys, "other": ["b"] * NEURONS + ["c"] * NEURONS, "max_corr": rng.uniform(0.5, 1, rows),
        "max_layer": rng.integers(0, LAYERS, rows),
        "baseline_draws": rng.uniform(0, 0.3, (rows, DRAWS)),
    })  # fmt: skip


def _similarity(rng: np.random.Generator) -> pa.Table:
    rows = [(other, measure, layer, other_layer) for other in ("b", "c")
            for measure in ("cka", "best") for layer in range(LAYERS)
            for other_layer in (*range(LAYERS), None)]  # fmt: skip
    other, measure, layer, other_layer = zip(*rows, strict=True)
    values = rng.uniform(0.5, 1, len(rows))
    return table("similarity", {
        "model": ["a"] * len(rows), "other": other, "measure": measure, "layer": layer,
        "other_layer": other_layer, "value": values, "se": [0.01] * len(rows),
        "null": values / 2, "n": [500] * len(rows),
    })  # fmt: skip


def _statistics(rng: np.random.Generator) -> pa.Table:
    names = ("sparsity", "mean", "skew", "kurt", "input_bias", "in_out_sim", "l2_penalty",
             "in_sim", "out_sim", "vocab_skew", "post_mean")  # fmt: skip
    rows = len(MODELS) * NEURONS
    return table("statistics", {
        **who(*MODELS), **{name: rng.normal(0, 1, rows) for name in names},
        "post_var": rng.uniform(0.5, 1, rows), "vocab_kurt": rng.uniform(5, 15, rows),
        "mean_by_subset": [[place % 2, 1 - place % 2] for place in range(rows)],
        "histogram_by_subset": rng.integers(1, 9, (rows, 2, BINS)).tolist(),
    })  # fmt: skip


def _taxonomy(rng: np.random.Generator) -> pa.Table:
    """A family to ten neurons each, of which four are members, of hostile features: one for every
    three neurons.
    """
    place = np.arange(NEURONS)
    return table("taxonomy", {
        **who("a"), "family": [FAMILIES[each // 10] for each in place],
        "feature": [TEXTS[each // 3 % len(TEXTS)] for each in place],
        "variance_reduction": rng.uniform(0.5, 1, NEURONS), 
        "status": [("member" if each % 10 < 4 else "partly") for each in place],
    })  # fmt: skip


def _conditional(rng: np.random.Generator) -> pa.Table:
    groups: list[dict[str, Any]] = [{"by": "feature", "inside": each} for each in (True, False)]
    groups += [{"by": "word", "group": each} for each in ("whole", "beginning", "no word")]
    groups += [{"by": "position", "position": each} for each in range(100)]
    groups += [{"by": "token in subset", "subset": subset, "token_id": each}
               for subset in ("=one", "two") for each in range(len(TEXTS))]  # fmt: skip
    keys = who("a")
    rows = []
    for place, (model, layer, neuron) in enumerate(zip(*keys.values(), strict=True)):
        for each in groups if place % 10 < 4 else []:
            histogram = rng.integers(0, 9, BINS) * (np.abs(np.arange(BINS) - 120) < 6)
            mean, deviation = rng.normal(), rng.uniform(0.1, 1)
            rows.append({
                **dict.fromkeys(("group", "inside", "position", "subset", "token_id")), **each,
                "model": model, "layer": layer, "neuron": neuron,
                "tokens": int(histogram.sum()) + 100 * (each.get("subset") == "=one"),
                "pre_mean": mean, "pre_deviation": deviation, "post_mean": mean / 2,
                "post_deviation": deviation / 2,
                "histogram": histogram if each["by"] in ("feature", "word") else None,
            })  # fmt: skip
    return table("conditional", {name: [row[name] for row in rows] for name in rows[0]})


def _roles(rng: np.random.Generator) -> pa.Table:
    names = ("prediction", "suppression", "partition", "entropy", "token frequency")
    return table("roles", {
        **who("a"), "roles": [[name] for name in names] + [[]] * (NEURONS - len(names)),
        "logit_class": [TEXTS[place % len(TEXTS)] for place in range(NEURONS)],
        "logit_effect": [("promotes", "suppresses")[place % 2] for place in range(NEURONS)],
        "effect_low": [-1.0] * NEURONS, "effect_high": [1.0] * NEURONS,
        "effect_inside": rng.integers(0, 5, (NEURONS, 60)),
        "effect_outside": rng.integers(0, 50, (NEURONS, 60)),
        "class_variance_reduction": rng.uniform(0, 1, NEURONS),
        "next_inside_histogram": rng.integers(0, 9, (NEURONS, BINS)),
        "next_outside_histogram": rng.integers(0, 9, (NEURONS, BINS)),
        "next_correlation": rng.uniform(-1, 1, NEURONS), "w_out_norm": rng.uniform(1, 2, NEURONS),
        "vocab_var": rng.uniform(1e-6, 1e-2, NEURONS),
    })  # fmt: skip


def _interventions(rng: np.random.Generator) -> pa.Table:
    groups = (("entropy", 1), ("control", 2), ("named", 3))
    rows = [(group, neuron, value) for group, neuron in groups for value in (0.0, 2.0, 1.0)]
    group, neuron, value = zip(*rows, strict=True)
    measured: dict[str, np.ndarray] = {}
    for name in ("scale", "reciprocal_rank", "entropy", "loss"):
        mean = rng.uniform(1, 2, len(rows))
        measured |= {name: mean, f"{name}_low": mean - 0.1, f"{name}_high": mean + 0.1}
    return table("interventions", {
        "model": ["a"] * len(rows), "kind": ["sweep"] * len(rows), "group": group,
        "layer": [2] * len(rows), "neuron": neuron, "value": value, "tokens": [500] * len(rows),
        **measured, "null_reason": [None] * len(rows),
    })  # fmt: skip


def _heads(rng: np.random.Generator) -> pa.Table:
    return table("heads", {
        "model": ["a", "a"], "layer": [1, 2], "head": [0, 1],
        "histogram": rng.integers(0, 9, (2, 122)), "null_histogram": rng.integers(0, 9, (2, 122)),
        "null_reason": [None, None],
    })  # fmt: skip


def _attention(rng: np.random.Generator) -> pa.Table:
    points = {f"points_{name}": rng.normal(0, 1, (2, 50))
              for name in ("activation", "bos_change", "norm_change")}  # fmt: skip
    return table("attention", {
        "model": ["a", "a"], "layer": [0, 0], "neuron": [1, 2], "head_layer": [1, 2],
        "head": [0, 0], "score": [3.0, -2.0], "named": [False, True], "positions": [100, 100],
        **points,
        "corr_activation_bos_change": [0.5, None], "corr_bos_change_norm_change": [-0.5, None],
        "null_reason": [None, None],
    })  # fmt: skip


def summary() -> dict[str, Any]:
    matrix = [[1.0, 0.5], [None, 1.0]]
    share = {"pairs": 20, "same": 0.5, "same_low": 0.4, "same_high": 0.6, "chance": 0.1}
    ends = {"mean": 0.01, "low": 0.0, "high": 0.02}
    by_layer = {"neurons": 3, "by_layer": [0, 1, 2]}
    return {
        "threshold": THRESHOLD,
        "followed": [{"model": "a", "revisions": ["step1", "$2$"], "universal": [4, None],
                      "overlap": matrix, "persistence": matrix, "jaccard": matrix}],
        "profile": {"subsets": ["=one", "<b>two</b>"]},
        "references": [{"model": "a", "profile": {"agreement": {"universal": share}}}],
        "roles": {
            "tokens_intervened": 500,
            "models": [{"model": model, "roles": {"position": by_layer, "dead": None}}
                       for model in MODELS],
            "references": [{"model": "a", "sets": [
                {"at": at, "layer": layer, "neurons": 4, "loss_universal": ends,
                 "loss_random": ends} for at in ("zero", "mean") for layer in (None, 0)]}],
        },
    }  # fmt: skip


def checksums(*names: str) -> dict[str, str]:
    """Of all files of some figures of these tables."""
    return checksums_of(drawn([each for each in FIGURES if each.name in names], source()))


def checksums_of(figures: Iterable[Drawn]) -> dict[str, str]:
    return {
        f"{each.name}.{kind}": sha256(content).hexdigest()
        for each in figures
        for kind, content in each.files.items()
    }


def data_of(name, tables=None):
    """What a figure of the reference model draws."""
    return BY_NAME[name].data((tables or source()).of("a")).data


def frame(name):
    return source().tables[name].to_pandas()


def of_panel(rows, panel):
    """Rows of a table that are of a neuron, by its layer and number."""
    layer, neuron = map(int, panel.split("."))
    return rows[(rows["layer"] == layer) & (rows["neuron"] == neuron)]
