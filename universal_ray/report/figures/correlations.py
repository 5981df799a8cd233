"""Figures of what correlates with what: Figures 2, 11, 12 and 13 of the paper, and our own."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure as Page

from universal_ray.report.figures import paint
from universal_ray.report.figures.bins import by_group, cells, counted, edges_of
from universal_ray.report.figures.figure import UNIVERSALITY, Figure, Made
from universal_ray.report.figures.source import NotDrawn, Source, check_neurons
from universal_ray.report.units import chance, other_models

QUANTITIES = {
    "mean_corr": "best match", "mean_baseline": "best by chance", "excess_corr": "excess",
}
LEVELS = (0.4, 0.45, 0.5)
"""Excess correlations beside the threshold: it is a cliff."""
UNIVERSAL, OTHERS = "universal", "others"
MOST_NAMES = 12
FEW_LAYERS = 8
"""Of a matrix whose cells have room for their numbers."""


def densities(source: Source) -> Made:
    threshold = source.threshold
    rows = source.rows("neurons", "model", *QUANTITIES).dropna()
    check_neurons(len(rows), "with a correlation")
    groups = {
        (model, told): own[name].to_numpy()
        for model, own in rows.groupby("model", sort=False)
        for name, told in QUANTITIES.items()
    }
    edges = edges_of(*groups.values(), high=threshold)
    universal = (rows["excess_corr"] > threshold).groupby(rows["model"], sort=False).sum()
    told = "; ".join(f"{model}: n = {len(own):,}, {universal[model]:,} universal"
                     for model, own in rows.groupby("model", sort=False))  # fmt: skip
    return Made(
        by_group(groups, ("model", "quantity"), edges).assign(threshold=threshold),
        "Best correlation of every neuron with those of another model, the best with that "
        f"model {chance(source.summary)}, and the excess of the first over the second, each a mean "
        f"over the other models. The line is the threshold, an excess of {threshold:g}. {told}.",
    )


def draw_densities(data: pd.DataFrame, page: Page) -> None:
    models = list(data["model"].unique())
    made = paint.panels(page, len(models), columns=3, height=2.0, top=0.5, left=0.15,
                        apart=(0.2, 0.5))  # fmt: skip
    look = {
        "best match": (paint.OWN, "-"), "best by chance": (paint.BASE, "--"),
        "excess": (paint.INK, "-"),
    }  # fmt: skip
    for panel, (model, rows) in zip(made, data.groupby("model", sort=False), strict=True):
        for quantity, own in rows.groupby("quantity", sort=False):
            color, line = look[quantity]
            filled = quantity == "best match"
            paint.steps(panel, own, color=color, line=line, label=quantity, filled=filled)
        panel.axvline(rows["threshold"].iloc[0], color=paint.SOFT, linewidth=0.7, linestyle=":")
        if len(models) > 1:
            panel.set_title(paint.shown(model))
        panel.set_ylim(0)
        paint.hide_heights(panel)
    for panel in paint.below(made, 3):
        panel.set_xlabel("correlation")
    paint.legend(page, made[0])


def spread(source: Source) -> Made:
    rows = source.own("neurons", "max_corr", "min_corr", "is_universal").dropna()
    check_neurons(len(rows), "with a correlation")
    group = np.where(rows["is_universal"].astype(bool), UNIVERSAL, OTHERS)
    data = cells(rows["min_corr"].to_numpy(), rows["max_corr"].to_numpy(), group)
    apart = (rows["max_corr"] - rows["min_corr"]).groupby(group).mean()
    told = ", ".join(f"{apart[name]:.3f} of {(group == name).sum():,} {name}"
                     for name in (UNIVERSAL, OTHERS) if name in apart.index)  # fmt: skip
    return Made(
        data,
        "The best match in the model where it is worst, and where it is best: a neuron on the line "
        f"has an equal in all. n = {len(rows):,}; mean difference {told} (excess above "
        f"{source.threshold:g}). Darker squares hold more neurons, on a logarithmic scale.",
    )


def draw_cells(data: pd.DataFrame, page: Page, x: str, y: str) -> None:
    """Universal neurons beside the others, on one scale."""
    made = paint.panels(page, 2, columns=2, height=2.7, apart=(0.7, 0.5), top=0.4, left=0.7)
    for panel, name, colors in zip(made, (OTHERS, UNIVERSAL), ("Greys", "Blues"), strict=True):
        own = data[data["group"] == name]
        panel.set_title(f"{name}, n = {own['neurons'].sum():,}")
        if len(own):
            paint.heat(panel, own, colors)
        panel.set_xlim(data["x_low"].min(), data["x_high"].max())
        panel.set_ylim(data["y_low"].min(), data["y_high"].max())
        panel.set_xlabel(x)
        panel.set_ylabel(y)


def draw_spread(data: pd.DataFrame, page: Page) -> None:
    draw_cells(data, page, "worst of the best matches", "best of them")
    for panel in page.axes:
        panel.axline((0, 0), slope=1, color=paint.SOFT, linewidth=0.6)


def depth(source: Source) -> Made:
    rows = source.own("pairs", "other", "layer", "max_layer").dropna()
    check_neurons(len(rows), "with a partner")
    others = rows.groupby("other", sort=False)
    layers = range(int(rows["layer"].max()) + 1)
    partner_layers = range(int(rows["max_layer"].max()) + 1)
    shares = []
    for _, own in others:
        count = pd.crosstab(own["layer"], own["max_layer"])
        count = count.reindex(index=layers, columns=partner_layers, fill_value=0)
        total = count.sum(axis=1)
        shares.append(count.div(total.where(total > 0), axis=0))
    mean = pd.concat(shares).groupby(level=0).mean()
    many = rows.groupby("layer").size()
    data = mean.stack(future_stack=True).rename("share").reset_index()
    data.columns = ["layer", "partner_layer", "share"]
    data["partners"] = data["layer"].map(many).fillna(0).astype(int)
    near = (np.abs(rows["layer"] - rows["max_layer"]) <= 1).mean()
    return Made(
        data,
        f"Layer of the best match, by the layer of the neuron: shares of a row add up to 1. Mean "
        f"over {other_models(len(shares))}, n = {len(rows):,} best matches; {near:.0%} of them lie "
        "in the same layer or next to it.",
    )


def draw_depth(data: pd.DataFrame, page: Page) -> None:
    shares = data.pivot(index="layer", columns="partner_layer", values="share")
    draw_matrix(page, shares.to_numpy(), "layer of the best match", "layer of the neuron", "share")
    panel = page.axes[0]
    for axis, count in ((panel.xaxis, shares.shape[1]), (panel.yaxis, shares.shape[0])):
        named = range(0, count, -(-count // MOST_NAMES))
        axis.set_ticks([each + 0.5 for each in named], [str(each) for each in named])


def draw_matrix(page: Page, values: np.ndarray, across: str, down: str, what: str) -> None:
    """Shares from 0 to 1, the first row on top, with their numbers where there is room."""
    (panel,) = paint.panels(page, 1, columns=1, height=3.6, left=1.6, right=2.0)
    rows, columns = values.shape
    mesh = panel.pcolormesh(values, cmap="Blues", vmin=0, vmax=1, rasterized=rows * columns > 400)
    panel.set_xlim(0, columns)
    panel.set_ylim(rows, 0)
    if max(rows, columns) <= FEW_LAYERS:
        for (row, column), value in np.ndenumerate(values):
            text = "" if np.isnan(value) else f"{value:.0%}"
            color = "white" if value > 0.55 else paint.INK
            panel.text(column + 0.5, row + 0.5, text, ha="center", va="center", color=color)
    panel.set_xlabel(across)
    panel.set_ylabel(down)
    beside = panel.get_position()
    scale = page.add_axes((beside.x1 + 0.02, beside.y0, 0.015, beside.height))
    page.colorbar(mesh, cax=scale, label=what)


def layers(source: Source) -> Made:
    levels = sorted({*LEVELS, source.threshold})
    rows = source.rows("neurons", "model", "layer", "excess_corr").dropna()
    check_neurons(len(rows), "with a correlation")
    data = pd.DataFrame([
        {"model": model, "layer": layer, "above": level, "neurons": len(own),
         "universal": int((own["excess_corr"] > level).sum()),
         "share": float((own["excess_corr"] > level).mean())}
        for (model, layer), own in rows.groupby(["model", "layer"], sort=False)
        for level in levels
    ])  # fmt: skip
    return Made(
        data,
        "Share of a layer's neurons whose excess correlation lies above a level. "
        f"n = {len(rows):,} neurons; the run's threshold is {source.threshold:g}.",
    )


def draw_layers(data: pd.DataFrame, page: Page) -> None:
    models = list(data["model"].unique())
    made = paint.panels(page, len(models), columns=3, height=1.9, top=0.5, left=0.55,
                        apart=(0.5, 0.5))  # fmt: skip
    for panel, (model, rows) in zip(made, data.groupby("model", sort=False), strict=True):
        for place, (level, own) in enumerate(rows.groupby("above")):
            panel.plot(
                own["layer"], own["share"], "o", linestyle=paint.LINES[place], markersize=3,
                color=paint.SEVERAL[place], label=f"above {level:g}",
            )  # fmt: skip
        if len(models) > 1:
            panel.set_title(paint.shown(model))
        panel.set_ylim(0)
        panel.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.3g} %")
        paint.whole_ticks(panel)
    for panel in paint.below(made, 3):
        panel.set_xlabel("layer")
    paint.legend(page, made[0])


def baseline_draws(source: Source) -> Made:
    threshold = source.threshold
    pairs = source.own("pairs", "layer", "neuron", "max_corr", "baseline_draws").dropna()
    check_neurons(len(pairs), "with a baseline")
    lengths = {len(each) for each in pairs["baseline_draws"]}
    if len(lengths) != 1 or max(lengths) < 2:
        raise NotDrawn(
            "one baseline was drawn (baseline.rotations=1), and there is none to compare it with"
        )
    draws = pd.DataFrame(np.stack(pairs["baseline_draws"].to_list()), index=pairs.index)
    mean = draws.groupby([pairs["layer"], pairs["neuron"]]).mean()
    best = pairs.groupby(["layer", "neuron"])["max_corr"].mean()
    edges = edges_of(mean.to_numpy().ravel())
    parts = [
        counted(own.to_numpy(), edges).assign(
            draw=draw, universal=int((best - own > threshold).sum())
        )
        for draw, own in mean.items()
    ]
    counts = [int(part["universal"].iloc[0]) for part in parts]
    return Made(
        pd.concat(parts, ignore_index=True),
        f"The best match in a {chance(source.summary)} model, mean over the other models, by draw. "
        f"n = {len(mean):,} neurons, {len(parts)} draws; above an excess of {threshold:g} lie from "
        f"{min(counts):,} to {max(counts):,} neurons, whichever draw alone is the baseline.",
    )


def draw_baseline_draws(data: pd.DataFrame, page: Page) -> None:
    (panel,) = paint.panels(page, 1, columns=1, height=2.2, left=0.2, right=2.0)
    for place, (draw, own) in enumerate(data.groupby("draw")):
        told = f"draw {draw}: {own['universal'].iloc[0]:,} universal"
        paint.steps(
            panel, own, color=paint.SEVERAL[place % len(paint.SEVERAL)],
            line=paint.LINES[place % len(paint.LINES)], label=told,
        )  # fmt: skip
    panel.set_ylim(0)
    panel.set_xlabel("best correlation by chance")
    paint.hide_heights(panel)
    paint.legend_beside(panel)


def persistence(source: Source) -> Made:
    followed = source.summary.get("followed") or ()
    if not followed:
        raise NotDrawn("no model was followed through its training (models.revisions)")
    data = pd.DataFrame([
        {"model": told["model"], "revision": revision, "at": other,
         "universal": told["universal"][place], "overlap": told["overlap"][place][beside],
         "persistence": told["persistence"][place][beside],
         "jaccard": told["jaccard"][place][beside]}
        for told in followed
        for place, revision in enumerate(told["revisions"])
        for beside, other in enumerate(told["revisions"])
    ])  # fmt: skip
    counts = "; ".join(
        f"{told['model']}: " + ", ".join(
            f"{many if many is not None else 'not measured'} at {revision}"
            for revision, many in zip(told["revisions"], told["universal"], strict=True)
        ) for told in followed
    )  # fmt: skip
    return Made(
        data,
        "Of the neurons that are universal at one step of training, the share that is so at "
        f"another. Universal neurons (excess above {source.threshold:g}), n: {counts}.",
    )


def draw_persistence(data: pd.DataFrame, page: Page) -> None:
    models = list(data["model"].unique())
    made = paint.panels(page, len(models), columns=2, height=2.4, top=0.5, left=0.6,
                        apart=(0.6, 0.6))  # fmt: skip
    for panel, (model, rows) in zip(made, data.groupby("model", sort=False), strict=True):
        steps = list(rows["revision"].unique())
        for place, (revision, own) in enumerate(rows.groupby("revision", sort=False)):
            panel.plot(
                range(len(steps)), own["persistence"].astype(float), "o", markersize=3,
                linestyle=paint.LINES[place % len(paint.LINES)],
                color=paint.SEVERAL[place % len(paint.SEVERAL)],
                label=f"universal at {paint.shown(str(revision))}",
            )  # fmt: skip
        panel.set_xticks(range(len(steps)), [paint.shown(str(each), 12) for each in steps])
        panel.set_ylim(0, 1.02)
        panel.set_title(paint.shown(model))
        panel.set_ylabel("share that is so")
        panel.legend(fontsize=6, loc="lower right")
    for panel in paint.below(made, 2):
        panel.set_xlabel("at revision")


FIGURES = (
    Figure(
        name="densities", title="Best matches, baselines and excess",
        chapter=UNIVERSALITY, tables=("neurons", "summary"), data=densities, draw=draw_densities,
        paper={2: "a", 11: "", 12: "a", 13: "a"}, whole=True,
    ),
    Figure(
        name="spread", title="Is it universal in all models?", chapter=UNIVERSALITY,
        tables=("neurons", "summary"), data=spread, draw=draw_spread,
        paper={2: "b", 12: "b", 13: "b"},
    ),
    Figure(
        name="depth", title="How deep partners lie", chapter=UNIVERSALITY, tables=("pairs",),
        data=depth, draw=draw_depth, paper={2: "c", 12: "c", 13: "c"},
    ),
    Figure(
        name="layers", title="Universal neurons by layer", chapter=UNIVERSALITY,
        tables=("neurons", "summary"), data=layers, draw=draw_layers, whole=True,
    ),
    Figure(
        name="baseline_draws", title="Draws of the baseline", chapter=UNIVERSALITY,
        tables=("pairs", "summary"), data=baseline_draws, draw=draw_baseline_draws,
    ),
    Figure(
        name="persistence", title="Universal neurons through training", chapter=UNIVERSALITY,
        tables=("summary",), data=persistence, draw=draw_persistence, whole=True,
    ),
)  # fmt: skip
