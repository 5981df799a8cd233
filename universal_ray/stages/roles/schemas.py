"""Schemas of the tables of roles: per neuron, per intervention, per ablated path, per head.

Every column carries its description and unit in the Parquet metadata.
"""

import pyarrow as pa

from universal_ray.maths.roles.path_sums import QUANTITIES
from universal_ray.maths.roles.readout import MEASURES
from universal_ray.storage.columns import Table, list_of
from universal_ray.storage.finished import (
    ATTENTION_PATH,
    HEADS_PATH,
    INTERVENTIONS_PATH,
    ROLES_PATH,
)
from universal_ray.storage.reasons import NOT_MEASURED, field

AT_BOS, INTERVENED = "attention to BOS", "interventions"
"""What a model may lack, by its architecture, its place in the study or its corpus."""
ROLES = (
    "prediction", "suppression", "partition", "entropy", "token frequency",
    "attention deactivation", "attention activation", "dead", "token detector", "n-gram detector",
    "position",
)  # fmt: skip
"""Every role that a neuron may have; it may have several, or none."""
ROLE_NEEDS = dict.fromkeys(("attention deactivation", "attention activation"), AT_BOS)
"""Roles that are told from what a model may lack."""

INDEX = "index from 0"
WHO = [
    field("model", pa.string(), "id[@revision]", "model the neuron belongs to"),
    field("layer", pa.int16(), INDEX, "layer of the neuron"),
    field("neuron", pa.int32(), INDEX, "neuron within its layer"),
]
SILENT, CLASSLESS = "it writes nothing", "no class of tokens has a score for it"
ALIKE = "it writes nothing, or the same to every token"
ROLELESS = "no prediction, suppression or partition neuron, or its class has no id or all of them"
UNCHOSEN = "neither a prediction, suppression or partition neuron nor chosen for interventions"
LATEST = "it is of the last layer, or writes nothing, or to no head"
NO_DETECTOR = "no detector"
SCORES: dict[str, tuple[str, str, str, tuple[str, ...]]] = {
    "w_out_norm": ("1", "length of what it writes", "", ()),
    "vocab_var": ("cosine²", "variance over the vocabulary of cos(w_out, W_U[:, v])", SILENT, ()),
    "vocab_skew": ("1", "skewness over the vocabulary", ALIKE, ()),
    "vocab_kurt": ("1", "kurtosis over the vocabulary, Gaussian = 3", ALIKE, ()),
    "class_variance_reduction": (
        "share", "variance of w_out W_U explained by its class of tokens", CLASSLESS, (),
    ),
    "class_mean_difference": (
        "logit", "mean of w_out W_U in the class minus mean of the others", CLASSLESS, (),
    ),
    "class_welch_t": ("1", "Welch's t of that difference", CLASSLESS, ()),
    "null_share": ("share", "length of w_out in the bottom singular directions of W_U", SILENT, ()),
    "antipode_cosine": ("cosine", "of w_out with its antipode's", "no antipode", ()),
    "frequency_component": ("logit", "w_out W_U along the centred log unigram direction", "", ()),
    "frequency_cosine": (
        "cosine", "the same over the length of the centred logit effect", ALIKE, (),
    ),
    "bos_score": ("1", "ŵ_out · W_Q k_BOS / √K of the head furthest from its null", LATEST,
                  (AT_BOS,)),
    "bos_deviations": ("1", "the same in standard deviations of random directions", LATEST,
                       (AT_BOS,)),
    "next_inside": ("activation", "mean where the true next token is in its class", ROLELESS, ()),
    "next_outside": ("activation", "mean elsewhere", ROLELESS, ()),
    "next_correlation": (
        "correlation", "of activation and the next token being in the class",
        f"{ROLELESS}, or it does not vary", (),
    ),
    "detector_share": (
        "share", "of its activity that the n-grams it detects make up", NO_DETECTOR, (),
    ),
    "detector_position_information": (
        "nats", "mutual information of position and firing, of the tokens that detectors count: "
        "without special ones and what taxonomy.exclude leaves out", "", (),
    ),
    "effect_low": ("logit", "smallest entry of w_out W_U", UNCHOSEN, ()),
    "effect_high": ("logit", "largest entry of w_out W_U", UNCHOSEN, ()),
}  # fmt: skip
UNTOUCHED = "it was not held at its mean, or that changes nothing"
MEDIATED = {
    "effect_on_loss": "mean |change of loss| when held at its mean",
    "scale_mediated_share": "1 - the same with the final LayerNorm's scale frozen / effect_on_loss",
    "frequency_mediated_share": "1 - the same with the unigram component frozen / effect_on_loss",
    "unigram_shift": "mean |change of KL(unigram ‖ prediction)| when held at its mean",
}
"""Of neurons that were intervened on: name to description, each with the ends of an interval."""
HISTOGRAMS = {
    "effect_inside": "60 bins of w_out W_U between effect_low and effect_high, ids of its class",
    "effect_outside": "the same of all other ids",
    "next_inside_histogram": "257 bins of pre-activations between (25·i − 2550)/255 where the next "
    "token is in its class",
    "next_outside_histogram": "the same elsewhere",
}
HISTOGRAM_NULLS = dict(
    zip(HISTOGRAMS, (UNCHOSEN, UNCHOSEN, ROLELESS, ROLELESS), strict=True)
)
ENDS = ("", "_low", "_high")
RANK = "index from 0"
NEURON_ROLES = pa.schema(
    [
        *WHO,
        field("is_universal", pa.bool_(), "", "of neurons of a reference model",
              null="its model is no reference, or it has no correlation, as neurons.parquet says"),
        field("roles", list_of(pa.string()), "", "every role it has of those that were measured, "
              "all but what not_measured names"),
        field("logit_class", pa.string(), "", "feature of the id that explains w_out W_U best",
              null=CLASSLESS),
        field("logit_class_family", pa.string(), "", "family of that feature", null=CLASSLESS),
        field("logit_effect", pa.string(), "", "promotes or suppresses that class",
              null=CLASSLESS),
        *(
            field(name, pa.float64(), unit, told, null=null, needs=needs)
            for name, (unit, told, null, needs) in SCORES.items()
        ),
        field("entropy_rank", pa.int32(), RANK, "place by ascending vocab_var among long neurons "
              "of the last layers with no high vocab_kurt (arXiv 2401.12181)", null="none of them"),
        field("null_share_rank", pa.int32(), RANK, "place by descending null_share among neurons "
              "of the last layers (arXiv 2406.16254)", null="none of them"),
        field("antipode_layer", pa.int16(), INDEX, "layer of the neuron that writes against it",
              null="no antipode"),
        field("antipode_neuron", pa.int32(), INDEX, "that neuron within its layer",
              null="no antipode"),
        field("bos_layer", pa.int16(), INDEX, "layer of the head of bos_score", null=LATEST,
              needs=(AT_BOS,)),
        field("bos_head", pa.int16(), INDEX, "that head within its layer", null=LATEST,
              needs=(AT_BOS,)),
        field("detector_length", pa.int16(), "tokens", "length of the n-grams it detects",
              null=NO_DETECTOR),
        field("detector_ngrams", list_of(pa.string()), "", "these n-grams", null=NO_DETECTOR),
        field("detector_suppresses", pa.bool_(), "", "whether it writes against their last token",
              null=NO_DETECTOR),
        field("position_kind", pa.string(), "", "how its rate of firing goes with the position",
              null="no neuron of position"),
        field("position_strong", pa.bool_(), "", "whether that rate goes nearly from 0 to 1",
              null="no neuron of position"),
        *(
            field(f"{name}{end}", pa.float64(), "nats" if "share" not in name else "share",
                  told if not end else f"its 95 % interval's {end[1:]} end", null=UNTOUCHED,
                  needs=(INTERVENED,))
            for name, told in MEDIATED.items()
            for end in ENDS
        ),
        *(
            field(name, list_of(pa.int32()), "count", told, null=HISTOGRAM_NULLS[name])
            for name, told in HISTOGRAMS.items()
        ),
        NOT_MEASURED,
    ]
)  # fmt: skip

