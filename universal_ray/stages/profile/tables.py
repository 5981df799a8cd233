"""The tables of the profile: statistics, features and families of every neuron of every model."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from universal_ray.corpus.rows import TokenCorpus
from universal_ray.features.bank import Column
from universal_ray.features.families import NONE, Membership, top_features
from universal_ray.features.vocabulary import Vocabulary
from universal_ray.maths.moments.correlation import split_index
from universal_ray.planning.items import Model
from universal_ray.stages.profile.schemas import (
    BANK,
    FEATURES,
    LISTS,
    LOW_TOKENS,
    LOWER_END,
    NUMBERS,
    STATISTICS,
    TAXONOMY,
    TOKENS,
    UNGATED,
)
from universal_ray.storage.columns import numbers
from universal_ray.storage.reasons import assembled, not_measured

BEFORE = 8
"""Tokens of context before an example."""
ROWS = 1024
"""Rows read together."""

Tensors = dict[str, torch.Tensor]


def join_layers(layers: Sequence[Tensors]) -> Tensors:
    """Tensors of all layers as those of the model: scores by column, all else by row."""
    by_column = {"reduction", "difference"}
    joined = {
        name: torch.cat([layer[name] for layer in layers], 1 if name in by_column else 0)
        for name in layers[0]
        if name != "support"
    }
    return {**joined, "support": layers[0]["support"]}


def _who(model: Model) -> dict[str, Any]:
    layer_N, neuron_N = split_index(torch.arange(model.neurons), model.width)
    return {
        "model": pa.array([model.name] * model.neurons),
        "layer": pa.array(layer_N.numpy()).cast(pa.int16()),
        "neuron": pa.array(neuron_N.numpy()).cast(pa.int32()),
    }


def _floats(values_N: torch.Tensor, kind: pa.DataType | None = None) -> pa.Array:
    return numbers(values_N.double(), values_N.isnan(), kind or pa.float64())


def statistics_table(
    model: Model, found: Tensors, weights: Tensors, corpus: TokenCorpus, vocabulary: Vocabulary
) -> pa.Table:
    """One row per neuron. What an architecture has no such weights for is null."""
    every = {**found, **weights}
    columns: dict[str, Any] = _who(model)
    columns |= {name: _floats(every[name]) for name in NUMBERS if name in every}
    for name in (f"{kind}_composition" for kind in "qkvo"):
        if name not in every:
            continue
        head_N, heads = every[f"{name}_head"], int(weights["heads"])
        for what, place_N in (("layer", head_N // heads), ("head", head_N % heads)):
            place = numbers(place_N, head_N < 0, pa.int64())
            columns[f"{name}_{what}"] = place.cast(pa.int16())
    for name, (kind, *_) in LISTS.items():
        values = every[name].numpy()
        columns[name] = _rows(values.astype(np.int32 if kind == pa.int32() else np.float32))
    for name in TOKENS | LOW_TOKENS if model.gated else TOKENS:
        columns[name] = _rows(every[name].float().numpy())
        columns[f"{name}_token"] = _texts(every[f"{name}_id"], every[name], vocabulary)
    for end in ("", "_low") if model.gated else ("",):
        columns[f"example{end}_value"] = _rows(every[f"example{end}_value"].float().numpy())
        rows_NK, positions_NK = (every[f"example{end}_{x}"].int() for x in ("row", "position"))
        columns[f"example{end}_row"] = _rows(rows_NK.numpy())
        columns[f"example{end}_position"] = _rows(positions_NK.numpy())
        columns[f"example{end}_text"] = _contexts(rows_NK, positions_NK, corpus, vocabulary)
    missing = not_measured(weights) | ({} if model.gated else {LOWER_END: UNGATED})
    return assembled(STATISTICS, columns, missing, model.neurons)


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
        vocabulary.texts[index] if told else None
        for index, told in zip(id_NK.flatten().tolist(), some, strict=True)
    ]
    offsets = np.arange(len(id_NK) + 1, dtype=np.int32) * id_NK.shape[1]
    return pa.ListArray.from_arrays(offsets, pa.array(texts, pa.string()))


def _contexts(
    row_NK: torch.Tensor, position_NK: torch.Tensor, corpus: TokenCorpus, vocabulary: Vocabulary
) -> pa.Array:
    """The text that leads to each example; null where there are too few tokens for one."""
    tokens: dict[int, np.ndarray] = {}
    wanted_R = row_NK[row_NK >= 0].unique().numpy()
    for block in (np.unique(wanted_R // ROWS) * ROWS).tolist():
        stop = min(block + ROWS, corpus.rows)
        tokens_BP = corpus.read(block, stop)
        inside_R = wanted_R[(wanted_R >= block) & (wanted_R < stop)]
        tokens |= dict(zip(inside_R.tolist(), tokens_BP[inside_R - block], strict=True))
    texts: list[str | None] = []
    places = zip(row_NK.flatten().tolist(), position_NK.flatten().tolist(), strict=True)
    for row, position in places:
        if row < 0:
            texts.append(None)
            continue
        window = tokens[row][max(position - BEFORE, 0) : position + 1].tolist()
        pieces = b"".join(vocabulary.pieces[index] for index in window)
        texts.append(pieces.decode("utf-8", "replace"))
    offsets = np.arange(len(row_NK) + 1, dtype=np.int32) * row_NK.shape[1]
    return pa.ListArray.from_arrays(offsets, pa.array(texts, pa.string()))


def features_table(
    model: Model, found: Tensors, columns: Sequence[Column], count: int
) -> pa.Table:
    """The best features of every neuron, those with a score alone."""
    score_NK, feature_NK = top_features(found["reduction"], count)
    kept_NK = (feature_NK != NONE).flatten()
    feature_R = feature_NK.flatten()[kept_NK]
    neuron_R = torch.arange(model.neurons).repeat_interleave(feature_NK.shape[1])[kept_NK]
    rank_R = torch.arange(feature_NK.shape[1]).repeat(model.neurons)[kept_NK]
    layer_R, place_R = split_index(neuron_R, model.width)
    difference_R = found["difference"][feature_R, neuron_R]
    chosen = [columns[index] for index in feature_R.tolist()]
    return pa.table(
        [
            pa.array([model.name] * len(chosen), pa.string()),
            pa.array(layer_R.numpy()).cast(pa.int16()),
            pa.array(place_R.numpy()).cast(pa.int32()),
            pa.array(rank_R.numpy()).cast(pa.int16()),
            pa.array([column.name for column in chosen], pa.string()),
            pa.array([column.family for column in chosen], pa.string()),
            pa.array([column.looks_at for column in chosen], pa.string()),
            _floats(score_NK.flatten()[kept_NK]),
            _floats(difference_R),
            pa.array(found["support"][feature_R].long().numpy()),
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
    found: dict[str, Any] = {**_who(model), **members.table(columns)}
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
