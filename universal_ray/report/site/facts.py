"""The front page: what was asked and answered, as the page draws it. Numbers alone, no picture."""

from typing import Any

import numpy as np
import pyarrow as pa

from universal_ray.report.site.columns import NUMBER, Column
from universal_ray.report.site.gather import Block, Gathered, numbers

BINS = 64
THRESHOLDS = (0.4, 0.45, 0.5)
"""Excess correlations whose counts are told, beside the run's own threshold: it is a cliff."""
STRONGEST = 12
OF_TABLES = ("layers", "partner_layers", "excess_above", "mutual_share", "published", "others",
             "neurons_without_correlation", "reasons_without_correlation")  # fmt: skip


def front(found: Gathered, columns: list[Column]) -> list[dict[str, Any]]:
    """Of every reference model what its page tells, in the order of the run."""
    told = {entry["model"]: entry for entry in found.summary.get("references", [])}
    of_roles = found.summary.get("roles", {}).get("references", [])
    roles = {entry["model"]: entry for entry in of_roles}
    known = {column.name: column.values for column in columns if column.kind == NUMBER}
    pages = []
    for block in found.blocks:
        if block.model in told or (not told and _has_excess(known, block)):
            page = _reference(found, block, known, told.get(block.model, {}))
            page["roles"] = roles.get(block.model)
            pages.append(page)
    return pages


def _has_excess(known: dict[str, np.ndarray], block: Block) -> bool:
    excess = known.get("excess_corr")
    return excess is not None and bool(np.isfinite(_of(block, excess)).any())


def _of(block: Block, values: np.ndarray) -> np.ndarray:
    return values[block.start : block.start + block.neurons]


def _reference(
    found: Gathered, block: Block, known: dict[str, np.ndarray], told: dict[str, Any]
) -> dict[str, Any]:
    page: dict[str, Any] = {"model": block.model, "label": block.label, "neurons": block.neurons}
    page |= {name: told.get(name) for name in OF_TABLES}
    profile = told.get("profile") or {}
    page |= {name: profile.get(name)
             for name in ("universal_against_others", "families", "agreement")}  # fmt: skip
    exact = found.column("neurons", "excess_corr")
    if exact is None or "excess_corr" not in known:
        return page
    excess = _of(block, exact)
    threshold = found.summary.get("threshold")
    page["counts"] = [
        {"threshold": each, "count": int((excess > each).sum())}
        for each in sorted({*THRESHOLDS, *([threshold] if threshold is not None else [])})
    ]
    page["by_layer"] = [
        {
            "layer": layer, "neurons": block.width,
            "above": {str(each): int((row > each).sum()) for each in THRESHOLDS},
        }
        for layer, row in enumerate(excess.reshape(block.layers, block.width))
    ]  # fmt: skip
    page["measured"] = int(np.isfinite(excess).sum())
    page["histograms"] = _histograms(found, block, known, excess)
    order = np.argsort(-np.nan_to_num(excess, nan=-np.inf), kind="stable")
    page["strongest"] = [int(block.start + place) for place in order[:STRONGEST]
                         if np.isfinite(excess[place])]  # fmt: skip
    return page


def _histograms(
    found: Gathered, block: Block, known: dict[str, np.ndarray], excess: np.ndarray
) -> dict[str, Any]:
    """Of correlations and of what they exceed: each with that by chance."""
    best, baseline = (_of(block, known[name]) for name in ("mean_corr", "mean_baseline"))
    return {
        "correlation": _binned(own=best, chance=baseline),
        "excess": _binned(own=excess, chance=_excess_by_chance(found, block)),
    }


def _binned(**given: np.ndarray) -> dict[str, Any] | None:
    """Counts in equal bins that hold the values of all; None where there are none."""
    drawn = {name: values[np.isfinite(values)] for name, values in given.items()}
    ends = [value for values in drawn.values() if len(values) for value in
            (values.min(), values.max())]  # fmt: skip
    if not ends:
        return None
    low, high = np.floor(50 * min(*ends, 0.0)) / 50, np.ceil(50 * max(*ends, 0.5)) / 50
    edges = np.linspace(low, high, BINS + 1).round(5)
    return {
        "edges": edges,
        **{name: np.histogram(values, edges)[0] if len(values) else None
           for name, values in drawn.items()},
    }  # fmt: skip


def _excess_by_chance(found: Gathered, block: Block) -> np.ndarray:
    """What the excess would be if the other models were chance itself: of each neuron one draw of
    the baseline less the mean of the others, averaged over models. Empty where there is one draw.
    """
    table = found.tables.get("pairs")
    if table is None or "baseline_draws" not in table.column_names:
        return np.array([])
    places = found.places("pairs")
    here = (places >= block.start) & (places < block.start + block.neurons)
    column = table["baseline_draws"].filter(pa.array(here)).combine_chunks()
    lengths = np.unique(np.diff(np.asarray(column.offsets)))
    lengths = lengths[lengths > 0]
    if len(lengths) != 1 or lengths[0] < 2:
        return np.array([])
    draws = int(lengths[0])
    valid = np.asarray(column.is_valid().to_numpy(zero_copy_only=False))
    values = numbers(column.flatten()).reshape(-1, draws)
    apart = values[:, 0] - values[:, 1:].mean(axis=1)
    mine = places[here][valid] - block.start
    total = np.bincount(mine, weights=np.nan_to_num(apart), minlength=block.neurons)
    count = np.bincount(mine[np.isfinite(apart)], minlength=block.neurons)
    with np.errstate(invalid="ignore", divide="ignore"):
        found_K = total / count
    return found_K[np.isfinite(found_K)]

