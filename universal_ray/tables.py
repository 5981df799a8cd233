"""Schemas of the published tables, and the tables made from the reduced pairs.

Every column carries its description and unit in the Parquet metadata.
"""

from typing import Any

import pyarrow as pa
import torch

from universal_ray.moments import split_index
from universal_ray.reduce import Direction
from universal_ray.summary import distribution_moments

DEAD = "constant over the kept tokens"
NO_PARTNER = "every neuron of the other model is constant over the kept tokens"

R, INDEX = "correlation", "index from 0"


def _field(name: str, kind: pa.DataType, unit: str, description: str) -> pa.Field:
    return pa.field(name, kind, metadata={"description": description, "unit": unit})


def _list(kind: pa.DataType) -> pa.DataType:
    return pa.list_(kind)


PAIRS = pa.schema(
    [
        _field("model", pa.string(), "id[@revision]", "model the neuron belongs to"),
        _field("other", pa.string(), "id[@revision]", "model whose neurons it is compared with"),
        _field("layer", pa.int16(), INDEX, "layer of the neuron"),
        _field("neuron", pa.int32(), INDEX, "neuron within its layer"),
        _field("max_corr", pa.float64(), R, "largest correlation with any neuron of `other`"),
        _field("max_layer", pa.int16(), INDEX, "layer of that neuron"),
        _field("max_neuron", pa.int32(), INDEX, "that neuron within its layer"),
        _field("min_corr", pa.float64(), R, "smallest (most negative) correlation"),
        _field("min_layer", pa.int16(), INDEX, "layer of that neuron"),
        _field("min_neuron", pa.int32(), INDEX, "that neuron within its layer"),
        _field("top_corr", _list(pa.float32()), R, "largest correlations, descending"),
        _field("top_layer", _list(pa.int16()), INDEX, "their layers"),
        _field("top_neuron", _list(pa.int32()), INDEX, "their neurons"),
        _field("bottom_corr", _list(pa.float32()), R, "smallest correlations, ascending"),
        _field("bottom_layer", _list(pa.int16()), INDEX, "their layers"),
        _field("bottom_neuron", _list(pa.int32()), INDEX, "their neurons"),
        _field("corr_mean", pa.float64(), R, "mean over the neurons of `other`"),
        _field("corr_var", pa.float64(), "correlation²", "population variance over them"),
        _field("corr_skew", pa.float64(), "1", "population skewness over them"),
        _field("corr_kurt", pa.float64(), "1", "population kurtosis over them, Gaussian = 3"),
        _field(
            "hist",
            _list(pa.int32()),
            "neurons",
            "101 bins between linspace(-1, 1, 100), each open below and closed above",
        ),
        _field("diag_corr", pa.float64(), R, "with the neuron of the same layer and index"),
        _field("corr_se", pa.float64(), R, "jackknife standard error of max_corr's correlation"),
        _field("baseline_corr", pa.float64(), R, "mean over draws of the largest with any rotated"),
        _field("baseline_se", pa.float64(), R, "standard error of that mean; null for one draw"),
        _field("baseline_draws", _list(pa.float64()), R, "largest with any rotated unit, by draw"),
        _field("mutual", pa.bool_(), "", "whether the best partner's best partner is this neuron"),
        _field("n", pa.int64(), "tokens", "tokens that count"),
        _field("n_excluded", pa.int64(), "tokens", "tokens left out by corpus.exclude"),
        _field("null_reason", pa.string(), "", "why a row has no correlation"),
    ]
)

NEURONS = pa.schema(
    [
        _field("model", pa.string(), "id[@revision]", "reference model"),
        _field("layer", pa.int16(), INDEX, "layer of the neuron"),
        _field("neuron", pa.int32(), INDEX, "neuron within its layer"),
        _field("max_corr", pa.float64(), R, "largest over the other models of max_corr"),
        _field("mean_corr", pa.float64(), R, "mean over the other models of max_corr"),
        _field("min_corr", pa.float64(), R, "smallest over the other models of max_corr"),
        _field("max_baseline", pa.float64(), R, "largest over the other models of baseline_corr"),
        _field("mean_baseline", pa.float64(), R, "mean over the other models of baseline_corr"),
        _field("min_baseline", pa.float64(), R, "smallest over the other models"),
        _field("excess_corr", pa.float64(), R, "mean_corr - mean_baseline"),
        _field("is_universal", pa.bool_(), "", "excess_corr above universal.threshold"),
        _field("baseline_se", pa.float64(), R, "standard error of mean_baseline over the draws"),
        _field("n", pa.int64(), "tokens", "tokens that count"),
        _field("null_reason", pa.string(), "", "why a row has no correlation"),
    ]
)


def _number(values: torch.Tensor, missing: torch.Tensor, kind: pa.DataType) -> pa.Array:
    missing = missing | (values.isnan() if values.is_floating_point() else missing)
    return pa.array(values.numpy(), kind, mask=missing.numpy())


def _lists(values: torch.Tensor, kept: torch.Tensor, kind: pa.DataType) -> pa.Array:
    """Rows of a matrix as lists of the entries that are kept; null where none is."""
    counts = kept.sum(1)
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)]).to(torch.int32)
    flat = pa.array(values[kept].numpy()).cast(kind)
    mask = pa.array((counts == 0).numpy())
    return pa.ListArray.from_arrays(pa.array(offsets.numpy()), flat, mask=mask)


