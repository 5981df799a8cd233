"""Counts of values in bins, as rows of a frame. Pure.

Shapes: N values, H bins.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from universal_ray.maths.statistics.activations import EDGES

CELLS = 80
"""Bins along each axis of a picture of two numbers."""
SPIKE = 0.9
"""Share of a histogram in one bin, of which nothing but this bin is seen."""
NICE = np.array([1, 2, 2.5, 5, 10])


def edges_of(*given: np.ndarray, bins: int = CELLS, high: float = 0.0) -> np.ndarray:
    """Edges of equal bins, at most so many and of a width that people use, that hold all finite
    values and all from 0 to `high`.
    """
    some = np.concatenate([each[np.isfinite(each)] for each in given])
    first, last = some.min(initial=0.0), some.max(initial=high)
    rough = max((last - first) / (bins - 2), 1e-12)
    scale = 10.0 ** np.floor(np.log10(rough))
    width = scale * NICE[np.searchsorted(NICE, rough / scale - 1e-9)]
    edges: np.ndarray = width * np.arange(np.floor(first / width), np.floor(last / width) + 2)
    return edges


def counted(values_N: np.ndarray, edges: np.ndarray) -> pd.DataFrame:
    """A row for each bin: its ends, the neurons in it, and their density."""
    finite = values_N[np.isfinite(values_N)]
    count_H, _ = np.histogram(finite, edges)
    return pd.DataFrame({
        "low": edges[:-1], "high": edges[1:], "neurons": count_H,
        "density": count_H / (max(len(finite), 1) * np.diff(edges)),
    })  # fmt: skip


def by_group(
    groups: Mapping[Any, np.ndarray], names: tuple[str, ...], edges: np.ndarray
) -> pd.DataFrame:
    """The same of several groups, one after the other; a key has a value for each of `names`."""
    parts = []
    for key, values in groups.items():
        part = counted(values, edges)
        for place, (name, value) in enumerate(zip(names, key, strict=True)):
            part.insert(place, name, value)
        parts.append(part)
    return pd.concat(parts, ignore_index=True)


def cells(x_N: np.ndarray, y_N: np.ndarray, group_N: np.ndarray) -> pd.DataFrame:
    """A row for each square that holds neurons of a group; those of every group have one grid."""
    known = np.isfinite(x_N) & np.isfinite(y_N)
    x_edges, y_edges = edges_of(x_N[known]), edges_of(y_N[known])
    parts = []
    for group in dict.fromkeys(group_N[known].tolist()):
        here = known & (group_N == group)
        counts, _, _ = np.histogram2d(x_N[here], y_N[here], (x_edges, y_edges))
        across, up = np.nonzero(counts)
        parts.append(pd.DataFrame({
            "group": group, "x_low": x_edges[across], "x_high": x_edges[across + 1],
            "y_low": y_edges[up], "y_high": y_edges[up + 1],
            "neurons": counts[across, up].astype(np.int64),
        }))  # fmt: skip
    return pd.concat(parts, ignore_index=True)


def of_activations(histograms: pd.DataFrame) -> pd.DataFrame:
    """Rows with a `histogram` of 257 bins of pre-activations, as a row for each bin: ends, tokens,
    and density. Bins before the first and after the last with a token are left out, for all rows of
    one `panel` alike; the outermost of all have no end, and are drawn as wide as the others.
    """
    return pd.concat(_of_activations(histograms), ignore_index=True)


def spiked(bins: pd.DataFrame) -> bool:
    """Whether in most panels one bin holds nearly all of a group, as zero does of what is sparse:
    where areas are 1, nothing else is seen of it unless heights are logarithmic.
    """
    over = bins.groupby(["panel", "group"])["tokens"]
    return bool((over.max() / over.sum()).groupby("panel").max().median() > SPIKE)


def heights(bins: pd.DataFrame) -> str:
    """What a caption says of heights that are not in proportion."""
    return " Heights are logarithmic." if spiked(bins) else ""


def _of_activations(histograms: pd.DataFrame) -> Iterator[pd.DataFrame]:
    inner = EDGES.numpy()
    width = inner[1] - inner[0]
    edges = np.concatenate([[inner[0] - width], inner, [inner[-1] + width]])
    for _, rows in histograms.groupby("panel", sort=False):
        counts = np.stack(rows["histogram"].to_list()).astype(np.int64)
        there = np.flatnonzero(counts.sum(0))
        kept = slice(there[0], there[-1] + 1) if len(there) else slice(0, 1)
        for count, (_, row) in zip(counts, rows.drop(columns="histogram").iterrows(), strict=True):
            yield pd.DataFrame({
                **row, "low": edges[:-1][kept], "high": edges[1:][kept], "tokens": count[kept],
                "density": count[kept] / (max(count.sum(), 1) * width),
            })  # fmt: skip
