"""The tables of the profile: statistics, features and families of every neuron of every model."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from universal_ray.corpus.rows import TokenCorpus
from universal_ray.features.bank import Column
from universal_ray.features.families import NONE, Membership, top_features
from universal_ray.features.vocabulary import Vocabulary
from universal_ray.maths.statistics.comparison import percentiles_in_layer
from universal_ray.maths.statistics.weights import Resemblance
from universal_ray.planning.items import Model
from universal_ray.stages.neurons import who
from universal_ray.stages.profile.schemas import (
    BANK,
    FEATURES,
    LISTS,
    NUMBERS,
    OF_ACTIVATIONS,
    PUBLISHED,
    STATISTICS,
    TAXONOMY,
)
from universal_ray.stages.profile.stored import (
    Composed,
    Cosines,
    End,
    Heads,
    LayerStatistics,
    WeightStatistics,
)
from universal_ray.storage.columns import list_of, numbers
from universal_ray.storage.reasons import assembled

BEFORE = 8
"""Tokens of context before an example."""
ROWS = 1024
"""Rows read together."""

BY_COLUMN, SHARED = {"reduction", "difference"}, {"support", "not_measured"}
"""Statistics of a layer that have its neurons second, and those that have none."""
COSINES = ("in_vocab", "in_embed")
ALIKE = {"in_sim", "out_sim", "both_sim"}
OF_WEIGHTS = {each.name for each in fields(WeightStatistics)}


def join_layers(layers: Sequence[LayerStatistics]) -> LayerStatistics:
    """Statistics of all layers as those of the model: scores by column, all else by row."""

    def joined(name: str, parts: list[Any]) -> Any:
        if parts[0] is None or name in SHARED:
            return parts[0]
        if isinstance(parts[0], End):
            return End(**{each.name: joined(each.name, [getattr(part, each.name) for part in parts])
                          for each in fields(End)})  # fmt: skip
        return torch.cat(parts, 1 if name in BY_COLUMN else 0)

    return LayerStatistics(
        **{
            each.name: joined(each.name, [getattr(layer, each.name) for layer in layers])
            for each in fields(LayerStatistics)
        }
    )


def _number(
    name: str, found: LayerStatistics, weights: WeightStatistics | None
) -> torch.Tensor | None:
    """A column of `NUMBERS`; None for what the model or its units lack."""
    if weights is None and name not in OF_ACTIVATIONS:
        return None
    if name.removesuffix("_min") in ALIKE:
        alike: Resemblance = getattr(weights, name.removesuffix("_min"))
        return alike.min_N if name.endswith("_min") else alike.max_N
    for kind in COSINES:
        if name.startswith(f"{kind}_"):
            cosines: Cosines | None = getattr(weights, kind)
            return None if cosines is None else getattr(cosines, name.removeprefix(f"{kind}_"))
    value = getattr(weights if name in OF_WEIGHTS else found, name)
    return value.top.value_NK[:, 0] if isinstance(value, Composed) else value


def _floats(values_N: torch.Tensor, kind: pa.DataType | None = None) -> pa.Array:
    return numbers(values_N.double(), values_N.isnan(), kind or pa.float64())


def statistics_table(
    model: Model,
    found: LayerStatistics,
    weights: WeightStatistics | None,
    missing: Mapping[str, str],
    corpus: TokenCorpus,
    vocabulary: Vocabulary,
) -> pa.Table:
    """One row per neuron; null is what an architecture has no such weights for, or units have none
    for: `missing` says why.
    """
    columns = who(model)
    layer_N = np.repeat(np.arange(model.layers), model.width)
    for name in NUMBERS:
        value_N = _number(name, found, weights)
        if value_N is not None:
            columns[name] = _floats(value_N)
        if value_N is not None and name in PUBLISHED:
            place_N = percentiles_in_layer(value_N.double().numpy(), layer_N)
            columns[f"{name}_percentile"] = _floats(torch.from_numpy(place_N))
    for name, (kind, *_) in LISTS.items():
        values = getattr(found, name).numpy()
        columns[name] = _rows(values.astype(np.int32 if kind == pa.int32() else np.float32))
    if (by_subset := found.histogram_by_subset) is not None:
        flat = _rows(by_subset.flatten(0, 1).numpy())
        columns["histogram_by_subset"] = _split(flat, by_subset[:, :, 0])
    listed = {
        "token_mean": (found.highest.mean_id, found.highest.mean),
        "token_max": (found.highest.extreme_id, found.highest.extreme),
    }
    if weights is not None:
        columns |= _heads(weights)
        listed |= _listed(weights)
    examples = {"example": found.highest}
    if found.lowest is not None:
        listed["token_mean_low"] = (found.lowest.mean_id, found.lowest.mean)
        listed["token_min"] = (found.lowest.extreme_id, found.lowest.extreme)
        examples["example_low"] = found.lowest
    for name, (id_NK, value_NK) in listed.items():
        columns[name] = _rows(value_NK.float().numpy())
        columns[f"{name}_token"] = _texts(id_NK, value_NK, vocabulary)
        columns[f"{name}_id"] = _ids(id_NK, value_NK)
    for name, end in examples.items():
        columns[f"{name}_value"] = _rows(end.value.float().numpy())
        row_NK, position_NK = end.row.int(), end.position.int()
        columns[f"{name}_row"] = _rows(row_NK.numpy())
        columns[f"{name}_position"] = _rows(position_NK.numpy())
        windows = _windows(row_NK, position_NK, corpus)
        for what, kind, told in (
            ("text", pa.string(), vocabulary.show), ("ids", list_of(pa.int32()), list[int]),
        ):
            entries = pa.array([None if w is None else told(w) for w in windows], kind)
            columns[f"{name}_{what}"] = _split(entries, row_NK)
    return assembled(STATISTICS, columns, {**missing, **found.not_measured}, model.neurons)


def _heads(weights: WeightStatistics) -> dict[str, pa.Array]:
    """Heads that neurons compose with most and least."""
    columns = {}
    for name in (f"{kind}_composition" for kind in "qkvo"):
        composed: Composed | None = getattr(weights, name)
        if composed is None or weights.heads is None:
            continue
        for which in ("top", "bottom"):
            some: Heads = getattr(composed, which)
            columns[f"{name}_{which}"] = _rows(some.value_NK.float().numpy())
            for what, place in _places(some.head_NK, weights.heads).items():
                columns[f"{name}_{which}_{what}"] = _split(place, some.head_NK)
        for what, place in _places(composed.top.head_NK[:, :1], weights.heads).items():
            columns[f"{name}_{what}"] = place
    return columns


def _listed(weights: WeightStatistics) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Ids and cosines [N, K] by the name of a list."""
    return {
        "vocab_top": (weights.vocab_top_id, weights.vocab_top),
        "vocab_bottom": (weights.vocab_bottom_id, weights.vocab_bottom),
        **{
            f"{kind}_{end}": (getattr(cosines, f"{end}_id"), getattr(cosines, end))
            for kind in COSINES
            if (cosines := getattr(weights, kind)) is not None
            for end in ("top", "bottom")
        },
    }


