"""A run's neurons beside a published table: agreement by column, flips, and a picture."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from universal_ray.config.site import FORMER
from universal_ray.errors import ConfigurationError, MissingError, StorageError
from universal_ray.maths.moments.shift import SHIFTED
from universal_ray.maths.statistics.comparison import (
    WEIGHTS,
    Agreement,
    Flips,
    Table,
    agreement,
    flips,
    other_weights,
    published_sparsity,
)
from universal_ray.report.run import Run
from universal_ray.report.screen import UNDEFINED, figure
from universal_ray.report.units import chance
from universal_ray.storage.failures import reason
from universal_ray.storage.finished import PROFILE
from universal_ray.storage.store import Store

PANELS = 4


@dataclass(frozen=True)
class Compared:
    """A run's reference model beside a published table."""

    columns: dict[str, Agreement]
    flips: Flips
    own: Table
    published: Table
    notes: list[str]
    """what else is to be known of it, in sentences"""


def compared(store: Store, published: str, model: str | None, threshold: float) -> Compared:
    """A run's reference model beside a published CSV.

    Raises MissingError where a table is not there, ConfigurationError where they do not fit or are
    of models with other weights.
    """
    if not -1 <= threshold <= 2:
        raise ConfigurationError(f"threshold is {threshold}: give a correlation")
    run = Run(store)
    if PROFILE not in run.stages:
        raise MissingError(
            f"{store.url} holds no profile that is finished: the run's command with "
            "stages=[profile] makes it"
        )
    if run.site not in FORMER:
        raise ConfigurationError(
            f"the run in {store.url} is of the site {run.site}, and published tables are of "
            "neurons: compare a run of mlp_post"
        )
    theirs = read_published(published)
    neurons = run.table("neurons")
    names = pc.unique(neurons["model"]).to_pylist()
    if model is None and len(names) == 1:
        (model,) = names
    if model is None or model not in names:
        raise ConfigurationError(
            f"model={model} is no reference of the run in {store.url}: name one of "
            f"{', '.join(names)}"
        )
    own = _columns(neurons.filter(pc.equal(neurons["model"], model)))
    for name in own:
        if name in theirs and not np.issubdtype(theirs[name].dtype, np.number):
            raise ConfigurationError(
                f"column {name} of {published} has {theirs[name][0]!r} where numbers belong: give "
                "a table as the paper's authors publish it"
            )
    notes = []
    if "sparsity" in own.keys() & theirs.keys():
        own["sparsity"] = _their_sparsity(run, model, own)
        notes.append(
            "sparsity is compared as the authors' code counts it, by our histogram: "
            "pre-activations above -0.098, where the run's own column has those above zero"
        )
    found = agreement(own, theirs)
    apart = other_weights(found)
    if apart:
        notes.append(
            f"{', '.join(apart)} are of weights alone, and differ: see whether the table is of "
            "this model, and taxonomy.convention (the authors' is folded)"
        )
    elif not found.keys() & set(WEIGHTS):
        notes.append("the tables share no column of weights, so that nothing shows one model")
    if chance(run.summary) == SHIFTED:
        notes.append(
            "excess_corr is over other tokens in the run (baseline.kind=shifted), and over "
            "rotations in published tables"
        )
    return Compared(found, flips(own, theirs, threshold), own, theirs, notes)


def _their_sparsity(run: Run, model: str, own: Table) -> np.ndarray:
    """By neuron, in the order of our table."""
    table = run.table("statistics", ["model", "layer", "neuron", "histogram"])
    table = table.filter(pc.equal(table["model"], model))
    counts = np.stack(table["histogram"].to_numpy())
    keys = zip(table["layer"].to_pylist(), table["neuron"].to_pylist(), strict=True)
    share = dict(zip(keys, published_sparsity(counts), strict=True))
    wanted = zip(own["layer"].tolist(), own["neuron"].tolist(), strict=True)
    return np.array([share[key] for key in wanted])


