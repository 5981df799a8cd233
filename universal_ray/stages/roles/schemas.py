"""Schemas of the tables of roles: per neuron, per intervention, per ablated path, per head.

Every column carries its description and unit in the Parquet metadata.
"""

import pyarrow as pa

from universal_ray.maths.roles.path_sums import QUANTITIES
from universal_ray.maths.roles.readout import MEASURES
from universal_ray.stages.neurons import INDEX, WHO
from universal_ray.stages.profile.schemas import BESIDE_PEERS
from universal_ray.storage.columns import Table, list_of, under
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
    "effect_inside": (
        "ids", "60 bins of w_out W_U between effect_low and effect_high, of its class", UNCHOSEN,
    ),
    "effect_outside": ("ids", "the same of all other ids", UNCHOSEN),
    "next_inside_histogram": (
        "tokens", "257 bins of pre-activations between (25·i − 2550)/255 where the next token is "
        "in its class", ROLELESS,
    ),
    "next_outside_histogram": ("tokens", "the same elsewhere", ROLELESS),
}
ENDS = ("", "_low", "_high")
NEURON_ROLES = pa.schema(
    [
        *WHO,
        field("is_universal", pa.bool_(), "yes/no", "of neurons of a reference model",
              null="its model is no reference, or it has no correlation, as neurons.parquet says"),
        field("named", pa.bool_(), "yes/no", "the study names it, by roles.neurons"),
        field("roles", list_of(pa.string()), "name", "every role it has of those that were "
              "measured, all but what not_measured names"),
        field("logit_class", pa.string(), "name", "feature of the id that explains w_out W_U best",
              null=CLASSLESS),
        field("logit_class_family", pa.string(), "name", "family of that feature", null=CLASSLESS),
        field("logit_effect", pa.string(), "name", "promotes or suppresses that class",
              null=CLASSLESS),
        *(
            field(name, pa.float64(), unit, told, null=null, needs=needs)
            for name, (unit, told, null, needs) in SCORES.items()
        ),
        field("entropy_rank", pa.int32(), INDEX, "place by ascending vocab_var among long neurons "
              "of the last layers with no high vocab_kurt (arXiv 2401.12181)", null="none of them"),
        field("null_share_rank", pa.int32(), INDEX, "place by descending null_share among neurons "
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
        field("detector_ngrams", list_of(pa.string()), "token", "these n-grams", null=NO_DETECTOR),
        field("detector_ngram_ids", list_of(list_of(pa.int32())), "token id", "the ids of each",
              null=NO_DETECTOR),
        field("detector_suppresses", pa.bool_(), "yes/no", "it writes against their last token",
              null=NO_DETECTOR),
        field("position_kind", pa.string(), "name", "how its rate of firing goes with position",
              null="no neuron of position"),
        field("position_strong", pa.bool_(), "yes/no", "that rate goes nearly from 0 to 1",
              null="no neuron of position"),
        *(
            field(f"{name}{end}", pa.float64(), "nats" if "share" not in name else "share",
                  told if not end else f"its 95 % interval's {end[1:]} end", null=UNTOUCHED,
                  needs=(INTERVENED,))
            for name, told in MEDIATED.items()
            for end in ENDS
        ),
        *(
            field(name, list_of(pa.int32()), unit, told, null=null)
            for name, (unit, told, null) in HISTOGRAMS.items()
        ),
        NOT_MEASURED,
    ]
)  # fmt: skip

NULL_REASON = field("null_reason", pa.string(), "text", "why a model has this one row and no other",
                    null="it has what the table tells")  # fmt: skip
CHANGED = ("loss", "entropy", "reciprocal_rank", "scale", "kl_unigram")
"""Measures whose change from the untouched model has an interval of its own, row by row paired."""
INTERVENTIONS = pa.schema(
    [
        field("id", pa.string(), "id", "the neuron, by one word", null="not one is held"),
        field("model", pa.string(), "name", "model that was intervened on"),
        field("named", pa.bool_(), "yes/no", "the study names the neuron, by roles.neurons",
              null="not one is held"),
        field("kind", pa.string(), "name", "untouched, sweep (one neuron at a value), sweep_pre "
              "(one at a pre-activation), relu or threshold (one whose pre-activation is no lower, "
              "or no higher, than 0), mean (one at its mean) or set"),
        field("group", pa.string(), "name", "entropy, token frequency, control or named; "
              "universal or random", null="nothing is held"),
        field("layer", pa.int16(), INDEX, "of the neuron, or of a set of one layer",
              null="nothing is held, or a set of all layers"),
        field("neuron", pa.int32(), INDEX, "the neuron within its layer", null="not one is held"),
        field("neurons", pa.int32(), "neurons", "how many are held"),
        field("draw", pa.int16(), INDEX, "which random set", null="no random set"),
        field("at", pa.string(), "name", "what a set is held at: zero or mean", null="no set"),
        field("value", pa.float64(), "activation", "what one neuron is held at",
              null="not one is held at an activation"),
        field("pre_value", pa.float64(), "pre-activation", "what one neuron's pre-activation is "
              "held at", null="not one is held so"),
        field("frozen", pa.string(), "name", "what stays as untouched: scale or unigram",
              null="nothing does"),
        field("tokens", pa.int64(), "tokens", "that were measured"),
        *(
            field(f"{name}{end}", pa.float64(), unit, f"its {end[1:]} end (95 %)" if end else told)
            for name, (unit, told) in MEASURES.items()
            for end in ENDS
        ),
        *(
            field(f"{name}_change{end}", pa.float64(), MEASURES[name][0],
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
        field("score", pa.float64(), "1", "ŵ_out · W_Q k_BOS / √K", null=SILENT),
        field("deviations", pa.float64(), "1", "the same in standard deviations of random ones",
              null=f"{SILENT}, or to no head"),
        field("named", pa.bool_(), "yes/no", "the study names it, by roles.paths"),
        field("positions", pa.int64(), "tokens", "positions that were measured"),
        *(
            field(f"mean_{name}", pa.float64(), unit, f"mean {told}")
            for name, (unit, told) in QUANTITIES.items()
        ),
        *(
            field(f"{kind}_{name}", pa.float64(), "correlation", f"of {first} and {second}{told}",
                  null="one of them does not vary")
            for kind, told in (("corr", ""), ("rank_corr", ", Spearman's of ranks, at the points"))
            for name, (first, second) in CORRELATED.items()
        ),
        field("points", pa.int64(), "tokens", "positions that were kept one by one, evenly spaced"),
        *(
            field(f"points_{name}", list_of(pa.float32()), unit, f"{name} at 2,000 points at most")
            for name, (unit, _) in QUANTITIES.items()
        ),
        NULL_REASON,
    ]
)  # fmt: skip
FIRST = "no neuron of an earlier layer has a score in it"
HEADS = pa.schema(
    [
        field("model", pa.string(), "name", "model"),
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

_INTERVAL = {
    "mean": ("nats", "mean over tokens"),
    "low": ("nats", "its 95 % interval's low end"),
    "high": ("nats", "its 95 % interval's high end"),
}
_SETS = {"universal": "when the universal neurons are ablated", "random": "when random ones of the "
         "same layers are, mean over sets", "difference": "the first minus the second"}  # fmt: skip
SUMMARY: dict[str, tuple[str, str]] = {
    **under("roles", {
        "tokens_intervened": ("tokens", "that interventions were measured on"),
        **under("models[]", {
            "model": ("name", "any model"),
            "roles.{role}.neurons": ("neurons", "that have it; the role is null if not measured"),
            "roles.{role}.by_layer[]": ("neurons", "the same, by layer"),
            "not_measured.{role}": ("text", "why"),
            **under("entropy_by_rule.{rule}[]", {
                "layer": (INDEX, "of a neuron that the rule puts first"),
                "neuron": (INDEX, "that neuron within its layer"),
                "vocab_var": ("cosine²", "as in roles.parquet"),
                "null_share": ("share", "as in roles.parquet"),
                "candidate": ("yes/no", "it is intervened on"),
            }),
            "percentiles[]": ("percentile", "which"),
            "percentiles_by_layer.{statistic}[][]": (
                "of the statistic", "within a layer, by layer and percentile"
            ),
        }),
        **under("seeds.{role}", {  # null where models differ in shape, or lack what it needs
            "mean[]": ("neurons", "of the role, mean over models, by layer"),
            "minimum[]": ("neurons", "the least"),
            "maximum[]": ("neurons", "the most"),
            "deviation[]": ("neurons", "standard deviation"),
        }),
        "not_measured.{what}": ("text", "why"),
        **under("references[]", {
            "model": ("name", "a reference model"),
            "not_measured.{what}": ("text", "why"),
            **under("sweeps.{group}", {  # null where nothing was held
                "neurons": ("neurons", "that were held at every value of roles.sweep"),
                **{
                    name: (MEASURES[name][0], "largest minus smallest mean, mean over neurons")
                    for name in ("scale", "entropy", "loss", "reciprocal_rank")
                },
            }),
            **under("sets[]", {  # null where no set was ablated
                "at": ("name", "what the set is held at: zero or mean"),
                "layer": (INDEX, "of a set of one layer, null for all"),
                "neurons": ("neurons", "of the set"),
                **{
                    f"{name}_{what}.{end}": (unit, f"change of {name}, {told}: {meaning}")
                    for name in ("loss", "kl")
                    for what, told in _SETS.items()
                    for end, (unit, meaning) in _INTERVAL.items()
                },
            }),
            **under("overlap.{role}", BESIDE_PEERS),  # null where not measured
            **under("next_token.{role, effect}", {
                "neurons": ("neurons", "of the role that promote, or suppress, their class"),
                "fire_before_class": ("share", "of them whose next_correlation is above zero"),
                "mean_correlation": ("correlation", "mean of next_correlation"),
            }),
        }),
    }),
}  # fmt: skip
"""What the stage adds to `summary.json`: unit and meaning by the place in it."""
