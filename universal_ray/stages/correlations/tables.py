"""Tables made from the reduced pairs."""

from typing import Any

import pyarrow as pa
import torch

from universal_ray.maths.moments.correlation import NULL_REASONS, split_index
from universal_ray.maths.moments.row_summary import distribution_moments
from universal_ray.models.site import Site
from universal_ray.stages.correlations.partners import NOBODY, Partners
from universal_ray.stages.correlations.reduce import Direction
from universal_ray.stages.correlations.schemas import NEURONS, NO_PARTNER, PAIRS
from universal_ray.stages.neurons import SITE, WHO, who
from universal_ray.storage.columns import lists, numbers


def pair_table(
    direction: Direction, partners: Partners, n_excluded: int, site: Site | None
) -> pa.Table:
    """The rows of `pairs.parquet` for one direction of one pair, without its anchors; `site`: of
    its units, None where they are of no model.
    """
    model, other, summary = direction.model, direction.other, direction.summary
    neurons = model.neurons
    alone = summary.powers_R5[:, 0] == 0
    null = (direction.null_N > 0) | alone
    live = ~null[:, None]
    draws_NK = direction.baseline_NK
    count = draws_NK.shape[1]
    error_N = torch.full((neurons,), torch.nan, dtype=torch.float64)
    if count > 1:
        error_N = draws_NK.std(1) / count**0.5
    reasons = {k: text.format(policy=direction.policy) for k, text in NULL_REASONS.items()}
    columns: dict[str, Any] = {
        **who(model),
        "other": pa.array([other.name] * neurons),
        "diag_corr": numbers(direction.diagonal_N, null, pa.float64()),
        "obo_corr": numbers(direction.next_N, null, pa.float64()),
        "corr_se": numbers(direction.error_N, null, pa.float64()),
        "baseline_corr": numbers(draws_NK.mean(1), null, pa.float64()),
        "baseline_se": numbers(error_N, null, pa.float64()),
        "baseline_draws": lists(draws_NK, live.expand_as(draws_NK), pa.float64()),
        "hist": lists(
            summary.histogram_RB, live.expand_as(summary.histogram_RB), pa.int32()
        ),
        "mutual": numbers(partners.mutual_N, null, pa.bool_()),
        **_assigned(partners, other.width),
        "anchors": pa.nulls(neurons, pa.int32()),
        "n": pa.array([int(direction.n)] * neurons, pa.int64()),
        "n_excluded": pa.array([n_excluded] * neurons, pa.int64()),
        "site": pa.array([site and site.name] * neurons, pa.string()),
        "unit_kind": pa.array([site and site.unit] * neurons, pa.string()),
        "null_reason": pa.array(
            [
                reasons[code] if code else NO_PARTNER if lonely else None
                for code, lonely in zip(direction.null_N.tolist(), alone.tolist(), strict=True)
            ],
            pa.string(),
        ),
    }
    for name, values in distribution_moments(summary.powers_R5).items():
        columns[f"corr_{name}"] = numbers(values, null, pa.float64())
    for end, single, values_RK, index_RK in (
        ("top", "max", summary.top_RK, summary.top_index_RK),
        ("bottom", "min", summary.bottom_RK, summary.bottom_index_RK),
    ):
        kept = values_RK.isfinite() & live
        layer_RK, neuron_RK = split_index(index_RK, other.width)
        columns[f"{end}_corr"] = lists(values_RK.float(), kept, pa.float32())
        columns[f"{end}_layer"] = lists(layer_RK, kept, pa.int16())
        columns[f"{end}_neuron"] = lists(neuron_RK, kept, pa.int32())
        columns[f"{single}_corr"] = numbers(values_RK[:, 0], null, pa.float64())
        columns[f"{single}_layer"] = numbers(layer_RK[:, 0].to(torch.int16), null, pa.int16())
        columns[f"{single}_neuron"] = numbers(neuron_RK[:, 0].to(torch.int32), null, pa.int32())
    return pa.table([columns[name] for name in PAIRS.names], schema=PAIRS)


def _assigned(partners: Partners, width: int) -> dict[str, pa.Array]:
    """Each neuron's partner in the one-to-one matching."""
    nobody_N = partners.assigned_N == NOBODY
    layer_N, neuron_N = split_index(partners.assigned_N, width)
    return {
        "assigned_layer": numbers(layer_N.to(torch.int16), nobody_N, pa.int16()),
        "assigned_neuron": numbers(neuron_N.to(torch.int32), nobody_N, pa.int32()),
        "assigned_corr": numbers(partners.assigned_corr_N, nobody_N, pa.float64()),
    }


def with_anchors(table: pa.Table, count_N: torch.Tensor | None) -> pa.Table:
    """Rows of `pairs.parquet` with what is known once all pairs are: further models that agree;
    None where there are none.
    """
    if count_N is None:
        return table
    null = torch.from_numpy(table["max_corr"].is_null().to_numpy())
    place = table.column_names.index("anchors")
    counts = numbers(count_N.to(torch.int32), null, pa.int32())
    return table.set_column(place, PAIRS.field("anchors"), counts)


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
        **{each.name: first[each.name] for each in (*WHO, *SITE)},
        "excess_corr": numbers(excess, null, pa.float64()),
        "is_universal": numbers(excess > threshold, null, pa.bool_()),
        "baseline_se": numbers(
            (error_MN**2).sum(0).sqrt() / len(pairs), null, pa.float64()
        ),
        "n": first["n"],
        "null_reason": pa.array(
            [next(filter(None, given), None) for given in zip(*reasons, strict=True)], pa.string()
        ),
    }
    for kind, values in (("corr", best_MN), ("baseline", baseline_MN)):
        columns[f"max_{kind}"] = numbers(values.amax(0), null, pa.float64())
        columns[f"mean_{kind}"] = numbers(values.mean(0), null, pa.float64())
        columns[f"min_{kind}"] = numbers(values.amin(0), null, pa.float64())
    return pa.table([columns[name] for name in NEURONS.names], schema=NEURONS)
