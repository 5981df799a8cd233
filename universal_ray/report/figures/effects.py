"""Figures of what neurons do to the prediction and to heads: Figures 7, 8, 25 and 26, and ours."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure as Page

from universal_ray.report.figures import paint
from universal_ray.report.figures.figure import ROLES, Figure, Made
from universal_ray.report.figures.logits import of_models
from universal_ray.report.figures.source import NotDrawn, Source

PATHS = 6
MEASURES = {
    "scale": "scale of the final LayerNorm", "reciprocal_rank": "reciprocal rank",
    "entropy": "entropy, nats", "loss": "loss, nats",
}
PAIRS = {
    "BOS": ("activation", "bos_change", "activation", "Δ attention to BOS"),
    "norm": ("bos_change", "norm_change", "Δ attention to BOS", "Δ output, %"),
}
"""Of points of a path: the paper's panels, what is across and up, and what these are called."""


def _interventions(source: Source, *columns: str, **equal: str) -> pd.DataFrame:
    """Rows of one kind of intervention. Raises NotDrawn with the reason that the table has."""
    rows = source.own("interventions", *columns, **equal)
    if rows.empty:
        reasons = source.own("interventions", "null_reason")["null_reason"].dropna()
        raise NotDrawn("; ".join(reasons.unique()) or "no neuron was held at several values")
    return rows


def sweeps(source: Source) -> Made:
    ends = [f"{name}{end}" for name in MEASURES for end in ("", "_low", "_high")]
    rows = _interventions(source, "group", "layer", "neuron", "value", "tokens", *ends,
                          kind="sweep")  # fmt: skip
    if rows["value"].nunique() < 2:
        raise NotDrawn("neurons were held at one value alone (roles.sweep)")
    data = pd.concat([
        rows.assign(
            measure=name, mean=rows[name], low=rows[f"{name}_low"], high=rows[f"{name}_high"]
        )[["measure", "group", "layer", "neuron", "value", "tokens", "mean", "low", "high"]]
        for name in MEASURES
    ], ignore_index=True)  # fmt: skip
    data["panel"] = [f"{layer:.0f}.{neuron:.0f}" for layer, neuron in
                     zip(data["layer"], data["neuron"], strict=True)]  # fmt: skip
    many = data.drop_duplicates("panel").groupby("group", sort=False).size()
    told = ", ".join(f"{count} {name}" for name, count in many.items())
    return Made(
        data.drop(columns=["layer", "neuron"]).dropna(subset=["mean"]),
        "What becomes of the prediction when the activation of one neuron is held at a value: "
        f"means over n = {rows['tokens'].max():,} tokens, with 95 % intervals for those that are "
        f"no controls. Neurons: {told}.",
    )


def draw_sweeps(data: pd.DataFrame, page: Page) -> None:
    names = [name for name in MEASURES if name in set(data["measure"])]
    made = paint.panels(page, len(names), columns=2, height=1.7, top=0.5, left=0.65,
                        apart=(0.8, 0.5))  # fmt: skip
    look = {
        "control": (paint.GREY, ":"), "token frequency": (paint.BASE, "--"),
        "entropy": (paint.OWN, "-"), "named": (paint.SEVERAL[2], "-."),
    }  # fmt: skip
    for panel, name in zip(made, names, strict=True):
        rows = data[data["measure"] == name]
        for group, (color, line) in look.items():
            label = group
            for _, own in rows[rows["group"] == group].groupby("panel", sort=False):
                own = own.sort_values("value")
                if group != "control":
                    panel.fill_between(own["value"], own["low"], own["high"], color=color,
                                       alpha=0.08, linewidth=0)  # fmt: skip
                panel.plot(own["value"], own["mean"], color=color, linestyle=line, linewidth=1,
                           label=label)  # fmt: skip
                label = "_"
        panel.set_ylabel(MEASURES[name])
    for panel in paint.below(made, 2):
        panel.set_xlabel("activation that is held")
    paint.legend(page, made[0])


