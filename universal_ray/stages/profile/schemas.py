"""Schemas of the tables of the profile: statistics, features and families of every neuron.

Every column carries its description and unit in the Parquet metadata.
"""

import pyarrow as pa

from universal_ray.maths.statistics.weights import NEEDS
from universal_ray.stages.correlations.schemas import NEURONS
from universal_ray.storage.columns import Table, list_of
from universal_ray.storage.finished import (
    BANK_PATH,
    FEATURES_PATH,
    NEURONS_PATH,
    STATISTICS_PATH,
    TAXONOMY_PATH,
)
from universal_ray.storage.reasons import KEY, NOT_MEASURED, field

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

STORIES = ("family", "feature", "variance_reduction", "status", "partners_in_family")
"""Columns of the taxonomy that `neurons.parquet` repeats."""
ADDED = pa.schema(
    [
        *(STATISTICS.field(name) for name in (*PUBLISHED, KEY)),
        *(TAXONOMY.field(name) for name in STORIES),
    ]
)
"""What the profile adds to every row of `neurons.parquet`, in this order."""

TABLES = (
    Table(
        path=STATISTICS_PATH,
        row="a neuron of any model",
        sorted_by=("model", "layer", "neuron"),
        schema=STATISTICS,
    ),
    Table(
        path=FEATURES_PATH,
        row="a neuron of any model and one of the features that explain it best",
        sorted_by=("model", "layer", "neuron", "rank"),
        schema=FEATURES,
    ),
    Table(
        path=TAXONOMY_PATH,
        row="a neuron of any model",
        sorted_by=("model", "layer", "neuron"),
        schema=TAXONOMY,
    ),
    Table(
        path=BANK_PATH,
        row="a feature that was tried on every neuron",
        sorted_by=("feature",),
        schema=BANK,
    ),
    Table(
        path=NEURONS_PATH,
        row="a neuron of a reference model",
        sorted_by=("model", "layer", "neuron"),
        schema=pa.schema([*NEURONS, *ADDED]),
    ),
)
