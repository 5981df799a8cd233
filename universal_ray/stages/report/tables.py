"""The tables of the report.

Shapes: M windows of a model, W tokens of a window, S other models, V ids.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
from jaxtyping import Float, Int8
from torch import Tensor

from universal_ray.config.report import KINDS
from universal_ray.errors import NumericalError
from universal_ray.features.vocabulary import Vocabulary
from universal_ray.planning.items import Model
from universal_ray.stages.report.artifacts import Windows
from universal_ray.stages.report.plan import Described
from universal_ray.stages.report.schemas import EXAMPLES, HALVES, VOCABULARY

LEVELS = 127
NONE = -1


def vocabulary_table(vocabulary: Vocabulary) -> pa.Table:
    """One row per id."""
    special_V = vocabulary.special_V
    pieces = [
        None if special else piece
        for piece, special in zip(vocabulary.pieces, special_V.tolist(), strict=True)
    ]
    return pa.table(
        [
            pa.array(range(len(vocabulary)), pa.int32()),
            pa.array(vocabulary.shown, pa.string()),
            pa.array(pieces, pa.binary()),
            pa.array(special_V),
        ],
        schema=VOCABULARY,
    )


def quantised(
    value_MW: Float[Tensor, "M W"], what: str
) -> tuple[Float[np.ndarray, "M"], Int8[np.ndarray, "M W"]]:
    """Scales and whole numbers from -127 to 127, whose product is the value within half a scale.

    Raises NumericalError where a value is not finite; `what` they are, for people.
    """
    if not bool(value_MW.isfinite().all()):
        raise NumericalError(
            f"{what} has activations that are not finite: use a wider models.dtype, in a new run"
        )
    value = value_MW.double().numpy()
    scale_M = (np.abs(value).max(1, initial=0) / LEVELS).astype(np.float32)
    safe_M = np.where(scale_M > 0, scale_M, 1).astype(np.float64)
    return scale_M, np.clip(np.rint(value / safe_M[:, None]), -LEVELS, LEVELS).astype(np.int8)


def name_of(model: Model, flat: int) -> str:
    """A neuron's own name in a study."""
    return f"{model.name}:{flat // model.width}.{flat % model.width}"


def examples_table(
    each: Described,
    windows: Windows,
    partners: Mapping[str, Tensor],
    values: Mapping[str, Tensor],
    rows: Sequence[int],
    halves: Sequence[int],
    subsets: Sequence[str] | None,
) -> pa.Table:
    """One row per window of one model.

    `partners`: by name of another model, the flat index [N] of each neuron's partner, -1 for none;
    `values`: as well, its activations [M, W] on the `rows` that were read; `halves`:
    of every window; `subsets`: by row.
    """
    model, neuron_M, row_M = each.model, windows.neuron_M.numpy(), windows.row_M.numpy()
    count = len(neuron_M)
    scale_M, quantised_MW = quantised(windows.window_MW, model.name)
    place_M = (windows.focus_M - windows.start_M)[:, None]
    names = [name_of(model, flat) for flat in range(model.neurons)]
    told = _partners(each, neuron_M, np.isin(row_M, rows), partners, values)
    columns = {
        "id": pa.array([names[flat] for flat in neuron_M.tolist()], pa.string()),
        "model": pa.array([model.name] * count, pa.string()),
        "layer": pa.array(neuron_M // model.width).cast(pa.int32()),
        "neuron": pa.array(neuron_M % model.width).cast(pa.int32()),
        "kind": pa.array([KINDS[kind] for kind in windows.kind_M.tolist()], pa.string()),
        "rank": pa.array(windows.rank_M.numpy()).cast(pa.int32()),
        "split": pa.array([HALVES[half] for half in halves], pa.string()),
        "row": pa.array(row_M),
        "start": pa.array(windows.start_M.numpy()).cast(pa.int32()),
        "focus": pa.array(windows.focus_M.numpy()).cast(pa.int32()),
        "subset": pa.nulls(count, pa.string())
        if subsets is None
        else pa.array([subsets[row] for row in row_M.tolist()], pa.string()),
        "token_ids": _lists(windows.tokens_MW.numpy(), pa.int32()),
        "activation": pa.array(windows.window_MW.gather(1, place_M)[:, 0].numpy(), pa.float32()),
        "scale": pa.array(scale_M),
        "quantised": _lists(quantised_MW, pa.int8()),
        **told,
    }
    return pa.table([columns[name] for name in EXAMPLES.names], schema=EXAMPLES)


def _lists(values_MW: np.ndarray, kind: pa.DataType) -> pa.Array:
    """Rows of a matrix as lists."""
    offsets = np.arange(len(values_MW) + 1, dtype=np.int32) * values_MW.shape[1]
    flat = pa.array(np.ascontiguousarray(values_MW).ravel()).cast(kind)
    return pa.ListArray.from_arrays(pa.array(offsets), flat)


def _partners(
    each: Described,
    neuron_M: np.ndarray,
    read_M: np.ndarray,
    partners: Mapping[str, Tensor],
    values: Mapping[str, Tensor],
) -> dict[str, pa.Array]:
    """Who the partners of every window's neuron are, and what they do in it."""
    count, window = len(neuron_M), next(iter(values.values())).shape[1]
    names, scales, whole, there = [], [], [], []
    for other in each.others:
        partner_N, value_MW = partners[other.name], values[other.name]
        there.append(read_M & (partner_N.numpy()[neuron_M] != NONE))
        known = [None if flat == NONE else name_of(other, flat) for flat in partner_N.tolist()]
        names.append([known[flat] for flat in neuron_M.tolist()])
        scale_M, quantised_MW = quantised(value_MW, other.name)
        scales.append(scale_M)
        whole.append(quantised_MW)
    there_MS = np.stack(there, axis=1)
    offsets = pa.array(np.arange(count + 1, dtype=np.int32) * len(each.others))
    inner = np.arange(count * len(each.others) + 1, dtype=np.int32) * window
    lists = pa.ListArray.from_arrays(
        pa.array(inner),
        pa.array(np.stack(whole, axis=1).ravel()),
        mask=pa.array(~there_MS.ravel()),
    )
    flat = [name for together in zip(*names, strict=True) for name in together]
    return {
        "partners": pa.ListArray.from_arrays(offsets, pa.array(flat, pa.string())),
        "partner_scales": pa.ListArray.from_arrays(
            offsets,
            pa.array(np.stack(scales, axis=1).ravel(), mask=~there_MS.ravel()),
            mask=pa.array(~read_M),
        ),
        "partner_quantised": pa.ListArray.from_arrays(offsets, lists, mask=pa.array(~read_M)),
    }
