"""Figures of whole layers beside whole layers."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Page

from universal_ray.report.figures import paint
from universal_ray.report.figures.figure import UNIVERSALITY, Figure, Made
from universal_ray.report.figures.source import NotDrawn, Source
from universal_ray.report.units import other_models

MOST_NAMES = 8
FEW_LAYERS = 6
"""Of a matrix whose cells have room for their numbers."""


def _rows(source: Source) -> pd.DataFrame:
    """Of the reference model, with a value; `other_layer` -1 for the best of all."""
    columns = ("measure", "other", "layer", "other_layer", "value", "se", "null", "n")
    rows = source.own("similarity", *columns)
    if not len(rows):
        raise NotDrawn("the study asks for no measure of layers (similarity.measures)")
    rows = rows.assign(other_layer=rows["other_layer"].fillna(-1).astype(int))
    rows = rows.dropna(subset=["value", "null"])
    if not len(rows):
        raise NotDrawn("no layer has a measure: similarity.parquet says when")
    return rows


def matrices(source: Source) -> Made:
    rows = _rows(source)
    cells = rows[rows["other_layer"] >= 0]
    if not len(cells):
        raise NotDrawn("similarity.parquet has rows of the most similar layers alone")
    keys = ["measure", "layer", "other_layer"]
    data = cells.groupby(keys, sort=False).agg(
        value=("value", "mean"), null=("null", "mean"), others=("other", "size")
    ).reset_index()  # fmt: skip
    chance = "; ".join(f"{name}: {own['null'].mean():.3g}"
                       for name, own in data.groupby("measure", sort=False))  # fmt: skip
    return Made(
        data,
        "How alike each layer is to each layer of another model, mean over "
        f"{other_models(cells['other'].nunique())}, n = {int(cells['n'].iloc[0]):,} tokens. "
        f"Mean of what chance gives: {chance}.",
    )


def draw_matrices(data: pd.DataFrame, page: Page) -> None:
    measures = list(data["measure"].unique())
    made = paint.panels(page, len(measures), columns=3, height=2.0, right=0.7, apart=(0.45, 0.65))
    meshes = []
    for panel, (name, own) in zip(made, data.groupby("measure", sort=False), strict=True):
        values = own.pivot(index="layer", columns="other_layer", values="value")
        meshes.append(
            panel.pcolormesh(values.to_numpy(), cmap="Blues", vmin=0, vmax=1,
                             rasterized=values.size > 400)
        )  # fmt: skip
        _name_layers(panel, *values.shape)
        if max(values.shape) <= FEW_LAYERS:
            for (row, column), value in np.ndenumerate(values.to_numpy()):
                text = "" if np.isnan(value) else f"{value:.2f}"
                color = "white" if value > 0.55 else paint.INK
                panel.text(column + 0.5, row + 0.5, text, ha="center", va="center", color=color,
                           fontsize=6)  # fmt: skip
        panel.set_title(name)
    for panel in paint.below(made, 3):
        panel.set_xlabel("layer of the other model")
    made[0].set_ylabel("layer")
    beside = made[0].get_position()
    scale = page.add_axes((1 - 0.55 / paint.INCHES, beside.y0, 0.012, beside.height))
    page.colorbar(meshes[0], cax=scale)


def _name_layers(panel: Axes, rows: int, columns: int) -> None:
    """The first layer on top."""
    panel.set_xlim(0, columns)
    panel.set_ylim(rows, 0)
    for axis, count in ((panel.xaxis, columns), (panel.yaxis, rows)):
        named = range(0, count, -(-count // MOST_NAMES))
        axis.set_ticks([each + 0.5 for each in named], [str(each) for each in named])


def best_layers(source: Source) -> Made:
    rows = _rows(source)
    best = rows[rows["other_layer"] < 0]
    if not len(best):
        raise NotDrawn("similarity.parquet has no rows of the most similar layers")
    data = best[["measure", "other", "layer", "value", "se", "null"]].reset_index(drop=True)
    above = (data["value"] > data["null"]).groupby(data["measure"], sort=False).mean()
    told = ", ".join(f"{name} {share:.0%}" for name, share in above.items())
    return Made(
        data,
        "Each layer beside the layer of another model that is most like it, a line for each of "
        f"{other_models(data['other'].nunique())}, with standard errors; dashed, the largest over "
        "as many layers of what chance gives. Layers above it: "
        f"{told}. n = {int(best['n'].iloc[0]):,} tokens.",
    )


def draw_best_layers(data: pd.DataFrame, page: Page) -> None:
    measures = list(data["measure"].unique())
    made = paint.panels(page, len(measures), columns=3, height=1.6, top=0.5, apart=(0.45, 0.5))
    for panel, (name, own) in zip(made, data.groupby("measure", sort=False), strict=True):
        for place, (other, each) in enumerate(own.groupby("other", sort=False)):
            color = paint.SEVERAL[place % len(paint.SEVERAL)]
            panel.errorbar(each["layer"], each["value"], each["se"].fillna(0), fmt="o-",
                           color=color, markersize=2.5, label=paint.shown(str(other)))  # fmt: skip
            panel.plot(each["layer"], each["null"], "--", color=color, linewidth=0.8)
        panel.set_title(name)
        panel.set_ylim(0)
        paint.whole_ticks(panel)
    for panel in paint.below(made, 3):
        panel.set_xlabel("layer")
    paint.legend(page, made[0])


FIGURES = (
    Figure(
        name="similarity", title="How alike layers are", chapter=UNIVERSALITY,
        tables=("similarity",), data=matrices, draw=draw_matrices,
    ),
    Figure(
        name="best_layers", title="How alike the most similar layers are, and by chance",
        chapter=UNIVERSALITY, tables=("similarity",), data=best_layers, draw=draw_best_layers,
    ),
)  # fmt: skip