def read_published(path: str) -> dict[str, np.ndarray]:
    """Columns of a published table: numbers, NaN for null, or objects where it has others.

    Raises MissingError where there is no such file, ConfigurationError where it is no table of
    neurons: rows with a whole `layer` and `neuron` and a finite `excess_corr`.
    """
    path = os.path.expanduser(path)
    advice = "give a table as the paper's authors publish it"
    if not Path(path).is_file():
        raise MissingError(f"there is no table {path}: give the path of a CSV file")
    try:
        given = pyarrow.csv.read_csv(path)
        names = given.column_names
    except (pa.ArrowException, OSError, UnicodeError) as error:
        line = str(error).splitlines()[0].rstrip(".")
        raise ConfigurationError(
            f"{path} is no table of commas and lines ({line}): {advice}"
        ) from error
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise ConfigurationError(f"{path} has two columns {twice[0]}: {advice}")
    for name in ("layer", "neuron", "excess_corr"):
        if name not in names:
            raise ConfigurationError(f"{path} has no column {name}: {advice}")
    if not given.num_rows:
        raise ConfigurationError(f"{path} has no rows: {advice}")
    found = {name: _numbers(given[name]) for name in names}
    for name, what in (("layer", "whole"), ("neuron", "whole"), ("excess_corr", "finite")):
        values = found[name]
        good = np.issubdtype(values.dtype, np.number) and bool(np.isfinite(values).all())
        if not good or (what == "whole" and bool((values != values.round()).any())):
            raise ConfigurationError(
                f"column {name} of {path} has other values than {what} numbers: {advice}"
            )
    return {**found, **{name: found[name].astype(np.int64) for name in ("layer", "neuron")}}


def _columns(table: pa.Table) -> dict[str, np.ndarray]:
    """Numbers by name, NaN for null."""
    found = {name: _numbers(table[name]) for name in table.column_names}
    found = {name: each for name, each in found.items() if np.issubdtype(each.dtype, np.number)}
    return {**found, **{name: found[name].astype(np.int64) for name in ("layer", "neuron")}}


def _numbers(column: pa.ChunkedArray) -> np.ndarray:
    """Float64, NaN for null; objects where it is no column of numbers."""
    kind = column.type
    if pa.types.is_null(kind) or pa.types.is_floating(kind) or pa.types.is_integer(kind):
        floats = column.cast(pa.float64(), safe=False)
        values: np.ndarray = floats.fill_null(float("nan")).to_numpy()
        return values
    return np.array(column.to_pylist(), dtype=object)


HEADS = "column", "neurons", "apart", "r", "median apart", "most apart", "where"
"""Of a table on screen."""


def rows(found: dict[str, Agreement]) -> list[tuple[str, ...]]:
    """Weights first, then the rest: in each those that are furthest apart first, by their relative
    difference, and those without values last.
    """

    def place(name: str) -> tuple[Any, ...]:
        each = found[name]
        apart = (False, -each.relative_difference) if each.neurons else (True, 0.0)
        return name not in WEIGHTS, *apart, name

    return [
        (
            name,
            f"{each.neurons:,}",
            figure(each.relative_difference, ".2g"),
            figure(each.pearson, ".4f"),
            figure(each.median_difference, ".2g"),
            figure(each.max_difference, ".2g"),
            UNDEFINED if each.worst is None else "{}.{}".format(*each.worst),
        )
        for name, each in ((name, found[name]) for name in sorted(found, key=place))
    ]


def draw(found: dict[str, Agreement], own: Table, published: Table, path: Path) -> None:
    """A scatter plot of every column that has values in both tables, the published ones across.

    Raises StorageError where `path` takes no picture.
    """
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "universal_ray"
    from matplotlib import pyplot

    place: dict[Any, int] = {
        key: index
        for index, key in enumerate(zip(own["layer"], own["neuron"], strict=True))
    }
    rows_K = [place[key] for key in zip(published["layer"], published["neuron"], strict=True)]
    found = {name: each for name, each in found.items() if each.neurons}
    lines = max(-(-len(found) // PANELS), 1)
    page, axes = pyplot.subplots(
        lines, PANELS, figsize=(3 * PANELS, 2.8 * lines), squeeze=False, layout="constrained"
    )
    for panel in axes.flat[len(found) :]:
        panel.set_visible(False)
    for panel, (name, each) in zip(axes.flat, found.items(), strict=False):
        panel.plot(published[name], own[name][rows_K], ".", markersize=2, alpha=0.5)
        panel.axline((float(np.nanmedian(published[name])),) * 2, slope=1, linewidth=0.5, color="k")
        panel.set_title(f"{name}, r = {each.pearson:.3f}", fontsize=8)
        panel.tick_params(labelsize=6)
    page.supxlabel("published", fontsize=8)
    page.supylabel("this run", fontsize=8)
    try:
        page.savefig(path, format="svg", metadata={"Date": None})
    except OSError as error:
        raise StorageError(
            f"the picture {path} cannot be written ({reason(error)}): give picture=FILE.svg in a "
            "folder of yours"
        ) from error
    finally:
        pyplot.close(page)