def head_scores(source: Source) -> Made:
    rows = source.own("heads", "layer", "head", "histogram", "null_histogram", "null_reason")
    known = rows.dropna(subset=["histogram", "null_histogram"])
    if known.empty:
        raise NotDrawn("; ".join(rows["null_reason"].dropna().unique()) or "no head has a score")
    inner = np.linspace(-15, 15, 121)
    width = inner[1] - inner[0]
    edges = np.concatenate([[inner[0] - width], inner, [inner[-1] + width]])
    parts = []
    for group, name in (("neurons", "histogram"), ("random directions", "null_histogram")):
        count = np.stack(known[name].to_list()).sum(0)
        if len(count) != len(edges) - 1:
            raise NotDrawn("the histograms of heads.parquet are of another version")
        parts.append(pd.DataFrame({
            "group": group, "low": edges[:-1], "high": edges[1:], "count": count.astype(np.int64),
            "density": count / (max(count.sum(), 1) * width),
        }))  # fmt: skip
    many = int(parts[0]["count"].sum())
    if many == 0:
        raise NotDrawn("no neuron writes to a head of a later layer")
    return Made(
        pd.concat(parts, ignore_index=True),
        "How much what a neuron writes makes a head of a later layer attend to the first token "
        "(ŵ_out · W_Q k_BOS / √K; above zero more, below less), beside random directions. "
        f"n = {many:,} pairs of a neuron and one of {len(known):,} heads; each area is 1. Heights "
        "are logarithmic; the outermost bins hold all beyond.",
    )


def draw_head_scores(data: pd.DataFrame, page: Page) -> None:
    (panel,) = paint.panels(page, 1, columns=1, height=2.2, left=0.6, right=0.2, top=0.45)
    look = {"neurons": (paint.OWN, "-"), "random directions": (paint.BASE, "--")}
    for group, own in data.groupby("group", sort=False):
        color, line = look[group]
        paint.steps(panel, own, color=color, line=line, label=group)
    some = data[data["density"] > 0]
    panel.set_yscale("log")
    panel.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    panel.yaxis.set_minor_formatter(lambda value, _: "")
    panel.set_xlim(some["low"].min(), some["high"].max())
    panel.set_xlabel("score")
    panel.set_ylabel("density")
    paint.legend(page, panel)


def head_paths(source: Source) -> Made:
    points = ("points_activation", "points_bos_change", "points_norm_change")
    told = ("corr_activation_bos_change", "corr_bos_change_norm_change")
    rows = source.own("attention", "layer", "neuron", "head_layer", "head", "score", "positions",
                      "named", *points, *told, "null_reason")  # fmt: skip
    known = rows.dropna(subset=list(points)).sort_values("named", ascending=False, kind="stable")
    if known.empty:
        raise NotDrawn("; ".join(rows["null_reason"].dropna().unique()) or "no path was cut")
    parts = [
        pd.DataFrame({
            "panel": f"{row.layer:.0f}.{row.neuron:.0f} → head {row.head_layer:.0f}.{row.head:.0f}",
            "score": row.score, **{name: getattr(row, name) for name in told},
            **{name.removeprefix("points_"): np.asarray(getattr(row, name), float)
               for name in points},
        })
        for row in known.head(PATHS).itertuples()
    ]  # fmt: skip
    data = pd.concat(parts, ignore_index=True)
    return Made(
        data,
        f"What changes (Δ) in a head when what a neuron writes is taken out of its queries: "
        f"{len(parts)} of {len(known):,} paths, those that the study names and then the strongest. "
        f"n = {int(known['positions'].max()):,} positions, of which {len(parts[0]):,} are drawn; r "
        "is over all of them.",
    )


def draw_head_paths(data: pd.DataFrame, page: Page) -> None:
    paths = data.groupby("panel", sort=False)
    made = paint.panels(page, 2 * paths.ngroups, columns=4, height=1.15, top=0.4, left=0.65,
                        apart=(0.72, 0.7))  # fmt: skip
    correlations = ("corr_activation_bos_change", "corr_bos_change_norm_change")
    for place, (name, rows) in enumerate(paths):
        for beside, (x, y, across, up) in enumerate(PAIRS.values()):
            panel, r = made[2 * place + beside], rows[correlations[beside]].iloc[0]
            panel.plot(rows[x], rows[y], ".", color=paint.OWN, markersize=2, alpha=0.5,
                       rasterized=True)  # fmt: skip
            panel.set_xlabel(across, fontsize=6.5)
            panel.set_ylabel(up, fontsize=6.5)
            panel.tick_params(labelsize=5.5)
            paint.few_ticks(panel, 2, 3)
            told = "r not measured" if pd.isna(r) else f"r = {r:.2f}"
            panel.set_title(told if beside else f"{name}\n{told}", fontsize=6.5)


