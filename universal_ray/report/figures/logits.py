"""Figures of what neurons write to the vocabulary: Figures 5 to 7 and 22 to 24 of the paper."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Page

from universal_ray.report.figures import paint
from universal_ray.report.figures.bins import by_group, cells, edges_of, of_activations
from universal_ray.report.figures.figure import ROLES, Figure, Made
from universal_ray.report.figures.source import NotDrawn, Source, check_neurons

PERCENTILES = (5, 10, 50, 90, 95)
KURTOSIS = 10
"""Of logits, above which a neuron writes to few tokens: the paper's."""
LAST_LAYERS = 4
OF_LOGITS = ("prediction", "suppression", "partition")
OF_EACH, NEXT = 10, 6
"""Neurons of each role, and neurons beside the next token, that are drawn."""
INSIDE, OUTSIDE = "in the class", "other"


def of_models(names: list[str]) -> str:
    return f"{len(names)} model{'s' if len(names) > 1 else ''} ({', '.join(names)})"


def logit_moments(source: Source) -> Made:
    source.check_measured("statistics", "vocab_kurt", "vocab_skew")
    rows = source.rows("statistics", "model", "layer", "vocab_kurt", "vocab_skew")
    models = list(rows["model"].unique())
    parts = []
    for name in ("vocab_kurt", "vocab_skew"):
        known = rows.dropna(subset=[name])
        check_neurons(len(known), "with logits")
        found = known.groupby(["model", "layer"], sort=False)[name].quantile(
            [each / 100 for each in PERCENTILES]
        )  # fmt: skip
        over = found.groupby(level=["layer", 2])
        part = pd.DataFrame({"mean": over.mean(), "low": over.min(), "high": over.max()})
        part = part.rename_axis(["layer", "percentile"]).reset_index()
        part["percentile"] = (100 * part["percentile"]).round().astype(int)
        parts.append(part.assign(statistic=name).sort_values(["percentile", "layer"]))
    return Made(
        pd.concat(parts, ignore_index=True)[
            ["statistic", "percentile", "layer", "mean", "low", "high"]
        ],
        "Kurtosis and skewness over the vocabulary of what neurons write to it: percentiles within "
        f"a layer, mean over {of_models(models)}, with the least and the most of a model as a "
        f"band. n = {len(rows):,} neurons. High kurtosis: it writes to few tokens; skewness above "
        "zero: it raises them, below: it lowers them.",
    )


def draw_logit_moments(data: pd.DataFrame, page: Page) -> None:
    made = paint.panels(page, 2, columns=2, height=2.2, top=0.5, apart=(0.5, 0.5))
    titles = {"vocab_kurt": "kurtosis", "vocab_skew": "skewness"}
    for panel, (name, rows) in zip(made, data.groupby("statistic", sort=False), strict=True):
        for place, (percentile, own) in enumerate(rows.groupby("percentile")):
            color = paint.SEVERAL[place]
            panel.fill_between(own["layer"], own["low"], own["high"], color=color, alpha=0.2,
                               linewidth=0)  # fmt: skip
            panel.plot(own["layer"], own["mean"], "o", markersize=2.5, color=color,
                       linestyle=paint.LINES[place], label=f"{percentile} %")  # fmt: skip
        panel.set_title(titles[name])
        panel.set_xlabel("layer")
        paint.whole_ticks(panel)
    paint.legend(page, made[0])


def logit_skew(source: Source) -> Made:
    source.check_measured("statistics", "vocab_kurt", "vocab_skew")
    rows = source.rows("statistics", "model", "layer", "vocab_kurt", "vocab_skew").dropna()
    rows = rows[rows["vocab_kurt"] > KURTOSIS]
    last = sorted(rows["layer"].unique())[-LAST_LAYERS:]
    rows = rows[rows["layer"].isin(last)]
    check_neurons(len(rows), f"with a kurtosis of logits above {KURTOSIS}")
    groups = {(int(layer),): own["vocab_skew"].to_numpy() for layer, own in rows.groupby("layer")}
    counts = ", ".join(f"{len(own):,} in layer {layer}" for (layer,), own in groups.items())
    return Made(
        by_group(groups, ("layer",), edges_of(*groups.values(), bins=50)),
        f"Skewness over the vocabulary of neurons whose logits have a kurtosis above {KURTOSIS}, "
        f"of {of_models(list(rows['model'].unique()))}: right of zero they raise few tokens "
        f"(prediction), left of it they lower them (suppression). n = {counts}; each area is 1.",
    )


def draw_logit_skew(data: pd.DataFrame, page: Page) -> None:
    (panel,) = paint.panels(page, 1, columns=1, height=2.2, left=0.2, right=1.6)
    for place, (layer, own) in enumerate(data.groupby("layer")):
        paint.steps(panel, own, color=paint.SEVERAL[place], line=paint.LINES[place],
                    label=f"layer {layer}, n = {own['neurons'].sum():,}")  # fmt: skip
    panel.axvline(0, color=paint.GREY, linewidth=0.7)
    panel.set_ylim(0)
    panel.set_xlabel("skewness of logits")
    paint.hide_heights(panel)
    paint.legend_beside(panel)


