"""The tables of the profile: statistics, features and families of every neuron of every model.

Every column carries its description and unit in the Parquet metadata.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from universal_ray.corpus import TokenCorpus
from universal_ray.items import Model
from universal_ray.moments import split_index
from universal_ray.tables import field, list_of, numbers
from universal_ray.taxonomy.assign import NONE, Assignment, top_features
from universal_ray.taxonomy.bank import Column
from universal_ray.taxonomy.vocabulary import Vocabulary

BEFORE = 8
"""Tokens of context before an example."""
ROWS = 1024
"""Rows read together."""
PUBLISHED = (
    "w_in_norm", "input_bias", "w_out_norm", "in_out_sim", "l2_penalty", "mean", "var", "skew",
    "kurt", "vocab_mean", "vocab_var", "vocab_skew", "vocab_kurt", "sparsity",
)  # fmt: skip
"""Statistics by the names of the authors' published tables."""

WHO = [
    field("model", pa.string(), "id[@revision]", "model the neuron belongs to"),
    field("layer", pa.int16(), "index from 0", "layer of the neuron"),
    field("neuron", pa.int32(), "index from 0", "neuron within its layer"),
]
PRE = "pre-activation, what enters the activation function (of a gated MLP the gate's)"
POST = "activation, what enters W_out: act(pre), or act(gate)·up in a gated MLP"
UNGATED = (
    "its MLP has no gate, so that the lower end of its activations is the floor of the activation "
    "function and no response"
)
"""Why a neuron has no lower end."""
NUMBERS = {
    "w_in_norm": ("1", "length of what it reads, a column of W_in"),
    "input_bias": ("1", "its bias"),
    "w_out_norm": ("1", "length of what it writes, a row of W_out"),
    "in_out_sim": ("cosine", "of what it reads and what it writes"),
    "l2_penalty": ("1", "w_in_norm² + w_out_norm²"),
    "mean": ("pre-activation", f"mean over tokens of the {PRE}"),
    "var": ("pre-activation²", f"population variance over tokens of the {PRE}"),
    "skew": ("1", f"population skewness over tokens of the {PRE}"),
    "kurt": ("1", f"population kurtosis over tokens of the {PRE}, Gaussian = 3"),
    "vocab_mean": ("cosine", "mean over the vocabulary of cos(w_out, W_U[:, v])"),
    "vocab_var": ("cosine²", "population variance over the vocabulary"),
    "vocab_skew": ("1", "population skewness over the vocabulary"),
    "vocab_kurt": ("1", "population kurtosis over the vocabulary, Gaussian = 3"),
    "sparsity": ("share", f"tokens on which it fires: the {PRE}, is above zero"),
    "post_mean": ("activation", f"mean over tokens of the {POST}"),
    "post_var": ("activation²", f"population variance over tokens of the {POST}"),
    "position_information": ("nats", "mutual information of position and firing"),
    "position_variance_explained": ("share", "variance of activations that lies between positions"),
    "in_sim": ("cosine", "largest of w_in with another neuron's of the model"),
    "out_sim": ("cosine", "largest of w_out with another neuron's of the model"),
    "both_sim": ("cosine", "largest over other neurons of the smaller of both cosines"),
    "in_sim_min": ("cosine", "smallest of w_in with another neuron's"),
    "out_sim_min": ("cosine", "smallest of w_out with another neuron's"),
    "q_composition": ("share", "largest of w_out with the queries of a head"),
    "k_composition": ("share", "largest of w_out with the keys of a head"),
    "v_composition": ("share", "largest of w_out with the values of a head"),
    "o_composition": ("share", "largest of what a head writes with w_in"),
}
LISTS = {
    "histogram": (pa.int32(), "tokens", f"of the {PRE}: 257 bins between (25·i − 2550)/255"),
    "mean_by_position": (pa.float32(), "activation", "mean post-activation by position"),
    "mean_by_subset": (pa.float32(), "activation", "the same by subset, in summary.json's order"),
}
TOKENS = {
    "vocab_top": "largest cos(w_out, W_U[:, v])",
    "vocab_bottom": "smallest cos(w_out, W_U[:, v])",
    "token_mean": "largest mean activations by token, of tokens seen 50 times or more",
    "token_max": "largest activations by token",
}
LOW_TOKENS = {
    "token_mean_low": "smallest mean activations by token, of tokens seen 50 times or more",
    "token_min": "smallest activations by token",
}


def _examples(end: str, what: str) -> list[pa.Field]:
    return [
        field(f"example{end}_value", list_of(pa.float32()), "activation", f"{what} activations"),
        field(f"example{end}_row", list_of(pa.int32()), "index from 0", "their rows of the corpus"),
        field(f"example{end}_position", list_of(pa.int32()), "index from 0", "their positions"),
        field(f"example{end}_text", list_of(pa.string()), "", "up to eight tokens, then theirs"),
    ]