NULL_REASON = field("null_reason", pa.string(), "", "why a model has this one row and no other",
                    null="it has what the table tells")  # fmt: skip
CHANGED = ("loss", "entropy", "reciprocal_rank", "scale", "kl_unigram")
"""Measures whose change from the untouched model has an interval of its own, row by row paired."""
INTERVENTIONS = pa.schema(
    [
        field("model", pa.string(), "id[@revision]", "model that was intervened on"),
        field("kind", pa.string(), "", "untouched, sweep (one neuron at a value), mean (one at its "
              "mean) or set"),
        field("group", pa.string(), "", "entropy, token frequency, control; universal or random",
              null="nothing is held"),
        field("layer", pa.int16(), INDEX, "of the neuron, or of a set of one layer",
              null="nothing is held, or a set of all layers"),
        field("neuron", pa.int32(), INDEX, "the neuron within its layer", null="not one is held"),
        field("neurons", pa.int32(), "neurons", "how many are held"),
        field("draw", pa.int16(), INDEX, "which random set", null="no random set"),
        field("at", pa.string(), "", "what a set is held at: zero or mean", null="no set"),
        field("value", pa.float64(), "activation", "what one neuron is held at",
              null="not one is held"),
        field("frozen", pa.string(), "", "what stays as untouched: scale or unigram",
              null="nothing does"),
        field("tokens", pa.int64(), "tokens", "that were measured"),
        *(
            field(f"{name}{end}", pa.float64(), "", f"its {end[1:]} end (95 %)" if end else told)
            for name, told in MEASURES.items()
            for end in ENDS
        ),
        *(
            field(f"{name}_change{end}", pa.float64(), "",
                  f"{name} minus the untouched model's" if not end else f"its {end[1:]} end (95 %)")
            for name in CHANGED
            for end in ENDS
        ),
        NULL_REASON,
    ]
)  # fmt: skip
CORRELATED = {
    "activation_bos_change": ("activation", "bos_change"),
    "bos_change_norm_change": ("bos_change", "norm_change"),
    "activation_norm_change": ("activation", "norm_change"),
}
ATTENTION = pa.schema(
    [
        *WHO,
        field("head_layer", pa.int16(), INDEX, "layer of the head"),
        field("head", pa.int16(), INDEX, "the head within its layer"),
        field("score", pa.float64(), "1", "ŵ_out · W_Q k_BOS / √K"),
        field("deviations", pa.float64(), "1", "the same in standard deviations of random ones"),
        field("positions", pa.int64(), "tokens", "positions that were measured"),
        *(
            field(f"mean_{name}", pa.float64(), "", f"mean {told}")
            for name, told in zip(
                QUANTITIES,
                ("activation", "attention to the first token", "its change when the path is cut",
                 "length of what the head writes, centred and less what it writes whatever it "
                 "attends to", "its change in percent"),
                strict=True,
            )
        ),
        *(
            field(f"corr_{name}", pa.float64(), "correlation", f"of {first} and {second}",
                  null="one of them does not vary")
            for name, (first, second) in CORRELATED.items()
        ),
        *(
            field(f"points_{name}", list_of(pa.float32()), "", f"{name} at some of the positions")
            for name in QUANTITIES
        ),
        NULL_REASON,
    ]
)  # fmt: skip
FIRST = "no ten neurons of earlier layers have a score in it"
HEADS = pa.schema(
    [
        field("model", pa.string(), "id[@revision]", "model"),
        field("layer", pa.int16(), INDEX, "layer of the head"),
        field("head", pa.int16(), INDEX, "the head within its layer"),
        field("neurons", pa.int32(), "neurons", "neurons of earlier layers"),
        field("null_deviation", pa.float64(), "1", "deviation of random directions' score"),
        field("histogram", list_of(pa.int32()), "neurons", "122 bins of scores in these between "
              "linspace(-15, 15, 121)"),
        field("null_histogram", list_of(pa.int32()), "directions", "the same of random directions"),
        *(
            entry
            for end, told in (("top", "largest"), ("bottom", "smallest"))
            for entry in (
                field(f"{end}_deviations", list_of(pa.float32()), "1", f"{told} of these scores",
                      null=FIRST),
                field(f"{end}_layer", list_of(pa.int16()), INDEX, "layers of those neurons",
                      null=FIRST),
                field(f"{end}_neuron", list_of(pa.int32()), INDEX, "those neurons", null=FIRST),
            )
        ),
        NULL_REASON,
    ]
)  # fmt: skip

TABLES = (
    Table(
        path=ROLES_PATH,
        row="a neuron of any model",
        sorted_by=("model", "layer", "neuron"),
        schema=NEURON_ROLES,
    ),
    Table(
        path=INTERVENTIONS_PATH,
        row="one thing done to a reference model (or none: why nothing was done to it)",
        sorted_by=("model",),
        schema=INTERVENTIONS,
    ),
    Table(
        path=ATTENTION_PATH,
        row="a path from a neuron into the queries of a head, the strongest first (or none: why "
        "none was cut)",
        sorted_by=("model",),
        schema=ATTENTION,
    ),
    Table(
        path=HEADS_PATH,
        row="a head of any model (or none: why its heads have no scores)",
        sorted_by=("model", "layer", "head"),
        schema=HEADS,
    ),
)
