"""Schemas of the tables of the profile: statistics, features and families of every neuron.

Every column carries its description and unit in the Parquet metadata.
"""

import pyarrow as pa

from universal_ray.maths.statistics.weights import MOMENTS, NEEDS
from universal_ray.stages.correlations.schemas import NEURONS
from universal_ray.stages.neurons import INDEX, WHO
from universal_ray.storage.columns import Table, list_of, under
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

PRE = "pre-activation, what enters the activation function (of a gated MLP the gate's)"
POST = "activation, what enters W_out: act(pre), or act(gate)·up in a gated MLP"
BY_SUBSET = "histograms by subset"
UNASKED = "taxonomy.subset_histograms is false, or the corpus has no subsets"
"""Why a neuron has none."""
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
    **{
        f"{kind}_{name}": (unit, f"{told} over the vocabulary of cos(w_in, {matrix}[:, v])")
        for kind, matrix in (("in_vocab", "W_U"), ("in_embed", "W_E"))
        for name, unit, told in zip(
            MOMENTS, ("cosine", "cosine²", "1", "1"),
            ("mean", "population variance", "population skewness", "population kurtosis"),
            strict=True,
        )
    },
    "sparsity": ("share", f"tokens on which it fires: the {PRE}, is above zero (by its published "
                 "name, although a large one means that it fires often)"),
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
OF_ACTIVATIONS = {
    "mean", "var", "skew", "kurt", "sparsity", "post_mean", "post_var", "position_information",
    "position_variance_explained",
}
"""Of these numbers, those that any unit has; the others are made of a neuron's weights."""
WEIGHTS = "weights"
"""What units that are no neurons lack."""
NUMBER_NEEDS = {
    name: () if name in OF_ACTIVATIONS else (*NEEDS.get(name, ()), WEIGHTS) for name in NUMBERS
}
CONSTANT, NOTHING = "its activations do not vary", "it reads or writes nothing"
DEAF = "it reads nothing, or the same from every token"
SILENT = "it writes nothing, or the same to every token"
NULLS = {
    **dict.fromkeys(("skew", "kurt", "position_variance_explained"), CONSTANT),
    **dict.fromkeys(("in_out_sim", "up_out_sim", "gate_up_sim", "in_sim", "out_sim", "both_sim",
                     "in_sim_min", "out_sim_min"), NOTHING),
    **dict.fromkeys([f"vocab_{name}" for name in MOMENTS], SILENT),
    **{f"in_{kind}_{name}": DEAF for kind in ("vocab", "embed") for name in MOMENTS},
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
WRITTEN_TOKENS = {
    "vocab_top": ("cosine", "largest cos(w_out, W_U[:, v])"),
    "vocab_bottom": ("cosine", "smallest cos(w_out, W_U[:, v])"),
    "in_vocab_top": ("cosine", "largest cos(w_in, W_U[:, v])"),
    "in_vocab_bottom": ("cosine", "smallest cos(w_in, W_U[:, v])"),
}
TOKENS = {
    "token_mean": (
        "activation", "largest mean activations by token, of tokens seen 50 times or more"
    ),
    "token_max": ("activation", "largest activations by token"),
}
EMBED_TOKENS = {
    "in_embed_top": ("cosine", "largest cos(w_in, W_E[:, v])"),
    "in_embed_bottom": ("cosine", "smallest cos(w_in, W_E[:, v])"),
}
LOW_TOKENS = {
    "token_mean_low": (
        "activation", "smallest mean activations by token, of tokens seen 50 times or more"
    ),
    "token_min": ("activation", "smallest activations by token"),
}
LOWER_END = "lower end"
"""Of activations of either sign, as those of gated neurons are."""


def _examples(end: str, what: str, *needs: str) -> list[pa.Field]:
    return [
        field(f"example{end}_value", list_of(pa.float32()), "activation", f"{what} activations",
              null=FEWER, needs=needs),
        field(f"example{end}_row", list_of(pa.int32()), INDEX, "their rows of the corpus",
              needs=needs),
        field(f"example{end}_position", list_of(pa.int32()), INDEX, "their positions",
              needs=needs),
        field(f"example{end}_text", list_of(pa.string()), "token", "up to eight tokens, then "
              "theirs; spaces as they are", null=FEWER, needs=needs),
        field(f"example{end}_ids", list_of(list_of(pa.int32())), "token id", "the ids of these",
              null=FEWER, needs=needs),
    ]  # fmt: skip


EXAMPLES, LOW_EXAMPLES = _examples("", "largest"), _examples("_low", "smallest", LOWER_END)
STATISTICS = pa.schema(
    [
        *WHO,
        *(
            field(name, pa.float64(), *told, null=NULLS.get(name, ""), needs=NUMBER_NEEDS[name])
            for name, told in NUMBERS.items()
        ),
        *(
            field(f"{name}_percentile", pa.float64(), "percentile", f"of {name} within its layer",
                  null=NULLS.get(name, ""), needs=NUMBER_NEEDS[name])
            for name in PUBLISHED
        ),
        *(
            field(f"{name}_{what}", pa.int16(), INDEX, f"{what} of that head",
                  null=NULLS[name], needs=NUMBER_NEEDS[name])
            for name in (f"{kind}_composition" for kind in "qkvo")
            for what in ("layer", "head")
        ),
        *(
            field(f"{name}_{end}{what}", list_of(form), unit, told, null=FEWER,
                  needs=NUMBER_NEEDS[name])
            for name in (f"{kind}_composition" for kind in "qkvo")
            for end, order in (("top", "largest"), ("bottom", "smallest"))
            for what, form, unit, told in (
                ("", pa.float32(), "share", f"{order} of these compositions"),
                ("_layer", pa.int16(), INDEX, "layers of those heads"),
                ("_head", pa.int16(), INDEX, "those heads"),
            )
        ),
        *(field(name, list_of(kind), *told, null=UNSEEN) for name, (kind, *told) in LISTS.items()),
        field("histogram_by_subset", list_of(list_of(pa.int32())), "tokens", "histogram by subset, "
              "in summary.json's order", needs=(BY_SUBSET,)),
        *(
            entry
            for names, needs in (
                (WRITTEN_TOKENS, (WEIGHTS,)), (TOKENS, ()), (EMBED_TOKENS, ("embed", WEIGHTS)),
                (LOW_TOKENS, (LOWER_END,)),
            )
            for name, told in names.items()
            for entry in (
                field(name, list_of(pa.float32()), *told, null=FEWER, needs=needs),
                field(f"{name}_token", list_of(pa.string()), "token", "the tokens of these",
                      null=FEWER, needs=needs),
                field(f"{name}_id", list_of(pa.int32()), "token id", "and their ids", null=FEWER,
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
        field("rank", pa.int16(), INDEX, "place among the best features of the neuron"),
        field("feature", pa.string(), "name", "name of the feature"),
        field("feature_family", pa.string(), "name", "family of the feature"),
        field("looks_at", pa.string(), "name", "the token that is labelled: current or previous"),
        field("variance_reduction", pa.float64(), "share", "variance explained by the feature"),
        field("mean_difference", pa.float64(), "activation", "mean with minus mean without it",
              null="the feature is the position, which has no mean"),
        field("support", pa.int64(), "tokens", "tokens with the feature"),
    ]
)  # fmt: skip
BANK = pa.schema(
    [
        field("feature", pa.string(), "name", "name of the feature"),
        field("feature_family", pa.string(), "name", "family of the feature"),
        field("looks_at", pa.string(), "name", "the token that is labelled: current or previous"),
        field("description", pa.string(), "text", "what the feature is"),
        field("support", pa.int64(), "tokens", "tokens with the feature"),
        field("null_reason", pa.string(), "text", "why no neuron has a score for it",
              null="neurons have one"),
    ]
)  # fmt: skip
SCORELESS = "no feature has a score on it: it does not vary"
TAXONOMY = pa.schema(
    [
        *WHO,
        field("family", pa.string(), "name", "family of the neuron's best feature", null=SCORELESS),
        field("feature", pa.string(), "name", "that feature", null=SCORELESS),
        field("variance_reduction", pa.float64(), "share", "variance explained by it",
              null=SCORELESS),
        field("threshold", pa.float64(), "share", "above which a neuron is a member of the family",
              null=SCORELESS),
        field("status", pa.string(), "name", "member, partly or unexplained", null=SCORELESS),
        field("runner_up_family", pa.string(), "name", "of the best feature of any other family",
              null=SCORELESS),
        field("runner_up_feature", pa.string(), "name", "that feature", null=SCORELESS),
        field("runner_up_variance_reduction", pa.float64(), "share", "variance explained by it",
              null=SCORELESS),
        field("is_universal", pa.bool_(), "yes/no", "of neurons of a reference model",
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

BESIDE_PEERS = {
    "neurons": ("neurons", "universal ones"),
    "members": ("neurons", "of them that belong to it"),
    "share": ("share", "members of the universal ones"),
    "gain": ("share", "that share minus what other neurons of the same layers have"),
    "gain_low": ("share", "its 95 % interval's low end"),
    "gain_high": ("share", "its 95 % interval's high end"),
    "share_of_others": ("share", "of neurons that are not universal"),
}
"""A share among universal neurons, beside the others."""
_AGREEMENT = {
    "pairs": ("neurons", "that have a family and a best partner, over all other models"),
    "same": ("share", "of them whose partner is of their family"),
    "same_low": ("share", "its 95 % interval's low end"),
    "same_high": ("share", "its 95 % interval's high end"),
    "chance": ("share", "the same for a random neuron of the partner's layer"),
    "gain": ("share", "same minus chance"),
    "gain_low": ("share", "its 95 % interval's low end"),
    "gain_high": ("share", "its 95 % interval's high end"),
}
SUMMARY: dict[str, tuple[str, str]] = {
    **under("references[].profile", {
        **under("universal_against_others.{statistic}", {  # null where not measured
            "universal": ("neurons", "universal ones that have the statistic, and peers with it"),
            "others": ("neurons", "others that have it"),
            "median_universal": ("of the statistic", "median of universal neurons"),
            "median_others": ("of the statistic", "median of others"),
            "median_percentile": ("percentile", "median of universal neurons', each in its layer"),
            "delta": ("1", "Cliff's: share of others of its layer below a universal neuron minus "
                      "share above it, mean over universal neurons"),
            "delta_low": ("1", "its 95 % interval's low end"),
            "delta_high": ("1", "its 95 % interval's high end"),
            "direction": ("1", "1 or -1 where the interval leaves no doubt, else 0"),
            "published_direction": ("1", "the paper's, null where it has none"),
        }),
        "not_measured.{statistic}": ("text", "why"),
        **under("statistics", {
            "sparsity~in_out_sim": ("correlation", "of these columns over neurons"),
            "redundant_by_weights": ("share", "of neurons with a both_sim above 0.9"),
            "redundant_by_weights_universal": ("share", "the same of universal neurons"),
        }),
        **under("families.explained", BESIDE_PEERS),
        **under("families.unexplained", BESIDE_PEERS),
        **under("families.by_family.{family}", BESIDE_PEERS),
        **under("families.by_layer[]", {"layer": (INDEX, "the layer"), **BESIDE_PEERS}),
        **under("groups[]", {
            "feature": ("name", "a feature that explains three neurons or more best"),
            "family": ("name", "its family"),
            "neurons": ("neurons", "that it explains best"),
            "universal": ("neurons", "universal ones of them"),
        }),
        **under("agreement.universal", _AGREEMENT),
        **under("agreement.others", _AGREEMENT),
    }),
    **under("profile", {
        "tokens": ("tokens", "that were read"),
        "tokens_counted": ("tokens", "of them that count"),
        "subsets[]": ("name", "labels of rows, in the order of mean_by_subset"),
        "features": ("features", "that were tried"),
        "convention": ("name", "taxonomy.convention"),
        "features_without_tokens_of_their_own.{feature}": (
            "name", "the feature with the same tokens, null for no token"
        ),
    }),
}  # fmt: skip
"""What the stage adds to `summary.json`: unit and meaning by the place in it."""