def _with_roles(source: Source, *columns: str) -> pd.DataFrame:
    """A row for each neuron of the reference model and each role of logits that it has."""
    names = ("layer", "neuron", "roles", "logit_class", "logit_effect", *columns)
    rows = source.own("roles", *names).explode("roles").rename(columns={"roles": "role"})
    rows = rows[rows["role"].isin(OF_LOGITS)].dropna(subset=[*columns])
    if rows.empty:
        raise NotDrawn("no neuron is one of prediction, suppression or partition")
    rows["panel"] = [f"{layer}.{neuron}" for layer, neuron in
                     zip(rows["layer"], rows["neuron"], strict=True)]  # fmt: skip
    return rows


def _logits(rows: pd.DataFrame, kept: list[str]) -> pd.DataFrame:
    """A row for each bin of the histograms of w_out W_U in the class and of the others."""
    parts = []
    for _, row in rows.iterrows():
        for group, name in ((OUTSIDE, "effect_outside"), (INSIDE, "effect_inside")):
            ids = np.asarray(row[name], dtype=np.int64)
            edges = np.linspace(row["effect_low"], row["effect_high"], len(ids) + 1)
            wide = max(ids.sum() * (edges[1] - edges[0]), 1e-300)
            parts.append(pd.DataFrame({
                **row[kept], "group": group, "low": edges[:-1], "high": edges[1:], "count": ids,
                "density": ids / wide,
            }))  # fmt: skip
    return pd.concat(parts, ignore_index=True)


EFFECTS = ("effect_low", "effect_high", "effect_inside", "effect_outside")


def logit_effects(source: Source) -> Made:
    rows = _with_roles(source, *EFFECTS, "class_variance_reduction")
    rows = rows.sort_values("class_variance_reduction", ascending=False, kind="stable")
    many = rows.groupby("role").size()
    chosen = pd.concat([rows[rows["role"] == role].head(OF_EACH) for role in OF_LOGITS])
    kept = ["role", "panel", "logit_class", "logit_effect", "class_variance_reduction"]
    told = ", ".join(f"{many[role]:,} {role}" for role in OF_LOGITS if role in many.index)
    ids = int(np.sum(chosen.iloc[0]["effect_inside"]) + np.sum(chosen.iloc[0]["effect_outside"]))
    return Made(
        _logits(chosen, kept),
        f"What neurons add to the logits of tokens, w_out W_U, of the class of tokens that they "
        f"write to and of the others, each area 1. Of each role the {OF_EACH} whose class explains "
        f"most of their logits; there are {told} neurons. Above each: layer.neuron, whether it "
        f"promotes (+) or suppresses (−) the class, and the class. n = {ids:,} tokens of the "
        "vocabulary.",
    )


def _titled(rows: pd.DataFrame) -> str:
    row = rows.iloc[0]
    sign = {"promotes": "+", "suppresses": "−"}.get(row["logit_effect"], "")
    return f"{row['panel']} {sign}{paint.shown(str(row['logit_class']), 18)}"


def _draw_classes(panel: Axes, rows: pd.DataFrame) -> None:
    look = {OUTSIDE: (paint.GREY, "--"), INSIDE: (paint.OWN, "-")}
    for group, own in rows.groupby("group", sort=False):
        color, line = look[group]
        filled = group == INSIDE
        paint.steps(panel, own, color=color, line=line, label=group, filled=filled)
    panel.set_ylim(0)
    paint.hide_heights(panel)


def draw_logit_effects(data: pd.DataFrame, page: Page) -> None:
    neurons = data.groupby(["role", "panel"], sort=False)
    made = paint.panels(page, neurons.ngroups, columns=5, height=0.75, top=0.55, left=0.12,
                        apart=(0.15, 0.52))  # fmt: skip
    for panel, ((role, _), rows) in zip(made, neurons, strict=True):
        _draw_classes(panel, rows)
        panel.set_title(f"{role}\n{_titled(rows)}", fontsize=6.3, linespacing=1.3)
        panel.tick_params(labelsize=6)
    for panel in paint.below(made, 5):
        panel.set_xlabel("logit", fontsize=6.5)
    paint.legend(page, made[0])


def next_token(source: Source) -> Made:
    histograms = {OUTSIDE: "next_outside_histogram", INSIDE: "next_inside_histogram"}
    rows = _with_roles(source, *EFFECTS, *histograms.values(), "next_correlation")
    rows = rows.drop_duplicates("panel")
    rows = rows.sort_values("next_correlation", key=lambda each: -each.abs(), kind="stable")
    order = rows["role"].map({"suppression": 0}).fillna(1)
    rows = rows.assign(order=order).sort_values("order", kind="stable").drop(columns="order")
    many, chosen = len(rows), rows.head(NEXT)
    kept = ["panel", "role", "logit_class", "logit_effect", "next_correlation"]
    logits = _logits(chosen, kept).assign(shown="logits")
    longer = pd.concat(
        [chosen[[*kept, name]].rename(columns={name: "histogram"}).assign(group=group)
         for group, name in histograms.items()]
    )  # fmt: skip
    activations = of_activations(longer).rename(columns={"tokens": "count"})
    tokens = int(activations.groupby("panel")["count"].sum().max())
    return Made(
        pd.concat([logits, activations.assign(shown="activations")], ignore_index=True),
        "Left, what a neuron adds to the logits of a class of tokens and of the others; right, its "
        "pre-activations where the true next token is in that class and elsewhere; each area 1. "
        f"{len(chosen)} of {many:,} neurons of prediction, suppression or partition: those of "
        "suppression first, and of these the ones whose activation goes most with the next token "
        f"(r above each). n = {tokens:,} tokens.",
    )