def seeds(source: Source) -> Made:
    models = source.summary.get("roles", {}).get("models") or []
    rows = [
        {"model": entry["model"], "role": role, "layer": layer, "neurons": count}
        for entry in models
        for role, told in entry["roles"].items() if told
        for layer, count in enumerate(told["by_layer"])
    ]  # fmt: skip
    if not rows or len(models) < 2:
        raise NotDrawn("roles were told of fewer than two models, so there is nothing to compare")
    data = pd.DataFrame(rows)
    some = data.groupby("role", sort=False)["neurons"].sum()
    data = data[data["role"].isin(some[some > 0].index)]
    if data.empty:
        raise NotDrawn("no neuron of any model has a role")
    return Made(
        data.reset_index(drop=True),
        "Neurons of each role by layer, a line for each of "
        f"{of_models(list(data['model'].unique()))}. Roles that no neuron has are left out. "
        f"n = {data['neurons'].sum():,} neurons with a role, each as often as it has one.",
    )


def draw_seeds(data: pd.DataFrame, page: Page) -> None:
    roles = list(data["role"].unique())
    models = list(data["model"].unique())
    made = paint.panels(page, len(roles), columns=4, height=1.2, top=0.55, left=0.4,
                        apart=(0.45, 0.5))  # fmt: skip
    for panel, (role, rows) in zip(made, data.groupby("role", sort=False), strict=True):
        for place, (model, own) in enumerate(rows.groupby("model", sort=False)):
            panel.plot(own["layer"], own["neurons"], "o", markersize=2.5,
                       linestyle=paint.LINES[place % len(paint.LINES)],
                       color=paint.SEVERAL[place % len(paint.SEVERAL)],
                       label=paint.shown(model))  # fmt: skip
        panel.set_title(role)
        panel.set_ylim(0)
        paint.whole_ticks(panel)
    for panel in paint.below(made, 4):
        panel.set_xlabel("layer")
    paint.legend(page, made[0], columns=min(len(models), 6))


def agreement(source: Source) -> Made:
    told = source.told("profile").get("agreement") or {}
    rows = [
        {"group": group, "pairs": each["pairs"], "shown": shown, "share": each[shown],
         "low": each.get(f"{shown}_low"), "high": each.get(f"{shown}_high")}
        for group, each in told.items() if each and each.get("pairs")
        for shown in ("same", "chance")
    ]  # fmt: skip
    if not rows:
        raise NotDrawn("no member of a family has a best match in another model")
    data = pd.DataFrame(rows)
    counts = ", ".join(f"{own['pairs'].iloc[0]:,} of {name.removesuffix('s')} neurons"
                       for name, own in data.groupby("group", sort=False))  # fmt: skip
    return Made(
        data,
        "Best matches in other models that are of the same family as the neuron, beside what a "
        "random neuron of the match's layer would be; 95 % intervals. Universal: excess above "
        f"{source.threshold:g}. n = {counts}.",
    )


def draw_agreement(data: pd.DataFrame, page: Page) -> None:
    (panel,) = paint.panels(page, 1, columns=1, height=0.4 * len(data), left=1.7, right=0.5)
    names = {"same": "best matches", "chance": "by chance"}
    for place, row in enumerate(data.itertuples()):
        color = paint.OWN if row.shown == "same" else paint.BASE
        panel.barh(place, row.share, height=0.6, color=color, alpha=0.75)
        if row.low is not None and not pd.isna(row.low):
            panel.hlines(place, row.low, row.high, color=paint.INK, linewidth=1.2)
    panel.set_yticks(range(len(data)), [f"{row.group}, {names[row.shown]}"
                                        for row in data.itertuples()])  # fmt: skip
    panel.set_ylim(len(data) - 0.4, -0.6)
    panel.tick_params(axis="y", length=0)
    panel.set_xlim(0)
    panel.set_xlabel("share of pairs that are of one family")


