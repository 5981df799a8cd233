"""Figures of what sets universal neurons apart: Figures 3, 9, 10 and 14 of the paper."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure as Page

from universal_ray.maths.statistics.comparison import percentiles_in_layer
from universal_ray.report.figures import paint
from universal_ray.report.figures.bins import by_group, cells, edges_of
from universal_ray.report.figures.correlations import OTHERS, UNIVERSAL, draw_cells
from universal_ray.report.figures.figure import APART, Figure, Made
from universal_ray.report.figures.source import NotDrawn, Source, check_neurons

METRICS = {
    "sparsity": "share of tokens it fires on", "mean": "pre-activation: mean",
    "skew": "pre-activation: skewness", "kurt": "pre-activation: kurtosis",
    "input_bias": "input bias", "in_out_sim": "cos(input, output)", "l2_penalty": "L2 penalty",
    "vocab_kurt": "logits: kurtosis",
}  # fmt: skip
"""The paper's, in its order."""
WHO = ("model", "layer", "neuron")
DEPTHS = 6
"""Pairs of letter values at most: quartiles, eighths, and so on."""
ENDS = (0.05, 0.25, 0.5, 0.75, 0.95)


def _compared(source: Source, columns: list[str], reference: str = "") -> pd.DataFrame:
    """Statistics of the neurons that are known to be universal or not. Raises NotDrawn."""
    equal = {"model": reference} if reference else {}
    statistics = source.rows("statistics", *WHO, *columns, **equal)
    neurons = source.rows("neurons", *WHO, "is_universal", "null_reason", **equal)
    neurons = neurons[neurons["null_reason"].isna()].drop(columns="null_reason")
    found = statistics.merge(neurons, on=list(WHO))
    found["is_universal"] = found["is_universal"].astype(bool)
    check_neurons(int(found["is_universal"].sum()), "that are universal", 1)
    return found


def percentiles(source: Source) -> Made:
    found = _compared(source, list(METRICS))
    rows = []
    for model, own in found.groupby("model", sort=False):
        universal = own["is_universal"].to_numpy()
        for name in METRICS:
            ranks = percentiles_in_layer(own[name].to_numpy(float), own["layer"].to_numpy(np.int64))
            ranks = ranks[universal & np.isfinite(ranks)]
            depths = min(DEPTHS, int(np.log2(max(len(ranks), 1))))
            for letter in range(depths + 1 if len(ranks) else 0):
                low, high = np.quantile(ranks, [0.5 ** (letter + 1), 1 - 0.5 ** (letter + 1)])
                rows.append({
                    "model": model, "statistic": name, "universal": len(ranks), "letter": letter,
                    "low": low, "high": high,
                })  # fmt: skip
    if not rows:
        raise NotDrawn("no statistic of statistics.parquet was measured")
    many = found.groupby("model", sort=False)["is_universal"].sum()
    told = ", ".join(f"{model}: {count:,}" for model, count in many.items())
    return Made(
        pd.DataFrame(rows),
        "Where universal neurons stand among all of their layer: 50 is the middle. A box holds "
        "half of them, each further one half of the rest (letter values); the line is the median. "
        f"Universal neurons (excess above {source.threshold:g}), n: {told}.",
    )


def draw_percentiles(data: pd.DataFrame, page: Page) -> None:
    models = list(data["model"].unique())
    made = paint.panels(
        page, len(models), columns=3, height=2.6, left=1.75, apart=(0.2, 0.5)
    )
    names = [name for name in METRICS if name in set(data["statistic"])]
    for place, (panel, (model, rows)) in enumerate(
        zip(made, data.groupby("model", sort=False), strict=True)
    ):
        for row in rows.itertuples():
            middle = names.index(row.statistic)
            if row.letter == 0:
                panel.plot([row.low] * 2, [middle - 0.36, middle + 0.36], color=paint.INK, zorder=3)
                continue
            height = 0.72 * 0.72 ** (row.letter - 1)
            panel.barh(
                middle, row.high - row.low, height, row.low, color=paint.OWN, alpha=0.28, zorder=2
            )
        panel.axvline(50, color=paint.GREY, linewidth=0.7, zorder=1)
        panel.set_xlim(0, 100)
        panel.set_ylim(len(names) - 0.5, -0.5)
        labels = [METRICS[name] for name in names] if place % 3 == 0 else [""] * len(names)
        panel.set_yticks(range(len(names)), labels)
        panel.tick_params(axis="y", length=0)
        if len(models) > 1:
            panel.set_title(paint.shown(model))
    for panel in paint.below(made, 3):
        panel.set_xlabel("percentile in its layer")


