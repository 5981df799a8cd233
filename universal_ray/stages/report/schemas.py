"""Schemas of the report's tables: what every token says, and the windows of every neuron."""

import pyarrow as pa

from universal_ray.storage.columns import Table, list_of, under
from universal_ray.storage.finished import (
    CONDITIONAL_PATH,
    DESCRIPTIONS_PATH,
    EXAMPLES_PATH,
    VOCABULARY_PATH,
)
from universal_ray.storage.reasons import field

HALVES = ("description", "scoring")

INDEX, NEURON, NAME, TEXT, YES, TOKEN = "index from 0", "id", "name", "text", "yes/no", "token id"
NO_PARTNER = "it has no partner there, as pairs.parquet says"
UNREAD = "partners were not read on its row: report.tokens says on how many"

VOCABULARY = pa.schema(
    [
        field("token_id", pa.int32(), TOKEN, "id of the token"),
        field("text", pa.string(), TEXT, "the token for people"),
        field("bytes", pa.binary(), "bytes", "the token exactly; none of an id that stands for "
              "nothing", null="the token is special"),
        field("special", pa.bool_(), YES, "begins or ends a text, or pads: is no part of it"),
    ]
)  # fmt: skip
EXAMPLES = pa.schema(
    [
        field("id", pa.string(), NEURON, "the neuron: model:layer.neuron"),
        field("model", pa.string(), NAME, "model the neuron belongs to"),
        field("layer", pa.int32(), INDEX, "layer of the neuron"),
        field("neuron", pa.int32(), INDEX, "neuron within its layer"),
        field("kind", pa.string(), TEXT, "why the window is shown: its largest activations above "
              "zero (top), smallest below zero where they are of both signs (bottom), quantiles of "
              "its positive activations in the sample, random tokens, tokens where it does not "
              "fire; no two windows of a neuron have the same tokens"),
        field("rank", pa.int32(), INDEX, "place among those of its kind: the strongest first, "
              "quantiles from below"),
        field("split", pa.string(), TEXT, "half of the corpus by row: description or scoring"),
        field("row", pa.int64(), INDEX, "row of the corpus"),
        field("start", pa.int32(), INDEX, "position of the window's first token in its row"),
        field("focus", pa.int32(), INDEX, "position in its row of the token it is shown for, never "
              "one that corpus.exclude leaves out"),
        field("subset", pa.string(), NAME, "subset of the row", null="the corpus has none"),
        field("token_ids", list_of(pa.int32()), TOKEN, "tokens of the window"),
        field("activation", pa.float32(), "activation", "post-activation at the focus"),
        field("scale", pa.float32(), "activation", "of `quantised`: its largest absolute value / "
              "127"),
        field("quantised", list_of(pa.int8()), "1", "post-activations on the window's tokens / "
              "`scale`"),
        field("partners", list_of(pa.string()), NEURON, "its best partner in every other model, in "
              "the order of the run; an entry is null where there is none",),
        field("partner_scales", list_of(pa.float32()), "activation", "as `scale`, by partner; an "
              f"entry is null where {NO_PARTNER}", null=UNREAD),
        field("partner_quantised", list_of(list_of(pa.int8())), "1", "what each partner does "
              f"on the same tokens / its scale; an entry is null where {NO_PARTNER}", null=UNREAD),
    ]
)  # fmt: skip
MOMENTS = {
    "pre_mean": ("pre-activation", "mean pre-activation"),
    "pre_deviation": ("pre-activation", "standard deviation of it"),
    "post_mean": ("activation", "mean post-activation"),
    "post_deviation": ("activation", "standard deviation of it"),
}
UNGROUPED, OTHERWISE = "the group has no token", "`by` says another"
CONDITIONAL = pa.schema(
    [
        field("id", pa.string(), NEURON, "the neuron: model:layer.neuron"),
        field("model", pa.string(), NAME, "model the neuron belongs to"),
        field("layer", pa.int32(), INDEX, "layer of the neuron"),
        field("neuron", pa.int32(), INDEX, "neuron within its layer"),
        field("by", pa.string(), TEXT, "what its tokens are grouped by: all (no group), feature "
              "(that explains it best), word (role of the token in its word), next token (class of "
              "its id), next token in its class (of logits, as roles.parquet has it), position, "
              "token in subset (the most frequent ids)"),
        field("group", pa.string(), NAME, "feature, role or class", null=OTHERWISE),
        field("inside", pa.bool_(), YES, "tokens with the feature, or before the class; or those "
              "without", null=OTHERWISE),
        field("position", pa.int32(), INDEX, "position in the row", null=OTHERWISE),
        field("subset", pa.string(), NAME, "subset of the row", null=f"{OTHERWISE}, or the corpus "
              "has none"),
        field("token_id", pa.int32(), TOKEN, "id of the token", null=OTHERWISE),
        field("tokens", pa.int64(), "tokens", "of the profile that count and are of the group"),
        *(field(name, pa.float64(), unit, meaning, null=UNGROUPED)
          for name, (unit, meaning) in MOMENTS.items()),
        field("histogram", list_of(pa.int32()), "tokens", "257 bins of pre-activations between "
              "(25·i − 2550)/255", null="grouped by position, or token in subset"),
    ]
)  # fmt: skip
SCORES = {
    "score": ("correlation", "of being in what the description says and the activation"),
    "auprc": ("1", "average precision of the activation, as it tells what the description says"),
    "f1": ("1", "of firing (from `threshold` on), beside what the description says"),
}
"""Of descriptions: unit and meaning."""
UNFITTED = "it has no terms, or nothing varies"
DESCRIPTIONS = pa.schema(
    [
        field("id", pa.string(), NEURON, "the neuron: model:layer.neuron"),
        field("model", pa.string(), NAME, "model the neuron belongs to"),
        field("layer", pa.int32(), INDEX, "layer of the neuron"),
        field("neuron", pa.int32(), INDEX, "neuron within its layer"),
        field("text", pa.string(), TEXT, "what it fires on, and what it does",
              null="`null_reason` says why"),
        field("null_reason", pa.string(), TEXT, "why it has no description", null="it has one"),
        field("terms", list_of(pa.string()), TEXT, "what was fitted on one half of the sample, "
              "whether or not it is withheld: features of tokens, or sets of them"),
        field("joins", list_of(pa.string()), TEXT, "how each further term joins those before it"),
        field("token_ids", list_of(pa.int32()), TOKEN, "the neuron's own set of tokens"),
        field("threshold", pa.float64(), "activation", "from which on it fires, by the best F1 on "
              "the half that it was fitted on", null=UNFITTED),
        field("inside", pa.int64(), "tokens", "of the half that scores, on which the description "
              "says it fires", null=UNFITTED),
        field("score_fitted", pa.float64(), "correlation", "on the half that it was fitted on",
              null=UNFITTED),
        *(field(name, pa.float64(), unit, f"{meaning}, on the half that it was not fitted on",
                null=UNFITTED)
          for name, (unit, meaning) in SCORES.items()),
        *(field(f"{name}_shuffled", pa.float64(), unit, f"`{name}` where what the description says "
                "is shuffled among the tokens", null=UNFITTED)
          for name, (unit, _) in SCORES.items()),
        field("partners", list_of(pa.string()), NEURON, "its best partner in every other model; an "
              "entry is null where there is none"),
        field("transfer", list_of(pa.float64()), "correlation", "`score` of its description with "
              "each partner's activation, on the same tokens; an entry is null where there is no "
              "partner or nothing varies"),
        field("transfer_control", list_of(pa.float64()), "correlation", "the same with a random "
              "neuron of the partner's layer"),
    ]
)  # fmt: skip