def ablations(source: Source) -> Made:
    references = source.summary.get("roles", {}).get("references") or []
    mine: list[dict[str, Any]] = next(
        (each.get("sets") or [] for each in references if each["model"] == source.reference), []
    )
    rows = [
        {"at": each["at"], "layer": "all" if each["layer"] is None else str(each["layer"]),
         "neurons": each["neurons"], "set": group, **each[f"loss_{group}"]}
        for each in mine
        for group in ("universal", "random")
        if (each.get(f"loss_{group}") or {}).get("mean") is not None
    ]  # fmt: skip
    if not rows:
        reasons = source.own("interventions", "null_reason")["null_reason"].dropna()
        raise NotDrawn("; ".join(reasons.unique()) or "no set of neurons was ablated")
    data = pd.DataFrame(rows)
    tokens = source.summary["roles"].get("tokens_intervened")
    whole = data[data["layer"] == "all"]["neurons"]
    return Made(
        data,
        f"Change of the loss when the universal neurons (excess above {source.threshold:g}) of all "
        "layers or of one are held at zero or at their means, and when as many random ones of the "
        f"same layers are, mean over draws; 95 % intervals. n = {tokens or 0:,} tokens"
        + (f", {whole.max():,} neurons in all layers." if len(whole) else "."),
    )


def draw_ablations(data: pd.DataFrame, page: Page) -> None:
    ways = list(data["at"].unique())
    made = paint.panels(page, len(ways), columns=2, height=2.0, top=0.5, left=0.65,
                        apart=(0.75, 0.5))  # fmt: skip
    look = {"random": (paint.BASE, 0.15, "s"), "universal": (paint.OWN, -0.15, "o")}
    for panel, (at, rows) in zip(made, data.groupby("at", sort=False), strict=True):
        layers = list(rows["layer"].unique())
        for group, (color, aside, mark) in look.items():
            own = rows[rows["set"] == group]
            x = np.array([layers.index(each) for each in own["layer"]]) + aside
            panel.vlines(x, own["low"].astype(float), own["high"].astype(float), color=color,
                         linewidth=1.2)  # fmt: skip
            panel.plot(x, own["mean"], mark, color=color, markersize=4, label=group)
        panel.axhline(0, color=paint.GREY, linewidth=0.6)
        panel.set_xticks(range(len(layers)), layers)
        panel.set_title("held at zero" if at == "zero" else "held at their means")
        panel.set_xlabel("layer")
        panel.set_ylabel("change of the loss, nats")
    paint.legend(page, made[0])


FIGURES = (
    Figure(
        name="sweeps", title="Entropy neurons held at a value", chapter=ROLES,
        tables=("interventions",), data=sweeps, draw=draw_sweeps,
        paper={1: "f", 7: "c to f", 25: "c to f"},
    ),
    Figure(
        name="head_scores", title="Neurons that turn heads on and off", chapter=ROLES,
        tables=("heads",), data=head_scores, draw=draw_head_scores, paper={8: "a"},
    ),
    Figure(
        name="head_paths", title="Paths from a neuron to a head, cut", chapter=ROLES,
        tables=("attention",), data=head_paths, draw=draw_head_paths, paper={8: "b, c", 26: ""},
    ),
    Figure(
        name="ablations", title="What it costs to lose universal neurons", chapter=ROLES,
        tables=("summary", "interventions"), data=ablations, draw=draw_ablations,
    ),
    Figure(
        name="seeds", title="Roles in models that were trained alike", chapter=ROLES,
        tables=("summary",), data=seeds, draw=draw_seeds, whole=True,
    ),
    Figure(
        name="agreement", title="Do partners respond to the same?", chapter=ROLES,
        tables=("summary",), data=agreement, draw=draw_agreement,
    ),
)  # fmt: skip