def _places(head_NK: torch.Tensor, heads: int) -> dict[str, pa.Array]:
    """Layer of each head and its number there, flat; null for none."""
    head_X = head_NK.flatten()
    parts = {"layer": head_X // heads, "head": head_X % heads}
    return {
        what: numbers(part_X, head_X < 0, pa.int64()).cast(pa.int16())
        for what, part_X in parts.items()
    }


def _rows(values_NK: np.ndarray) -> pa.Array:
    """Rows of a matrix as lists; null entries where it has no finite number."""
    count = values_NK.shape[1]
    offsets = np.arange(len(values_NK) + 1, dtype=np.int32) * count
    flat = np.ascontiguousarray(values_NK).ravel()
    return pa.ListArray.from_arrays(offsets, pa.array(flat, mask=~np.isfinite(flat)))


def _texts(id_NK: torch.Tensor, value_NK: torch.Tensor, vocabulary: Vocabulary) -> pa.Array:
    """Tokens of values; null where there is no finite one."""
    some = value_NK.isfinite().flatten().tolist()
    texts = [
        vocabulary.shown[index] if told else None
        for index, told in zip(id_NK.flatten().tolist(), some, strict=True)
    ]
    return _split(pa.array(texts, pa.string()), id_NK)


def _ids(id_NK: torch.Tensor, value_NK: torch.Tensor) -> pa.Array:
    """Ids of values; null where there is no finite one."""
    missing = ~value_NK.isfinite().flatten().numpy()
    return _split(pa.array(id_NK.flatten().int().numpy(), pa.int32(), mask=missing), id_NK)


def _split(flat: pa.Array, like_NK: torch.Tensor) -> pa.Array:
    """Entries as the rows of a matrix."""
    offsets = np.arange(len(like_NK) + 1, dtype=np.int32) * like_NK.shape[1]
    return pa.ListArray.from_arrays(offsets, flat)


def _windows(
    row_NK: torch.Tensor, position_NK: torch.Tensor, corpus: TokenCorpus
) -> list[list[int] | None]:
    """Ids that lead to each example, and its own; None where there are too few tokens for one."""
    tokens: dict[int, np.ndarray] = {}
    wanted_R = row_NK[row_NK >= 0].unique().numpy()
    for block in (np.unique(wanted_R // ROWS) * ROWS).tolist():
        stop = min(block + ROWS, corpus.rows)
        tokens_BP = corpus.read(block, stop)
        inside_R = wanted_R[(wanted_R >= block) & (wanted_R < stop)]
        tokens |= dict(zip(inside_R.tolist(), tokens_BP[inside_R - block], strict=True))
    windows: list[list[int] | None] = []
    places = zip(row_NK.flatten().tolist(), position_NK.flatten().tolist(), strict=True)
    for row, position in places:
        if row < 0:
            windows.append(None)
            continue
        windows.append(tokens[row][max(position - BEFORE, 0) : position + 1].tolist())
    return windows


def features_table(
    model: Model, found: LayerStatistics, columns: Sequence[Column], count: int
) -> pa.Table:
    """The best features of every neuron, those with a score alone."""
    score_NK, feature_NK = top_features(found.reduction, count)
    kept_NK = (feature_NK != NONE).flatten()
    feature_R = feature_NK.flatten()[kept_NK]
    neuron_R = torch.arange(model.neurons).repeat_interleave(feature_NK.shape[1])[kept_NK]
    rank_R = torch.arange(feature_NK.shape[1]).repeat(model.neurons)[kept_NK]
    difference_R = found.difference[feature_R, neuron_R]
    chosen = [columns[index] for index in feature_R.tolist()]
    return pa.table(
        [
            *who(model, neuron_R).values(),
            pa.array(rank_R.numpy()).cast(pa.int16()),
            pa.array([column.name for column in chosen], pa.string()),
            pa.array([column.family for column in chosen], pa.string()),
            pa.array([column.looks_at for column in chosen], pa.string()),
            _floats(score_NK.flatten()[kept_NK]),
            _floats(difference_R),
            pa.array(found.support[feature_R].long().numpy()),
        ],
        schema=FEATURES,
    )


def bank_table(
    columns: Sequence[Column], support_F: torch.Tensor, reasons: Sequence[str | None]
) -> pa.Table:
    """Every feature that was tried, with what stood against a score."""
    return pa.table(
        [
            pa.array([column.name for column in columns], pa.string()),
            pa.array([column.family for column in columns], pa.string()),
            pa.array([column.looks_at for column in columns], pa.string()),
            pa.array([column.description for column in columns], pa.string()),
            pa.array(support_F.long().numpy()),
            pa.array(list(reasons), pa.string()),
        ],
        schema=BANK,
    )


def taxonomy_table(
    model: Model,
    members: Membership,
    columns: Sequence[Column],
    is_universal: pa.Array,
    partners: Sequence[tuple[np.ndarray, Membership]],
) -> pa.Table:
    """One row per neuron; `partners`: its best partner in each other model, -1 for none."""
    found: dict[str, Any] = {**who(model), **members.table(columns)}
    found["is_universal"] = is_universal
    own_N = members.member_family_N.numpy()
    count_N, same_N = (np.zeros(model.neurons, np.int16) for _ in range(2))
    for partner_N, other in partners:
        has_N = partner_N != NONE
        count_N += has_N
        same_N += has_N & (own_N != NONE) & (other.member_family_N.numpy()[partner_N] == own_N)
    found["partners"] = pa.array(count_N)
    found["partners_in_family"] = pa.array(same_N, mask=own_N == NONE)
    return pa.table([found[name] for name in TAXONOMY.names], schema=TAXONOMY)
