"""A run's neurons beside a published table: agreement by column, flips, and a picture."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from universal_ray.errors import ConfigurationError, MissingError
from universal_ray.statistics.compare import Agreement, Flips, Table, agreement, flips
from universal_ray.store import Store

NEURONS_PATH = "tables/neurons.parquet"
CHECKED = "tables/profile.json"
PANELS = 4


def compared(
    store: Store, published: str, model: str | None, threshold: float
) -> tuple[dict[str, Agreement], Flips, Table, Table]:
    """Agreement and flips of a run's reference model with a published CSV, and both tables.

    Raises MissingError where a table is not there, ConfigurationError where they do not fit.
    """
    if not Path(published).is_file():
        raise MissingError(f"there is no table {published}: give the path of a CSV file")
    if not store.exists(CHECKED):
        raise MissingError(
            f"{store.url} holds no finished study: run jobs/run.py with the same run.dir first"
        )
    neurons = store.get_table(NEURONS_PATH)
    names = pc.unique(neurons["model"]).to_pylist()
    if model is None and len(names) == 1:
        (model,) = names
    if model not in names:
        raise ConfigurationError(
            f"model={model} is no reference of the run in {store.url}: name one of "
            f"{', '.join(names)}"
        )
    try:
        given = pyarrow.csv.read_csv(published)
    except pa.ArrowInvalid as error:
        line = str(error).splitlines()[0]
        raise ConfigurationError(f"{published} is no table of commas and lines: {line}") from error
    for name in ("layer", "neuron", "excess_corr"):
        if name not in given.column_names:
            raise ConfigurationError(
                f"{published} has no column {name}: give a table as the paper's authors publish it"
            )
    own = _columns(neurons.filter(pc.equal(neurons["model"], model)))
    theirs = _columns(given)
    return agreement(own, theirs), flips(own, theirs, threshold), own, theirs


def _columns(table: pa.Table) -> dict[str, np.ndarray]:
    """Numbers by name, NaN for null."""
    found = {}
    for name in table.column_names:
        column = table[name]
        if name in ("layer", "neuron"):
            found[name] = column.to_numpy().astype(np.int64)
        elif pa.types.is_floating(column.type) or pa.types.is_integer(column.type):
            found[name] = column.cast(pa.float64()).fill_null(float("nan")).to_numpy()
    return found


def rows(found: dict[str, Agreement]) -> list[tuple[str, ...]]:
    """Of a table on screen, the columns that agree least first."""
    ordered = sorted(found.items(), key=lambda entry: entry[1].pearson)
    return [
        (
            name,
            f"{each.neurons:,}",
            f"{each.pearson:.4f}",
            f"{each.median_difference:.2g}",
            f"{each.max_difference:.2g}",
            "-" if each.worst is None else "{}.{}".format(*each.worst),
        )
        for name, each in ordered
    ]


def draw(found: dict[str, Agreement], own: Table, published: Table, path: Path) -> None:
    """A scatter plot of every column, the published value across and ours up."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "universal_ray"
    from matplotlib import pyplot

    place: dict[Any, int] = {
        key: index
        for index, key in enumerate(zip(own["layer"], own["neuron"], strict=True))
    }
    rows_K = [place[key] for key in zip(published["layer"], published["neuron"], strict=True)]
    lines = -(-len(found) // PANELS)
    figure, axes = pyplot.subplots(
        lines, PANELS, figsize=(3 * PANELS, 2.8 * lines), squeeze=False, layout="constrained"
    )
    for panel in axes.flat[len(found) :]:
        panel.set_visible(False)
    for panel, (name, each) in zip(axes.flat, found.items(), strict=False):
        panel.plot(published[name], own[name][rows_K], ".", markersize=2, alpha=0.5)
        panel.axline((float(np.nanmedian(published[name])),) * 2, slope=1, linewidth=0.5, color="k")
        panel.set_title(f"{name}, r = {each.pearson:.3f}", fontsize=8)
        panel.tick_params(labelsize=6)
    figure.supxlabel("published", fontsize=8)
    figure.supylabel("this run", fontsize=8)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
