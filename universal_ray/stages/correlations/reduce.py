"""From stored sums to correlations: correlate, compare with the baseline, summarise.

Plain functions over the store, each one task of the cluster. Row blocks are whole layers of a
pair's first model; a second step merges the columns, so both directions come from one matrix.
Shapes as in `moments`: G groups (blocks, then trailing units), K draws of the rotation.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields

import torch

from universal_ray.config.hashing import fingerprint
from universal_ray.maths.moments import rotation
from universal_ray.maths.moments.accumulate import merge
from universal_ray.maths.moments.correlation import (
    CONSTANT,
    NeuronMoments,
    centred_cross,
    centred_gram,
    correlation,
    neuron_moments,
)
from universal_ray.maths.moments.jackknife import jackknife_error
from universal_ray.maths.moments.row_summary import RowSummary, merge_summaries, summarise
from universal_ray.planning.items import Item, Layout, Model, calibration_file, layer_file
from universal_ray.stages.correlations.folding import groups
from universal_ray.storage import checked
from universal_ray.storage.store import Store

TOP = 50
"""Entries of the lists of best and worst partners."""


@dataclass(frozen=True)
class Reduction:
    """What every task of one reduction is told."""

    store_url: str
    layout: Layout
    rotations: int
    kind: str
    seed: int
    policy: str
    device: str
    """where float64 products with the rotations are made"""

    def folder(self, item: Item) -> str:
        """Where the results of an item go: another folder when what they come from changes."""
        members = [Item((model,)) for model in item.models]
        sources = [folder for member in {item, *members} for folder, _ in
                   self.layout.folders(member)]
        draws = [self.rotations, self.kind, self.seed, rotation.STREAMS]
        content = [sorted(sources), draws, TOP]
        return f"reduce/{item.key}-{fingerprint(content)[:8]}"


def reduce_model(order: Reduction, item: Item) -> None:
    """Moments of every neuron of a model by group, and the variance of its rotated units."""
    store, model = Store(order.store_url), item.models[0]
    scale_N = checked.get_tensors(store, calibration_file(model))["scale"].double()
    merged, parts, rotated_KN = [], [], []
    for layer in range(model.layers):
        pieces = []
        for part in groups(store, order.layout, item, layer):
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
        constant_D = neuron_moments([total], order.policy).null_N == CONSTANT
        gram_DD[constant_D] = 0
        gram_DD[:, constant_D] = 0
        rotated_KN.append(
            torch.stack(
                [
                    rotation.rotated_squares(weights_DD, gram_DD)
                    for weights_DD in _rotations(order, model, layer, scale_N)
                ]
            )
        )
    moments = neuron_moments(merged, order.policy)
    tensors = {
        "n_G": parts[0]["n"],
        "sum_GN": torch.cat([part["sum"] for part in parts], 1),
        "raw_GN": torch.cat([part["raw"] for part in parts], 1),
        "rotated_KN": torch.cat(rotated_KN, 1),
        "n": torch.tensor(moments.n, dtype=torch.float64),
        "sum_N": moments.sum_N,
        "squares_N": moments.squares_N,
        "null_N": moments.null_N,
        "scale_N": scale_N,
    }
    checked.put_tensors(store, model_file(order, model), tensors)


def _rotations(
    order: Reduction, model: Model, layer: int, scale_N: torch.Tensor
) -> Iterator[torch.Tensor]:
    """Every draw for one layer, as a map of the scaled sums."""
    scale_D = scale_N[layer * model.width : (layer + 1) * model.width]
    for draw in range(order.rotations):
        drawn_DD = rotation.rotation(
            order.kind, order.seed, model.identity, layer, draw, model.width
        )
        yield rotation.scaled(drawn_DD, scale_D)


def model_file(order: Reduction, model: Model) -> str:
    """What `reduce_model` stores."""
    return f"{order.folder(Item((model,)))}/model.safetensors"


def read_model(store: Store, order: Reduction, model: Model) -> dict[str, torch.Tensor]:
    """What `reduce_model` stored."""
    return checked.get_tensors(store, model_file(order, model))


def _moments(stored: dict[str, torch.Tensor]) -> NeuronMoments:
    return NeuronMoments(
        float(stored["n"]), stored["sum_N"], stored["squares_N"], stored["null_N"]
    )


def reduce_rows(order: Reduction, pair: Item, layer: int) -> None:
    """Correlate one layer of a pair's first model with all of the second, both directions."""
    store = Store(order.store_url)
    first, second = pair.models
    left, right = read_model(store, order, first), read_model(store, order, second)
    rows, columns = _moments(left), _moments(right)
    begin = layer * first.width
    block = slice(begin, begin + first.width)
    total = merge(groups(store, order.layout, pair, layer))
    centred_DM = centred_cross(total["cross"], rows, columns, begin)
    del total
    r_DM = correlation(centred_DM, rows, columns, begin, order.policy)
    row_summary = summarise(r_DM, columns.null_N == 0, 0, TOP)
    column_summary = summarise(r_DM.T.contiguous(), rows.null_N[block] == 0, begin, TOP)
    diagonal_D = torch.full((first.width,), torch.nan, dtype=torch.float64)
    if (first.layers, first.width) == (second.layers, second.width):
        diagonal_D = r_DM[:, block].diagonal().clone()
    del r_DM
    centred_DM = centred_DM.to(order.device)
    row_baseline_KD = torch.full((order.rotations, first.width), -torch.inf, dtype=torch.float64)
    for other in range(second.layers):
        span = slice(other * second.width, (other + 1) * second.width)
        best_KD = _baseline(order, right, second, other, centred_DM[:, span], rows.squares_N[block])
        row_baseline_KD = torch.maximum(row_baseline_KD, best_KD)
    column_baseline_KM = _baseline(order, left, first, layer, centred_DM.T, columns.squares_N)
    del centred_DM
    row_error_D, column_error_M = _errors(
        store, order, pair, layer, left, right, row_summary, column_summary
    )
    checked.put_tensors(
        store,
        layer_file(order.folder(pair), layer),
        {
            **{f"rows.{k}": v for k, v in vars(row_summary).items()},
            **{f"columns.{k}": v for k, v in vars(column_summary).items()},
            "rows.baseline": row_baseline_KD.T.contiguous(),
            "columns.baseline": column_baseline_KM.T.contiguous(),
            "rows.error": row_error_D,
            "columns.error": column_error_M,
            "rows.diagonal": diagonal_D,
        },
    )


