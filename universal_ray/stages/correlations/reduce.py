"""From stored sums to correlations: correlate, compare with the baseline, summarise.

Plain functions over the store, each one task of the cluster. Row blocks are whole layers of a
pair's first model; a second step merges the columns, so both directions come from one matrix.
Shapes as in `moments`: G groups (blocks, then trailing units), K draws of the rotation.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields

import torch

from universal_ray.maths.moments import rotation
from universal_ray.maths.moments.accumulate import merge
from universal_ray.maths.moments.correlation import (
    CONSTANT,
    centred_cross,
    centred_gram,
    correlation,
    neuron_moments,
)
from universal_ray.maths.moments.jackknife import GroupedSums, jackknife_error
from universal_ray.maths.moments.row_summary import RowSummary, merge_summaries, summarise
from universal_ray.planning.items import Item, Model, calibration_file
from universal_ray.stages.correlations.artifacts import (
    TOP,
    ReducedModel,
    ReducedRows,
    ReducedSide,
    Reduction,
    StoredCalibration,
)
from universal_ray.stages.correlations.folding import groups
from universal_ray.storage import artifacts
from universal_ray.storage.store import Store


def reduce_model(recipe: Reduction, item: Item) -> None:
    """Moments of every neuron of a model by group, and the variance of its rotated units."""
    store, model = Store(recipe.store_url), item.models[0]
    stored = artifacts.get(store, calibration_file(model), StoredCalibration)
    scale_N = stored.scale.double()
    merged, parts, rotated_KN = [], [], []
    for layer in range(model.layers):
        pieces = []
        for part in groups(store, recipe.layout, item, layer):
            pieces.append(part)
        total = merge(pieces)
        merged.append({**total, "gram": total["gram"].diagonal().diag_embed()})
        parts.append(
            {
                "n": torch.stack([part["n"] for part in pieces]),
                "sum": torch.stack([part["sum"] for part in pieces]),
                "raw": torch.stack([part["gram"].diagonal() for part in pieces]),
            }
        )
        gram_DD = centred_gram(total)
        constant_D = neuron_moments([total], recipe.policy).null_N == CONSTANT
        gram_DD[constant_D] = 0
        gram_DD[:, constant_D] = 0
        rotated_KN.append(
            torch.stack(
                [
                    rotation.rotated_squares(weights_DD, gram_DD)
                    for weights_DD in _rotations(recipe, model, layer, scale_N)
                ]
            )
        )
    moments = neuron_moments(merged, recipe.policy)
    reduced = ReducedModel(
        n_G=parts[0]["n"],
        sum_GN=torch.cat([part["sum"] for part in parts], 1),
        raw_GN=torch.cat([part["raw"] for part in parts], 1),
        rotated_KN=torch.cat(rotated_KN, 1),
        moments=moments,
        scale_N=scale_N,
    )
    artifacts.put(store, recipe.model_file(model), reduced)


def _rotations(
    recipe: Reduction, model: Model, layer: int, scale_N: torch.Tensor
) -> Iterator[torch.Tensor]:
    """Every draw for one layer, as a map of the scaled sums."""
    scale_D = scale_N[layer * model.width : (layer + 1) * model.width]
    for draw in range(recipe.rotations):
        drawn_DD = rotation.rotation(
            recipe.kind,
            seed=recipe.seed,
            identity=model.identity,
            layer=layer,
            draw=draw,
            width=model.width,
        )
        yield rotation.scaled(drawn_DD, scale_D)


def reduce_rows(recipe: Reduction, pair: Item, layer: int) -> None:
    """Correlate one layer of a pair's first model with all of the second, both directions."""
    store = Store(recipe.store_url)
    first, second = pair.models
    left, right = recipe.read_model(store, first), recipe.read_model(store, second)
    rows, columns = left.moments, right.moments
    begin = layer * first.width
    block = slice(begin, begin + first.width)
    total = merge(groups(store, recipe.layout, pair, layer))
    centred_DM = centred_cross(total["cross"], rows, columns, first=begin)
    del total
    r_DM = correlation(centred_DM, rows, columns, first=begin, policy=recipe.policy)
    row_summary = summarise(r_DM, columns.null_N == 0, first=0, count=TOP)
    column_summary = summarise(r_DM.T.contiguous(), rows.null_N[block] == 0, first=begin, count=TOP)
    diagonal_D = torch.full((first.width,), torch.nan, dtype=torch.float64)
    if (first.layers, first.width) == (second.layers, second.width):
        diagonal_D = r_DM[:, block].diagonal().clone()
    del r_DM
    centred_DM = centred_DM.to(recipe.device)
    row_baseline_KD = torch.full((recipe.rotations, first.width), -torch.inf, dtype=torch.float64)
    for other in range(second.layers):
        span = slice(other * second.width, (other + 1) * second.width)
        best_KD = _baseline(
            recipe, right, second, other, centred_DM[:, span], rows.squares_N[block]
        )
        row_baseline_KD = torch.maximum(row_baseline_KD, best_KD)
    column_baseline_KM = _baseline(recipe, left, first, layer, centred_DM.T, columns.squares_N)
    del centred_DM
    row_error_D, column_error_M = _errors(
        store, recipe, pair, layer, left, right, row_summary, column_summary
    )
    reduced = ReducedRows(
        rows=ReducedSide(row_summary, row_baseline_KD.T, row_error_D),
        columns=ReducedSide(column_summary, column_baseline_KM.T, column_error_M),
        diagonal_D=diagonal_D,
    )
    artifacts.put(store, recipe.rows_file(pair, layer), reduced)