TABLES = (
    Table(
        path=VOCABULARY_PATH, row="a token of the vocabulary", sorted_by=("token_id",),
        schema=VOCABULARY,
    ),
    Table(
        path=EXAMPLES_PATH,
        row="a window of tokens in which a neuron of a reference model is shown",
        sorted_by=("model", "layer", "neuron", "kind", "rank"),
        schema=EXAMPLES,
    ),
    Table(
        path=CONDITIONAL_PATH,
        row="a group of tokens, for a neuron of a reference model that is universal, of a family "
        "or named by report.neurons",
        sorted_by=("model", "layer", "neuron"),
        schema=CONDITIONAL,
    ),
    Table(
        path=DESCRIPTIONS_PATH,
        row="a neuron of a reference model",
        sorted_by=("model", "layer", "neuron"),
        schema=DESCRIPTIONS,
    ),
)  # fmt: skip

GROUP = {
    "neurons": ("neurons", "of the group"),
    "described": ("neurons", "whose description holds: its score is `least` or more"),
    "score": ("correlation", "mean of `score` over these, as all that follows"),
    "score_shuffled": ("correlation", "mean of `score_shuffled`"),
    "transfer": ("correlation", "mean of `transfer` over partners and neurons"),
    "transfer_control": ("correlation", "mean of `transfer_control`"),
    "gain": ("correlation", "mean of their difference"),
    "gain_low": ("correlation", "lower end of its 95 % interval over neurons"),
    "gain_high": ("correlation", "upper end"),
    "kept": ("1", "mean of transfer / score"),
}
SUMMARY: dict[str, tuple[str, str]] = under("descriptions[]", {
    "model": ("name", "a reference model"),
    "least": ("correlation", "report.score"),
    **under("universal", GROUP),
    **under("others", GROUP),
})  # fmt: skip
"""What the stage adds to `summary.json`: unit and meaning by place."""