EXAMPLES, LOW_EXAMPLES = _examples("", "largest"), _examples("_low", "smallest")
LOWER_END = [*(f"{name}{of}" for name in LOW_TOKENS for of in ("", "_token"))]
LOWER_END += [column.name for column in LOW_EXAMPLES]
"""Columns of neurons whose activations are of either sign."""
STATISTICS = pa.schema(
    [
        *WHO,
        *(field(name, pa.float64(), *told) for name, told in NUMBERS.items()),
        *(
            field(f"{kind}_composition_{what}", pa.int16(), "index from 0", f"{what} of that head")
            for kind in "qkvo"
            for what in ("layer", "head")
        ),
        *(field(name, list_of(kind), *told) for name, (kind, *told) in LISTS.items()),
        *(
            entry
            for name, told in (TOKENS | LOW_TOKENS).items()
            for entry in (
                field(name, list_of(pa.float32()), "", told),
                field(f"{name}_token", list_of(pa.string()), "", "the tokens of these"),
            )
        ),
        *EXAMPLES,
        *LOW_EXAMPLES,
        field("low_null_reason", pa.string(), "", "why smallest activations are not told"),
    ]
)
FEATURES = pa.schema(
    [
        *WHO,
        field("rank", pa.int16(), "index from 0", "place among the best features of the neuron"),
        field("feature", pa.string(), "", "name of the feature"),
        field("feature_family", pa.string(), "", "family of the feature"),
        field("looks_at", pa.string(), "", "the token that is labelled: current or previous"),
        field("variance_reduction", pa.float64(), "share", "variance explained by the feature"),
        field("mean_difference", pa.float64(), "activation", "mean with minus mean without it"),
        field("support", pa.int64(), "tokens", "tokens with the feature"),
    ]
)
BANK = pa.schema(
    [
        field("feature", pa.string(), "", "name of the feature"),
        field("feature_family", pa.string(), "", "family of the feature"),
        field("looks_at", pa.string(), "", "the token that is labelled: current or previous"),
        field("description", pa.string(), "", "what the feature is"),
        field("support", pa.int64(), "tokens", "tokens with the feature"),
        field("null_reason", pa.string(), "", "why no neuron has a score for it"),
    ]
)
TAXONOMY = pa.schema(
    [
        *WHO,
        field("family", pa.string(), "", "family of the neuron's best feature"),
        field("feature", pa.string(), "", "that feature"),
        field("variance_reduction", pa.float64(), "share", "variance explained by it"),
        field("threshold", pa.float64(), "share", "above which a neuron is a member of the family"),
        field("status", pa.string(), "", "member, partly or unexplained"),
        field("runner_up_family", pa.string(), "", "of the best feature of any other family"),
        field("runner_up_feature", pa.string(), "", "that feature"),
        field("runner_up_variance_reduction", pa.float64(), "share", "variance explained by it"),
        field("is_universal", pa.bool_(), "", "of neurons of a reference model"),
        field("partners", pa.int16(), "models", "other models with a best partner of the neuron"),
        field("partners_in_family", pa.int16(), "models", "whose partner is of its family"),
    ]
)

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
    empty = pa.nulls(model.neurons)
    for name in NUMBERS:
        columns[name] = _floats(every[name]) if name in every else empty.cast(pa.float64())
    heads = int(weights["heads"])
    for kind in "qkvo":
        head_N = every.get(f"{kind}_composition_head")
        for what in ("layer", "head"):
            column = f"{kind}_composition_{what}"
            if head_N is None:
                columns[column] = empty.cast(pa.int16())
                continue
            place_N = head_N // heads if what == "layer" else head_N % heads
            columns[column] = pa.array(place_N.numpy()).cast(pa.int16())
    for name, (kind, *_) in LISTS.items():
        values = every[name].numpy()
        columns[name] = _rows(values.astype(np.int32 if kind == pa.int32() else np.float32))
    for name in TOKENS | LOW_TOKENS if model.gated else TOKENS:
        columns[name] = _rows(every[name].float().numpy())
        columns[f"{name}_token"] = _texts(every[f"{name}_id"], vocabulary)
    for end in ("", "_low") if model.gated else ("",):
        columns[f"example{end}_value"] = _rows(every[f"example{end}_value"].float().numpy())
        rows_NK, positions_NK = (every[f"example{end}_{x}"].int() for x in ("row", "position"))
        columns[f"example{end}_row"] = _rows(rows_NK.numpy())
        columns[f"example{end}_position"] = _rows(positions_NK.numpy())
        columns[f"example{end}_text"] = _contexts(rows_NK, positions_NK, corpus, vocabulary)
    if not model.gated:
        columns |= {name: empty.cast(STATISTICS.field(name).type) for name in LOWER_END}
    reason = None if model.gated else UNGATED
    columns["low_null_reason"] = pa.array([reason] * model.neurons, pa.string())
    return pa.table([columns[name] for name in STATISTICS.names], schema=STATISTICS)


def _rows(values_NK: np.ndarray) -> pa.Array:
    """Rows of a matrix as lists."""
    count = values_NK.shape[1]
    offsets = np.arange(len(values_NK) + 1, dtype=np.int32) * count
    return pa.ListArray.from_arrays(offsets, pa.array(np.ascontiguousarray(values_NK).ravel()))


def _texts(id_NK: torch.Tensor, vocabulary: Vocabulary) -> pa.Array:
    texts = [vocabulary.texts[index] for index in id_NK.flatten().tolist()]
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
    assigned: Assignment,
    columns: Sequence[Column],
    universal_N: np.ndarray | None,
    partners: Sequence[tuple[np.ndarray, Assignment]],
) -> pa.Table:
    """One row per neuron; `partners`: its best partner in each other model, -1 for none."""
    found: dict[str, Any] = {**_who(model), **assigned.table(columns)}
    found["is_universal"] = (
        pa.nulls(model.neurons, pa.bool_()) if universal_N is None else pa.array(universal_N)
    )
    own_N = assigned.member_family_N.numpy()
    count_N, same_N = (np.zeros(model.neurons, np.int16) for _ in range(2))
    for partner_N, other in partners:
        has_N = partner_N != NONE
        count_N += has_N
        same_N += has_N & (own_N != NONE) & (other.member_family_N.numpy()[partner_N] == own_N)
    found["partners"] = pa.array(count_N)
    found["partners_in_family"] = pa.array(same_N, mask=own_N == NONE)
    return pa.table([found[name] for name in TAXONOMY.names], schema=TAXONOMY)