def by_layer(source: Source) -> Made:
    found = _compared(source, list(METRICS), source.reference)
    rows = []
    for name in METRICS:
        for (layer, universal), own in found.groupby(["layer", "is_universal"]):
            values = own[name].dropna()
            if len(values):
                ends = dict(zip(("low", "quarter", "median", "three_quarters", "high"),
                                values.quantile(ENDS), strict=True))  # fmt: skip
                rows.append({
                    "statistic": name, "layer": layer, "group": UNIVERSAL if universal else OTHERS,
                    "neurons": len(values), **ends,
                })  # fmt: skip
    if not rows:
        raise NotDrawn("no statistic of statistics.parquet was measured")
    many = int(found["is_universal"].sum())
    return Made(
        pd.DataFrame(rows),
        f"By layer: the median, half of the neurons (thick) and 90 % of them (thin); n = {many:,} "
        f"universal neurons (excess above {source.threshold:g}) and {len(found) - many:,} others.",
    )


def draw_by_layer(data: pd.DataFrame, page: Page) -> None:
    names = list(data["statistic"].unique())
    made = paint.panels(page, len(names), columns=4, height=1.4, top=0.5, apart=(0.45, 0.5))
    look = {OTHERS: (paint.GREY, -0.17), UNIVERSAL: (paint.OWN, 0.17)}
    for panel, (name, rows) in zip(made, data.groupby("statistic", sort=False), strict=True):
        for group, own in rows.groupby("group"):
            color, aside = look[group]
            at = own["layer"] + aside
            panel.vlines(at, own["low"], own["high"], color=color, linewidth=0.7)
            panel.vlines(at, own["quarter"], own["three_quarters"], color=color, linewidth=2.4)
            panel.plot(at, own["median"], "o", color="white", markeredgecolor=color, markersize=2.8,
                       markeredgewidth=0.9, label=group)  # fmt: skip
        panel.set_title(METRICS[name])
        paint.whole_ticks(panel)
    for panel in paint.below(made, 4):
        panel.set_xlabel("layer")
    paint.legend(page, made[0])


def firing(source: Source) -> Made:
    source.check_measured("statistics", "sparsity", "in_out_sim")
    found = _compared(source, ["sparsity", "in_out_sim"], source.reference)
    found = found.dropna(subset=["sparsity", "in_out_sim"])
    check_neurons(len(found), "with both numbers")
    group = np.where(found["is_universal"], UNIVERSAL, OTHERS)
    r = found["sparsity"].corr(found["in_out_sim"])
    return Made(
        cells(found["sparsity"].to_numpy(), found["in_out_sim"].to_numpy(), group),
        "Share of tokens on which a neuron fires, and the cosine of its input and output weights: "
        f"r = {r:.2f} over n = {len(found):,} neurons. Darker squares hold more neurons, on a "
        "logarithmic scale.",
    )


def draw_firing(data: pd.DataFrame, page: Page) -> None:
    draw_cells(data, page, "share of tokens it fires on", "cos(input, output)")


def redundancy(source: Source) -> Made:
    names = {"in_sim": "input weights", "out_sim": "output weights"}
    source.check_measured("statistics", *names)
    found = _compared(source, list(names), source.reference)
    groups = {
        (told, group): found.loc[found["is_universal"] == universal, name].to_numpy(float)
        for name, told in names.items()
        for group, universal in ((OTHERS, False), (UNIVERSAL, True))
    }
    many = int(found["is_universal"].sum())
    bins = int(np.clip(2 * np.sqrt(many), 12, 50))
    return Made(
        by_group(groups, ("weights", "group"), edges_of(*groups.values(), bins=bins)),
        "Largest cosine of a neuron's weights with those of any other neuron of its model: near 1 "
        f"it has a double. n = {many:,} universal neurons (excess above {source.threshold:g}) and "
        f"{len(found) - many:,} others; each area is 1.",
    )


def draw_redundancy(data: pd.DataFrame, page: Page) -> None:
    made = paint.panels(page, 2, columns=2, height=1.9, top=0.5, left=0.15, apart=(0.2, 0.5))
    look = {OTHERS: (paint.GREY, "--"), UNIVERSAL: (paint.OWN, "-")}
    for panel, (weights, rows) in zip(made, data.groupby("weights", sort=False), strict=True):
        for group, own in rows.groupby("group", sort=False):
            color, line = look[group]
            filled = group == UNIVERSAL
            paint.steps(panel, own, color=color, line=line, label=group, filled=filled)
        panel.set_title(weights)
        panel.set_xlabel("largest cosine with another neuron")
        panel.set_ylim(0)
        paint.hide_heights(panel)
    paint.legend(page, made[0])


_TABLES = ("statistics", "neurons", "summary")
FIGURES = (
    Figure(
        name="percentiles", title="Universal neurons among those of their layer", chapter=APART,
        tables=_TABLES, data=percentiles, draw=draw_percentiles, paper={3: ""}, whole=True,
    ),
    Figure(
        name="by_layer", title="Universal neurons and the others, by layer", chapter=APART,
        tables=_TABLES, data=by_layer, draw=draw_by_layer, paper={14: ""},
    ),
    Figure(
        name="firing", title="How often it fires, and whether it writes what it reads",
        chapter=APART, tables=("statistics", "neurons"), data=firing, draw=draw_firing,
        paper={9: ""},
    ),
    Figure(
        name="redundancy", title="Neurons that have a double", chapter=APART, tables=_TABLES,
        data=redundancy, draw=draw_redundancy, paper={10: ""},
    ),
)  # fmt: skip