def _baseline(
    recipe: Reduction,
    stored: ReducedModel,
    model: Model,
    layer: int,
    centred_RD: torch.Tensor,
    squares_R: torch.Tensor,
) -> torch.Tensor:
    """Best correlation [K, R] of some rows with every draw of one rotated layer of a model."""
    span = slice(layer * model.width, (layer + 1) * model.width)
    return torch.stack(
        [
            rotation.best_rotated(
                centred_RD,
                weights_DD.to(recipe.device),
                rotated_squares_D=stored.rotated_KN[draw, span].to(recipe.device),
                squares_R=squares_R.to(recipe.device),
            ).cpu()
            for draw, weights_DD in enumerate(_rotations(recipe, model, layer, stored.scale_N))
        ]
    )


def _errors(
    store: Store,
    recipe: Reduction,
    pair: Item,
    layer: int,
    left: ReducedModel,
    right: ReducedModel,
    row_summary: RowSummary,
    column_summary: RowSummary,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Jackknife errors of the best correlation of each row, and of each column in this layer."""
    begin = layer * pair.models[0].width
    # A second reading: which entries matter is known only once all groups are summed.
    partner_D = row_summary.top_index_RK[:, 0]
    partner_M = column_summary.top_index_RK[:, 0]
    row_D = torch.arange(partner_D.numel())
    column_M = torch.arange(partner_M.numel())
    row_cross, column_cross = [], []
    for part in groups(store, recipe.layout, pair, layer):
        row_cross.append(part["cross"][row_D, partner_D])
        column_cross.append(part["cross"][partner_M - begin, column_M])

    def sums(stored: ReducedModel, index: torch.Tensor) -> GroupedSums:
        return GroupedSums(stored.sum_GN[:, index], stored.raw_GN[:, index])

    return (
        jackknife_error(
            left.n_G,
            torch.stack(row_cross),
            left=sums(left, row_D + begin),
            right=sums(right, partner_D),
        ),
        jackknife_error(
            left.n_G,
            torch.stack(column_cross),
            left=sums(left, partner_M),
            right=sums(right, column_M),
        ),
    )


@dataclass(frozen=True, kw_only=True)
class Direction:
    """All rows of one direction of a pair."""

    model: Model
    other: Model
    summary: RowSummary
    baseline_NK: torch.Tensor
    error_N: torch.Tensor
    diagonal_N: torch.Tensor
    null_N: torch.Tensor
    n: float
    policy: str


def read_pair(store: Store, recipe: Reduction, pair: Item) -> tuple[Direction, Direction]:
    """Both directions of a pair, its columns merged over the row blocks."""
    first, second = pair.models
    parts = [
        artifacts.get(store, recipe.rows_file(pair, layer), ReducedRows)
        for layer in range(first.layers)
    ]
    rows = RowSummary(
        **{
            field.name: torch.cat([getattr(part.rows.summary, field.name) for part in parts])
            for field in fields(RowSummary)
        }
    )
    columns = merge_summaries([part.columns.summary for part in parts], TOP)
    # The error of a column's best correlation is that of the layer the best partner lies in.
    best_M = columns.top_index_RK[:, 0] // first.width
    errors_LM = torch.stack([part.columns.error_R for part in parts])
    diagonal_N = torch.cat([part.diagonal_D for part in parts])
    same = diagonal_N.numel() == second.neurons and first.width == second.width
    left, right = recipe.read_model(store, first), recipe.read_model(store, second)
    return (
        Direction(
            model=first,
            other=second,
            summary=rows,
            baseline_NK=torch.cat([part.rows.baseline_RK for part in parts]),
            error_N=torch.cat([part.rows.error_R for part in parts]),
            diagonal_N=diagonal_N,
            null_N=left.moments.null_N,
            n=left.moments.n,
            policy=recipe.policy,
        ),
        Direction(
            model=second,
            other=first,
            summary=columns,
            baseline_NK=torch.stack([part.columns.baseline_RK for part in parts]).amax(0),
            error_N=errors_LM.gather(0, best_M[None])[0],
            diagonal_N=(
                diagonal_N if same else torch.full((second.neurons,), torch.nan).double()
            ),
            null_N=right.moments.null_N,
            n=left.moments.n,
            policy=recipe.policy,
        ),
    )