def draw_next_token(data: pd.DataFrame, page: Page) -> None:
    neurons = data.groupby("panel", sort=False)
    made = paint.panels(page, 2 * neurons.ngroups, columns=4, height=1.0, top=0.55, left=0.12,
                        apart=(0.2, 0.62))  # fmt: skip
    for place, (_, rows) in enumerate(neurons):
        for beside, what in enumerate(("logits", "activations")):
            panel, own = made[2 * place + beside], rows[rows["shown"] == what]
            _draw_classes(panel, own)
            panel.tick_params(labelsize=6)
            panel.set_xlabel("logit" if what == "logits" else "pre-activation", fontsize=6.5)
        r, role = rows["next_correlation"].iloc[0], rows["role"].iloc[0]
        made[2 * place].set_title(f"{role}\n{_titled(rows)}", fontsize=6.5)
        made[2 * place + 1].set_title(f"r = {r:.2f}", fontsize=6.5)
    paint.legend(page, made[0])


def entropy_weights(source: Source) -> Made:
    rows = source.own("roles", "layer", "neuron", "roles", "w_out_norm", "vocab_var")
    rows = rows.dropna(subset=["w_out_norm", "vocab_var"])
    last = rows["layer"].max()
    rows = rows[(rows["layer"] >= last - 1) & (rows["vocab_var"] > 0)]
    check_neurons(len(rows), "in the last two layers that write something")
    names = ("entropy", "token frequency")
    group = np.full(len(rows), "others", dtype=object)
    for name in reversed(names):
        group[[name in each for each in rows["roles"]]] = name
    variance = np.log10(rows["vocab_var"].to_numpy())
    data = cells(rows["w_out_norm"].to_numpy(), variance, group)
    told = ", ".join(f"{(group == name).sum():,} {name}" for name in names)
    return Made(
        data.rename(columns={"y_low": "log10_low", "y_high": "log10_high"}),
        "Length of what a neuron writes, and the variance of the logits that it writes for its "
        f"length (log₁₀), in the last two layers: n = {len(rows):,} neurons, {told}. Entropy "
        "neurons write much, and to no token in particular.",
    )


def draw_entropy_weights(data: pd.DataFrame, page: Page) -> None:
    (panel,) = paint.panels(page, 1, columns=1, height=2.7, left=0.6, right=1.9)
    renamed = data.rename(columns={"log10_low": "y_low", "log10_high": "y_high"})
    others = renamed[renamed["group"] == "others"]
    if len(others):
        paint.heat(panel, others, "Greys")
    marks = {"entropy": ("o", paint.OWN), "token frequency": ("^", paint.BASE)}
    for name, (mark, color) in marks.items():
        own = renamed[renamed["group"] == name]
        if len(own):
            x, y = ((own[f"{axis}_low"] + own[f"{axis}_high"]) / 2 for axis in "xy")
            panel.plot(
                x, y, mark, color=color, markersize=4, markeredgecolor="white", markeredgewidth=0.4,
                label=f"{name}, n = {own['neurons'].sum():,}",
            )  # fmt: skip
    panel.set_xlabel("length of w_out")
    panel.set_ylabel("log₁₀ variance of logits")
    paint.legend_beside(panel)


FIGURES = (
    Figure(
        name="logit_moments", title="Whom neurons write to, by layer", chapter=ROLES,
        tables=("statistics",), data=logit_moments, draw=draw_logit_moments,
        paper={6: "a, b", 22: "a, b"}, whole=True,
    ),
    Figure(
        name="logit_skew", title="From prediction to suppression", chapter=ROLES,
        tables=("statistics",), data=logit_skew, draw=draw_logit_skew,
        paper={6: "c", 22: "c"}, whole=True,
    ),
    Figure(
        name="logit_effects", title="Neurons of prediction, suppression and partition",
        chapter=ROLES, tables=("roles",), data=logit_effects, draw=draw_logit_effects,
        paper={1: "e", 5: "", 23: ""},
    ),
    Figure(
        name="next_token", title="Do they fire before the tokens they write to?", chapter=ROLES,
        tables=("roles",), data=next_token, draw=draw_next_token, paper={24: ""},
    ),
    Figure(
        name="entropy_weights", title="Neurons that write much, and to no token", chapter=ROLES,
        tables=("roles",), data=entropy_weights, draw=draw_entropy_weights,
        paper={7: "a", 25: "a"},
    ),
)  # fmt: skip