def pair_table(direction: Direction, mutual: torch.Tensor, n_excluded: int) -> pa.Table:
    """The rows of `pairs.parquet` for one direction of one pair."""
    model, other, summary = direction.model, direction.other, direction.summary
    neurons = model.neurons
    alone = summary.powers_R5[:, 0] == 0
    null = direction.dead_N | alone
    live = ~null[:, None]
    draws_NK = direction.baseline_NK
    count = draws_NK.shape[1]
    error_N = torch.full((neurons,), torch.nan, dtype=torch.float64)
    if count > 1:
        error_N = draws_NK.std(1) / count**0.5
    layer, neuron = split_index(torch.arange(neurons), model.width)
    columns: dict[str, Any] = {
        "model": pa.array([model.name] * neurons),
        "other": pa.array([other.name] * neurons),
        "layer": pa.array(layer.numpy()).cast(pa.int16()),
        "neuron": pa.array(neuron.numpy()).cast(pa.int32()),
        "diag_corr": _number(direction.diagonal_N, null, pa.float64()),
        "corr_se": _number(direction.error_N, null, pa.float64()),
        "baseline_corr": _number(draws_NK.mean(1), null, pa.float64()),
        "baseline_se": _number(error_N, null, pa.float64()),
        "baseline_draws": _lists(draws_NK, live.expand_as(draws_NK), pa.float64()),
        "hist": _lists(
            summary.histogram_RB, live.expand_as(summary.histogram_RB), pa.int32()
        ),
        "mutual": _number(mutual, null, pa.bool_()),
        "n": pa.array([int(direction.n)] * neurons, pa.int64()),
        "n_excluded": pa.array([n_excluded] * neurons, pa.int64()),
        "null_reason": pa.array(
            [
                DEAD if dead else NO_PARTNER if lonely else None
                for dead, lonely in zip(direction.dead_N.tolist(), alone.tolist(), strict=True)
            ],
            pa.string(),
        ),
    }
    for name, values in distribution_moments(summary.powers_R5).items():
        columns[f"corr_{name}"] = _number(values, null, pa.float64())
    for end, single, values_RK, index_RK in (
        ("top", "max", summary.top_RK, summary.top_index_RK),
        ("bottom", "min", summary.bottom_RK, summary.bottom_index_RK),
    ):
        kept = values_RK.isfinite() & live
        layer_RK, neuron_RK = split_index(index_RK, other.width)
        columns[f"{end}_corr"] = _lists(values_RK.float(), kept, pa.float32())
        columns[f"{end}_layer"] = _lists(layer_RK, kept, pa.int16())
        columns[f"{end}_neuron"] = _lists(neuron_RK, kept, pa.int32())
        columns[f"{single}_corr"] = _number(values_RK[:, 0], null, pa.float64())
        columns[f"{single}_layer"] = _number(layer_RK[:, 0].to(torch.int16), null, pa.int16())
        columns[f"{single}_neuron"] = _number(neuron_RK[:, 0].to(torch.int32), null, pa.int32())
    return pa.table([columns[name] for name in PAIRS.names], schema=PAIRS)


def mutual_partners(rows: Direction, columns: Direction) -> tuple[torch.Tensor, torch.Tensor]:
    """Whether each neuron is the best partner of its best partner, in both directions."""
    forth, back = rows.summary.top_index_RK[:, 0], columns.summary.top_index_RK[:, 0]
    return (
        back[forth] == torch.arange(forth.numel()),
        forth[back] == torch.arange(back.numel()),
    )


def neuron_table(pairs: list[pa.Table], threshold: float) -> pa.Table:
    """The rows of `neurons.parquet` of one reference model, from its pair tables."""

    def column(name: str) -> torch.Tensor:
        return torch.stack(
            [
                torch.tensor(table[name].fill_null(float("nan")).to_numpy(), dtype=torch.float64)
                for table in pairs
            ]
        )

    best_MN, baseline_MN, error_MN = column("max_corr"), column("baseline_corr"), column(
        "baseline_se"
    )
    first = pairs[0]
    null = best_MN.isnan().any(0)
    excess = best_MN.mean(0) - baseline_MN.mean(0)
    reasons = [table["null_reason"].to_pylist() for table in pairs]
    columns: dict[str, Any] = {
        "model": first["model"],
        "layer": first["layer"],
        "neuron": first["neuron"],
        "excess_corr": _number(excess, null, pa.float64()),
        "is_universal": _number(excess > threshold, null, pa.bool_()),
        "baseline_se": _number(
            (error_MN**2).sum(0).sqrt() / len(pairs), null, pa.float64()
        ),
        "n": first["n"],
        "null_reason": pa.array(
            [next(filter(None, given), None) for given in zip(*reasons, strict=True)], pa.string()
        ),
    }
    for kind, values in (("corr", best_MN), ("baseline", baseline_MN)):
        columns[f"max_{kind}"] = _number(values.amax(0), null, pa.float64())
        columns[f"mean_{kind}"] = _number(values.mean(0), null, pa.float64())
        columns[f"min_{kind}"] = _number(values.amin(0), null, pa.float64())
    return pa.table([columns[name] for name in NEURONS.names], schema=NEURONS)
