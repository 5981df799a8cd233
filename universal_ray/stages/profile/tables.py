"""The tables of the profile: statistics, features and families of every neuron of every model.

Every column carries its description and unit in the Parquet metadata.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from universal_ray.corpus.rows import TokenCorpus
from universal_ray.features.bank import Column
from universal_ray.features.families import NONE, Assignment, top_features
from universal_ray.features.vocabulary import Vocabulary
from universal_ray.maths.moments.correlation import split_index
from universal_ray.maths.statistics.weights import NEEDS
from universal_ray.planning.items import Model
from universal_ray.storage.columns import list_of, numbers
from universal_ray.storage.reasons import NOT_MEASURED, assembled, field, not_measured

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
    "w_in_norm": ("1", "length of w_in, a column of W_in; of a gated MLP its gate's"),
    "input_bias": ("1", "its bias, of a gated MLP its gate's"),
    "w_out_norm": ("1", "length of w_out, a row of W_out through any norm after the MLP"),
    "in_out_sim": ("cosine", "of w_in and w_out"),
    "l2_penalty": ("1", "w_in_norm² + w_out_norm², of a gated MLP + up_norm²"),
    "up_norm": ("1", "length of what its gate lets through, a column of a gated MLP's W_up"),
    "up_bias": ("1", "the bias of that"),
    "up_out_sim": ("cosine", "of that column and w_out"),
    "gate_up_sim": ("cosine", "of that column and w_in"),
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
    "position_information": ("nats", "mutual information of position and firing, of all tokens "
                             "that taxonomy.exclude leaves"),
    "position_variance_explained": ("share", "variance of activations that lies between positions"),
    "in_sim": ("cosine", "largest of w_in with another neuron's of the model"),
    "out_sim": ("cosine", "largest of w_out with another neuron's of the model"),
    "both_sim": ("cosine", "largest over other neurons of the smaller of both, of a gated MLP of "
                 "the three with its W_up"),
    "in_sim_min": ("cosine", "smallest of w_in with another neuron's"),
    "out_sim_min": ("cosine", "smallest of w_out with another neuron's"),
    "q_composition": ("share", "largest of w_out with the queries of a head of a later layer"),
    "k_composition": ("share", "largest of w_out with the keys of a head of a later layer"),
    "v_composition": ("share", "largest of w_out with the values of a head of a later layer"),
    "o_composition": ("share", "largest of w_in with what a head writes, of an earlier layer or of "
                      "its own where that attends first"),
}  # fmt: skip
CONSTANT, NOTHING = "its activations do not vary", "it reads or writes nothing"
SILENT = "it writes nothing, or the same to every token"
NULLS = {
    **dict.fromkeys(("skew", "kurt", "position_variance_explained"), CONSTANT),
    **dict.fromkeys(("in_out_sim", "up_out_sim", "gate_up_sim", "in_sim", "out_sim", "both_sim",
                     "in_sim_min", "out_sim_min"), NOTHING),
    **dict.fromkeys(("vocab_mean", "vocab_var", "vocab_skew", "vocab_kurt"), SILENT),
    **dict.fromkeys(("q_composition", "k_composition", "v_composition"),
                    "it is of the last layer, or writes nothing"),
    "o_composition": "no head comes before it, or it reads nothing",
}  # fmt: skip
"""When a value is null that was measured; columns that are not here have none."""
FEWER = "an entry is null where there are fewer"
LISTS = {
    "histogram": (pa.int32(), "tokens", f"of the {PRE}: 257 bins between (25·i − 2550)/255"),
    "mean_by_position": (pa.float32(), "activation", "mean post-activation by position"),
    "mean_by_subset": (pa.float32(), "activation", "the same by subset, in summary.json's order"),
}
UNSEEN = "an entry is null where no token counts"
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
LOWER_END = "lower end"
"""Of activations of either sign, as those of gated neurons are."""


def _examples(end: str, what: str, *needs: str) -> list[pa.Field]:
    return [
        field(f"example{end}_value", list_of(pa.float32()), "activation", f"{what} activations",
              null=FEWER, needs=needs),
        field(f"example{end}_row", list_of(pa.int32()), "index from 0", "their rows of the corpus",
              needs=needs),
        field(f"example{end}_position", list_of(pa.int32()), "index from 0", "their positions",
              needs=needs),
        field(f"example{end}_text", list_of(pa.string()), "", "up to eight tokens, then theirs",
              null=FEWER, needs=needs),
    ]  # fmt: skip


EXAMPLES, LOW_EXAMPLES = _examples("", "largest"), _examples("_low", "smallest", LOWER_END)
STATISTICS = pa.schema(
    [
        *WHO,
        *(
            field(name, pa.float64(), *told, null=NULLS.get(name, ""), needs=NEEDS.get(name, ()))
            for name, told in NUMBERS.items()
        ),
        *(
            field(f"{name}_{what}", pa.int16(), "index from 0", f"{what} of that head",
                  null=NULLS[name], needs=NEEDS[name])
            for name in (f"{kind}_composition" for kind in "qkvo")
            for what in ("layer", "head")
        ),
        *(field(name, list_of(kind), *told, null=UNSEEN) for name, (kind, *told) in LISTS.items()),
        *(
            entry
            for names, needs in ((TOKENS, ()), (LOW_TOKENS, (LOWER_END,)))
            for name, told in names.items()
            for entry in (
                field(name, list_of(pa.float32()), "", told, null=FEWER, needs=needs),
                field(f"{name}_token", list_of(pa.string()), "", "the tokens of these", null=FEWER,
                      needs=needs),
            )
        ),
        *EXAMPLES,
        *LOW_EXAMPLES,
        NOT_MEASURED,
    ]
)  # fmt: skip
FEATURES = pa.schema(
    [
        *WHO,
        field("rank", pa.int16(), "index from 0", "place among the best features of the neuron"),
        field("feature", pa.string(), "", "name of the feature"),
        field("feature_family", pa.string(), "", "family of the feature"),
        field("looks_at", pa.string(), "", "the token that is labelled: current or previous"),
        field("variance_reduction", pa.float64(), "share", "variance explained by the feature"),
        field("mean_difference", pa.float64(), "activation", "mean with minus mean without it",
              null="the feature is the position, which has no mean"),
        field("support", pa.int64(), "tokens", "tokens with the feature"),
    ]
)  # fmt: skip
BANK = pa.schema(
    [
        field("feature", pa.string(), "", "name of the feature"),
        field("feature_family", pa.string(), "", "family of the feature"),
        field("looks_at", pa.string(), "", "the token that is labelled: current or previous"),
        field("description", pa.string(), "", "what the feature is"),
        field("support", pa.int64(), "tokens", "tokens with the feature"),
        field("null_reason", pa.string(), "", "why no neuron has a score for it",
              null="neurons have one"),
    ]
)  # fmt: skip
SCORELESS = "no feature has a score on it: it does not vary"
TAXONOMY = pa.schema(
    [
        *WHO,
        field("family", pa.string(), "", "family of the neuron's best feature", null=SCORELESS),
        field("feature", pa.string(), "", "that feature", null=SCORELESS),
        field("variance_reduction", pa.float64(), "share", "variance explained by it",
              null=SCORELESS),
        field("threshold", pa.float64(), "share", "above which a neuron is a member of the family",
              null=SCORELESS),
        field("status", pa.string(), "", "member, partly or unexplained", null=SCORELESS),
        field("runner_up_family", pa.string(), "", "of the best feature of any other family",
              null=SCORELESS),
        field("runner_up_feature", pa.string(), "", "that feature", null=SCORELESS),
        field("runner_up_variance_reduction", pa.float64(), "share", "variance explained by it",
              null=SCORELESS),
        field("is_universal", pa.bool_(), "", "of neurons of a reference model",
              null="its model is no reference, or it has no correlation, as neurons.parquet says"),
        field("partners", pa.int16(), "models", "other models with a best partner of the neuron"),
        field("partners_in_family", pa.int16(), "models", "whose partner is of its family",
              null="it is a member of no family"),
    ]
)  # fmt: skip

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
    assigned: Assignment,
    columns: Sequence[Column],
    is_universal: pa.Array,
    partners: Sequence[tuple[np.ndarray, Assignment]],
) -> pa.Table:
    """One row per neuron; `partners`: its best partner in each other model, -1 for none."""
    found: dict[str, Any] = {**_who(model), **assigned.table(columns)}
    found["is_universal"] = is_universal
    own_N = assigned.member_family_N.numpy()
    count_N, same_N = (np.zeros(model.neurons, np.int16) for _ in range(2))
    for partner_N, other in partners:
        has_N = partner_N != NONE
        count_N += has_N
        same_N += has_N & (own_N != NONE) & (other.member_family_N.numpy()[partner_N] == own_N)
    found["partners"] = pa.array(count_N)
    found["partners_in_family"] = pa.array(same_N, mask=own_N == NONE)
    return pa.table([found[name] for name in TAXONOMY.names], schema=TAXONOMY)
