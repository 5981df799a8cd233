"""From sums to correlations: correlate, compare with the baseline, summarise.

`reduce_model`, `reduce_rows` and `read_pair` are plain functions over the store, the first two each
one task of the cluster; what they call knows no store. Row blocks are whole layers of a
pair's first model; a second step merges the columns, so both directions come from one matrix.
Shapes as in `moments`: G groups (blocks, then trailing units), K draws of the rotation.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from universal_ray.maths.moments import rotation
from universal_ray.maths.moments.accumulate import LayerSums, merge
from universal_ray.maths.moments.correlation import (
    CONSTANT,
    NeuronMoments,
    centred_cross,
    centred_gram,
    correlation,
    neuron_moments,
    of_layers,
)
from universal_ray.maths.moments.jackknife import GroupedSums, jackknife_error
from universal_ray.maths.moments.row_summary import RowSummary, joined, merge_summaries, summarise
from universal_ray.planning.items import Item, Model, calibration_file
from universal_ray.stages.correlations.artifacts import (
    TOP,
    ReducedModel,
    ReducedRows,
    ReducedSide,
    Reduction,
    StoredCalibration,
    Terms,
)
from universal_ray.stages.correlations.folding import groups
from universal_ray.storage import artifacts
from universal_ray.storage.store import Store


class Merged:
    """The sums of one layer of a model, and what errors need of every group of tokens."""

    def __init__(self, groups: Iterable[LayerSums] = ()):
        self.total: LayerSums = {}
        self.n_G: list[torch.Tensor] = []
        self.sum_GD: list[torch.Tensor] = []
        self.raw_GD: list[torch.Tensor] = []
        for part in groups:
            self.add(part)

    def add(self, part: LayerSums) -> None:
        """The next group."""
        self.total = merge([self.total, part])
        self.n_G.append(part["n"])
        self.sum_GD.append(part["sum"])
        self.raw_GD.append(part["gram"].diagonal().clone())


def reduce_model(recipe: Reduction, item: Item) -> None:
    """Moments of every neuron of a model by group, and the variance of its rotated units."""
    store, model = Store(recipe.store_url), item.models[0]
    stored = artifacts.get(store, calibration_file(model), StoredCalibration)
    layers = (
        Merged(groups(store, recipe.layout, item, layer)) for layer in range(model.layers)
    )
    artifacts.put(
        store, recipe.model_file(model), reduced_model(recipe, model, stored.scale.double(), layers)
    )


def reduced_model(
    terms: Terms, model: Model, scale_N: torch.Tensor, layers: Iterable[Merged]
) -> ReducedModel:
    """Of the sums of every layer, in the scale (float64) that they are in units of."""
    moments, parts, rotated_KN = [], [], []
    for layer, found in enumerate(layers):
        moments.append(neuron_moments([found.total], terms.policy))
        parts.append(tuple(map(torch.stack, (found.n_G, found.sum_GD, found.raw_GD))))
        rotated_KN.append(_rotated_squares(terms, model, layer, scale_N, found.total, moments[-1]))
    return ReducedModel(
        n_G=parts[0][0],
        sum_GN=torch.cat([sum_GD for _, sum_GD, _ in parts], 1),
        raw_GN=torch.cat([raw_GD for _, _, raw_GD in parts], 1),
        rotated_KN=torch.cat(rotated_KN, 1),
        moments=of_layers(moments),
        scale_N=scale_N,
    )


def _rotated_squares(
    terms: Terms,
    model: Model,
    layer: int,
    scale_N: torch.Tensor,
    total: LayerSums,
    moments: NeuronMoments,
) -> torch.Tensor:
    """Σ(y − mean)² [K, D] of every rotated unit of a layer; none where draws are shifts."""
    if terms.shifts:
        return torch.empty(0, model.width, dtype=torch.float64)
    gram_DD = centred_gram(total)
    constant_D = moments.null_N == CONSTANT
    gram_DD[constant_D] = 0
    gram_DD[:, constant_D] = 0
    drawn = rotations(terms, model, layer, scale_N)
    return torch.stack([rotation.rotated_squares(weights_DD, gram_DD) for weights_DD in drawn])


def rotations(
    terms: Terms, model: Model, layer: int, scale_N: torch.Tensor
) -> Iterator[torch.Tensor]:
    """Every draw for one layer, as a map of the scaled sums; none where draws are shifts."""
    if terms.shifts:
        return
    scale_D = scale_N[layer * model.width : (layer + 1) * model.width]
    for draw in range(terms.rotations):
        drawn_DD = rotation.rotation(
            terms.kind,
            seed=terms.seed,
            identity=model.identity,
            layer=layer,
            draw=draw,
            width=model.width,
        )
        yield rotation.scaled(drawn_DD, scale_D)


def reduce_rows(recipe: Reduction, pair: Item, layer: int) -> None:
    """Correlate one layer of a pair's first model with all of the second, both directions."""
    store = Store(recipe.store_url)
    left, right = (recipe.read_model(store, model) for model in pair.models)
    read, *shifted = (
        partial(groups, store, recipe.layout, item, layer)
        for item in (pair, *recipe.shifted(pair))
    )
    made = reduced_rows(recipe, pair, layer, left, right, read, *shifted)
    artifacts.put(store, recipe.rows_file(pair, layer), made)