def _baseline(
    order: Reduction,
    stored: dict[str, torch.Tensor],
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
                weights_DD.to(order.device),
                stored["rotated_KN"][draw, span].to(order.device),
                squares_R.to(order.device),
            ).cpu()
            for draw, weights_DD in enumerate(_rotations(order, model, layer, stored["scale_N"]))
        ]
    )


def _errors(
    store: Store,
    order: Reduction,
    pair: Item,
    layer: int,
    left: dict[str, torch.Tensor],
    right: dict[str, torch.Tensor],
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
    for part in groups(store, order.layout, pair, layer):
        row_cross.append(part["cross"][row_D, partner_D])
        column_cross.append(part["cross"][partner_M - begin, column_M])

    def sums(stored: dict[str, torch.Tensor], index: torch.Tensor) -> tuple:
        return stored["sum_GN"][:, index], stored["raw_GN"][:, index]

    return (
        jackknife_error(
            left["n_G"], torch.stack(row_cross), sums(left, row_D + begin), sums(right, partner_D)
        ),
        jackknife_error(
            left["n_G"],
            torch.stack(column_cross),
            sums(left, partner_M),
            sums(right, column_M),
        ),
    )


@dataclass(frozen=True)
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


def read_pair(store: Store, order: Reduction, pair: Item) -> tuple[Direction, Direction]:
    """Both directions of a pair, its columns merged over the row blocks."""
    first, second = pair.models
    folder = order.folder(pair)
    parts = [
        checked.get_tensors(store, layer_file(folder, layer)) for layer in range(first.layers)
    ]
    names = [field.name for field in fields(RowSummary)]
    rows = RowSummary(**{k: torch.cat([part[f"rows.{k}"] for part in parts]) for k in names})
    partial = [RowSummary(**{k: part[f"columns.{k}"] for k in names}) for part in parts]
    columns = merge_summaries(partial, TOP)
    # The error of a column's best correlation is that of the layer the best partner lies in.
    best_M = columns.top_index_RK[:, 0] // first.width
    errors_LM = torch.stack([part["columns.error"] for part in parts])
    diagonal_N = torch.cat([part["rows.diagonal"] for part in parts])
    same = diagonal_N.numel() == second.neurons and first.width == second.width
    left, right = read_model(store, order, first), read_model(store, order, second)
    n = float(left["n"])
    return (
        Direction(
            first,
            second,
            rows,
            torch.cat([part["rows.baseline"] for part in parts]),
            torch.cat([part["rows.error"] for part in parts]),
            diagonal_N,
            left["null_N"],
            n,
            order.policy,
        ),
        Direction(
            second,
            first,
            columns,
            torch.stack([part["columns.baseline"] for part in parts]).amax(0),
            errors_LM.gather(0, best_M[None])[0],
            diagonal_N if same else torch.full((second.neurons,), torch.nan).double(),
            right["null_N"],
            n,
            order.policy,
        ),
    )