def reduced_rows(
    terms: Terms,
    pair: Item,
    layer: int,
    left: ReducedModel,
    right: ReducedModel,
    read: Callable[[], Iterable[LayerSums]],
    *shifted: Callable[[], Iterable[LayerSums]],
) -> ReducedRows:
    """Of the cross sums of one layer, which are read twice, group by group; and of those of each
    shift, where the baseline is made of these.
    """
    first, second = pair.models
    rows, columns = left.moments, right.moments
    begin = layer * first.width
    block = slice(begin, begin + first.width)
    total = merge(read())
    centred_DM = centred_cross(total["cross"], rows, columns, first=begin)
    del total
    r_DM = correlation(centred_DM, rows, columns, first=begin, policy=terms.policy)
    row_summary = summarise(r_DM, columns.null_N == 0, first=0, count=TOP)
    column_summary = summarise(r_DM.T, rows.null_N[block] == 0, first=begin, count=TOP)
    alike = (first.layers, first.width) == (second.layers, second.width)
    diagonal_D, after_D, before_D = (_beside(r_DM, begin + step, alike) for step in (0, 1, -1))
    del r_DM
    if terms.shifts:
        del centred_DM
        row_baseline_KD, column_baseline_KM = _shifted(
            shifted, rows, columns, first=begin, policy=terms.policy
        )
    else:
        row_baseline_KD, column_baseline_KM = _rotated(terms, pair, layer, left, right, centred_DM)
        del centred_DM
    row_error_D, column_error_M = _errors(
        read, pair, layer, left, right, row_summary, column_summary
    )
    return ReducedRows(
        rows=ReducedSide(row_summary, row_baseline_KD.T, row_error_D),
        columns=ReducedSide(column_summary, column_baseline_KM.T, column_error_M),
        diagonal_D=diagonal_D,
        after_D=after_D,
        before_D=before_D,
    )


def _rotated(
    terms: Terms,
    pair: Item,
    layer: int,
    left: ReducedModel,
    right: ReducedModel,
    centred_DM: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Best correlation of every row [K, D] and column [K, M] with any rotated unit, by draw."""
    first, second = pair.models
    block = slice(layer * first.width, (layer + 1) * first.width)
    squares_D, squares_M = left.moments.squares_N[block], right.moments.squares_N
    centred_DM = centred_DM.to(terms.device)
    best_KD = torch.full((terms.rotations, first.width), -torch.inf, dtype=torch.float64)
    for other in range(second.layers):
        span = slice(other * second.width, (other + 1) * second.width)
        found_KD = _baseline(terms, right, second, other, centred_DM[:, span], squares_D)
        best_KD = torch.maximum(best_KD, found_KD)
    return best_KD, _baseline(terms, left, first, layer, centred_DM.T, squares_M)


def _shifted(
    shifted: Sequence[Callable[[], Iterable[LayerSums]]],
    rows: NeuronMoments,
    columns: NeuronMoments,
    *,
    first: int,
    policy: str,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Best correlation of every row [K, D] and column [K, M] with any unit at other tokens, by
    draw; NaN of what has none.
    """
    best_KD, best_KM = [], []
    for read in shifted:
        centred_DM = centred_cross(merge(read())["cross"], rows, columns, first=first)
        r_DM = correlation(centred_DM, rows, columns, first=first, policy=policy)
        null_D, null_M = r_DM.isnan().all(1), columns.null_N > 0
        r_DM.nan_to_num_(nan=-torch.inf)
        best_KD.append(r_DM.amax(1).masked_fill(null_D, torch.nan))
        best_KM.append(r_DM.amax(0).masked_fill(null_M, torch.nan))
    return torch.stack(best_KD), torch.stack(best_KM)


def _beside(r_DM: torch.Tensor, first: int, alike: bool) -> torch.Tensor:
    """The diagonal that begins at a column; NaN where there is none, or models are not alike."""
    column_D = torch.arange(first, first + len(r_DM))
    there_D = (column_D >= 0) & (column_D < r_DM.shape[1]) & alike
    found_D = torch.full_like(r_DM[:, 0], torch.nan)
    found_D[there_D] = r_DM[there_D, column_D[there_D]]
    return found_D


def _baseline(
    terms: Terms,
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
                weights_DD.to(terms.device),
                rotated_squares_D=stored.rotated_KN[draw, span].to(terms.device),
                squares_R=squares_R.to(terms.device),
            ).cpu()
            for draw, weights_DD in enumerate(rotations(terms, model, layer, stored.scale_N))
        ]
    )


def _errors(
    read: Callable[[], Iterable[LayerSums]],
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
    for part in read():
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
    """with the neuron of the same flat index"""
    next_N: torch.Tensor
    """with that of the next"""
    null_N: torch.Tensor
    n: float
    policy: str


def read_pair(store: Store, recipe: Reduction, pair: Item) -> tuple[Direction, Direction]:
    """Both directions of a pair."""
    parts = [
        artifacts.get(store, recipe.rows_file(pair, layer), ReducedRows)
        for layer in range(pair.layers)
    ]
    left, right = (recipe.read_model(store, model) for model in pair.models)
    return directions(recipe, pair, left, right, parts)


def directions(
    terms: Terms,
    pair: Item,
    left: ReducedModel,
    right: ReducedModel,
    parts: Sequence[ReducedRows],
) -> tuple[Direction, Direction]:
    """Both directions of a pair, its columns merged over the row blocks."""
    first, second = pair.models
    rows = joined([part.rows.summary for part in parts])
    columns = merge_summaries([part.columns.summary for part in parts], TOP)
    # The error of a column's best correlation is that of the layer the best partner lies in.
    best_M = columns.top_index_RK[:, 0] // first.width
    errors_LM = torch.stack([part.columns.error_R for part in parts])
    diagonal_N, after_N, before_N = (
        torch.cat([getattr(part, name) for part in parts])
        for name in ("diagonal_D", "after_D", "before_D")
    )
    none_M = torch.full((second.neurons,), torch.nan).double()
    same = diagonal_N.numel() == second.neurons and first.width == second.width
    return (
        Direction(
            model=first,
            other=second,
            summary=rows,
            baseline_NK=torch.cat([part.rows.baseline_RK for part in parts]),
            error_N=torch.cat([part.rows.error_R for part in parts]),
            diagonal_N=diagonal_N,
            next_N=after_N,
            null_N=left.moments.null_N,
            n=left.moments.n,
            policy=terms.policy,
        ),
        Direction(
            model=second,
            other=first,
            summary=columns,
            baseline_NK=torch.stack([part.columns.baseline_RK for part in parts]).amax(0),
            error_N=errors_LM.gather(0, best_M[None])[0],
            diagonal_N=diagonal_N if same else none_M,
            next_N=torch.cat([before_N[1:], none_M[:1]]) if same else none_M,
            null_N=right.moments.null_N,
            n=left.moments.n,
            policy=terms.policy,
        ),
    )
