"""Schemas of `pairs.parquet`, `neurons.parquet` and `similarity.parquet`, every column with its
meaning and unit.
"""

import pyarrow as pa

from universal_ray.stages.neurons import INDEX, SITE, WHO
from universal_ray.storage.columns import Table, list_of, under
from universal_ray.storage.finished import NEURONS_PATH, PAIRS_PATH, SIMILARITY_PATH
from universal_ray.storage.reasons import field

NO_PARTNER = "no neuron of the other model varies enough over the kept tokens"

R = "correlation"


NULL_REASON = field("null_reason", pa.string(), "text", "why a row has no correlation",
                    null="it has one")  # fmt: skip

ALONE = "it has a better sum without it, or without any correlation"
PAIRS = pa.schema(
    [
        *WHO[:2],
        field("other", pa.string(), "name", "model whose neurons it is compared with"),
        *WHO[2:],
        field("max_corr", pa.float64(), R, "largest correlation with any neuron of `other`"),
        field("max_layer", pa.int16(), INDEX, "layer of that neuron"),
        field("max_neuron", pa.int32(), INDEX, "that neuron within its layer"),
        field("min_corr", pa.float64(), R, "smallest (most negative) correlation"),
        field("min_layer", pa.int16(), INDEX, "layer of that neuron"),
        field("min_neuron", pa.int32(), INDEX, "that neuron within its layer"),
        field("top_corr", list_of(pa.float32()), R, "largest correlations, descending"),
        field("top_layer", list_of(pa.int16()), INDEX, "their layers"),
        field("top_neuron", list_of(pa.int32()), INDEX, "their neurons"),
        field("bottom_corr", list_of(pa.float32()), R, "smallest correlations, ascending"),
        field("bottom_layer", list_of(pa.int16()), INDEX, "their layers"),
        field("bottom_neuron", list_of(pa.int32()), INDEX, "their neurons"),
        field("corr_mean", pa.float64(), R, "mean over the neurons of `other`"),
        field("corr_var", pa.float64(), "correlation²", "population variance over them"),
        field("corr_skew", pa.float64(), "1", "population skewness over them"),
        field("corr_kurt", pa.float64(), "1", "population kurtosis over them, Gaussian = 3"),
        field(
            "hist",
            list_of(pa.int32()),
            "neurons",
            "101 bins between linspace(-1, 1, 100), each open below and closed above",
        ),
        field("diag_corr", pa.float64(), R, "with the neuron of the same layer and index",
              null="the models differ in shape, or that neuron has no correlation"),
        field("obo_corr", pa.float64(), R, "off by one: with the neuron of the next index, of the "
              "last of a layer with the first of the next layer", null="the models differ in "
              "shape, that neuron has no correlation, or it is the last"),
        field("corr_se", pa.float64(), R, "jackknife standard error of max_corr's correlation",
              null="there are too few blocks of tokens"),
        field("baseline_corr", pa.float64(), R, "mean over draws of the largest by "
              "chance: with any rotated unit, or any at other tokens (baseline.kind=shifted)"),
        field("baseline_se", pa.float64(), R, "standard error of that mean",
              null="there is one draw"),
        field("baseline_draws", list_of(pa.float64()), R, "largest by chance, by draw"),
        field("mutual", pa.bool_(), "yes/no", "its best partner's best partner is this neuron"),
        field("assigned_layer", pa.int16(), INDEX, "layer of its partner in the one-to-one "
              "matching of both models with the largest sum of correlations, of pairs in the list "
              "of the best of either", null=ALONE),
        field("assigned_neuron", pa.int32(), INDEX, "that neuron within its layer", null=ALONE),
        field("assigned_corr", pa.float64(), R, "with it", null=ALONE),
        field("anchors", pa.int32(), "models", "further models with a neuron that is the mutual "
              "best partner both of this neuron and of its own mutual best partner in `other`",
              null="no further model is compared with both"),
        field("n", pa.int64(), "tokens", "tokens that count"),
        field("n_excluded", pa.int64(), "tokens", "tokens left out by corpus.exclude"),
        NULL_REASON,
        *SITE,
    ]
)

NEURONS = pa.schema(
    [
        *WHO,
        field("max_corr", pa.float64(), R, "largest over the other models of max_corr"),
        field("mean_corr", pa.float64(), R, "mean over the other models of max_corr"),
        field("min_corr", pa.float64(), R, "smallest over the other models of max_corr"),
        field("max_baseline", pa.float64(), R, "largest over the other models of baseline_corr"),
        field("mean_baseline", pa.float64(), R, "mean over the other models of baseline_corr"),
        field("min_baseline", pa.float64(), R, "smallest over the other models"),
        field("excess_corr", pa.float64(), R, "mean_corr - mean_baseline"),
        field("is_universal", pa.bool_(), "yes/no", "excess_corr above universal.threshold"),
        field("baseline_se", pa.float64(), R, "standard error of mean_baseline over the draws",
              null="there is one draw"),
        field("n", pa.int64(), "tokens", "tokens that count"),
        NULL_REASON,
        *SITE,
    ]
)

NO_MEASURE = (
    "a layer has no neuron with a correlation, or (svcca, pwcca, regression) tokens are fewer than "
    "components"
)
SIMILARITY = pa.schema(
    [
        field("model", pa.string(), "name", "model whose layer is asked about"),
        field("other", pa.string(), "name", "model that it is compared with"),
        field("measure", pa.string(), "name", "of similarity.measures, see docs/similarity.md"),
        field("layer", pa.int16(), INDEX, "layer of `model`"),
        field("other_layer", pa.int16(), INDEX, "layer of `other`",
              null="the row is of the best layer: `value` is the largest over them, and so is each "
              "of `null_draws`, which search as much"),
        field("value", pa.float64(), "1", "how alike they are, 1 at most", null=NO_MEASURE),
        field("se", pa.float64(), "1", "jackknife standard error of the value",
              null="there are too few blocks of tokens, or there is no value"),
        field("null", pa.float64(), "1", "what chance gives, mean over draws", null=NO_MEASURE),
        field("null_se", pa.float64(), "1", "standard error of that mean",
              null="there is one draw, or no value"),
        field("null_draws", list_of(pa.float64()), "1", "what chance gives, by draw",
              null=NO_MEASURE),
        field("null_kind", pa.string(), "name", "what chance is: `rotation` (the layer of `other` "
              "rotated), `shift` (its rows beside others, baseline.kind=shifted) or `tokens` (its "
              "tokens in a random order)"),
        field("n", pa.int64(), "tokens", "tokens that count"),
        *SITE,
    ]
)

TABLES = (
    Table(
        path=NEURONS_PATH,
        row="a neuron of a reference model",
        sorted_by=("model", "layer", "neuron"),
        schema=NEURONS,
    ),
    Table(
        path=PAIRS_PATH,
        row="a neuron and another model, in whose neurons it looks for partners",
        sorted_by=("model", "other", "layer", "neuron"),
        schema=PAIRS,
    ),
    Table(
        path=SIMILARITY_PATH,
        row="a layer, a layer of another model or the best of them, and a measure",
        sorted_by=("model", "other", "measure", "layer", "other_layer"),
        schema=SIMILARITY,
    ),
)

_UNIVERSAL = {
    "universal": ("neurons", "that are universal; null where none has a correlation"),
    "universal_share": ("share", "of the neurons; null as before"),
}
_MEANS = {
    "mean_corr": (R, "mean over neurons of mean_corr"),
    "mean_baseline": (R, "mean over neurons of mean_baseline"),
    "mean_excess": (R, "mean over neurons of excess_corr"),
}
_OVERLAP = {
    "universal[]": ("neurons", "that are universal, by revision"),
    "overlap[][]": ("neurons", "that are universal at two revisions, by both"),
    "persistence[][]": ("share", "of those of the first revision that are so at the second"),
    "jaccard[][]": ("share", "of those of either revision that are so at both"),
}
SUMMARY: dict[str, tuple[str, str]] = {
    "site": ("name", "what units are, models.site"),
    "unit_kind": ("name", "what one of them is called, a neuron in the words of this file"),
    "chance": ("name", "what baselines are of: `rotated` models, or `shifted` ones, whose "
               "tokens are those of other rows"),
    "threshold": (R, "universal.threshold"),
    "tokens": ("tokens", "of the study"),
    "tokens_kept": ("tokens", "of them that count, or segments of them"),
    "counted": ("name", "what counts: `tokens`, or `segments` where models have other tokenizers"),
    **under("models[]", {
        "model": ("name", "as tables call it"),
        "given": ("name", "its path, or hub id with revision, as the study gives it"),
        "identity": ("name", "hash of its configuration and weights, as in study.yaml"),
        "layers": ("1", "how many"),
        "neurons_per_layer": ("neurons", "how many"),
        "places[]": ("name", "what each of its layers reads, of latents: `mlp_out of layer 5`"),
    }),
    **under("references[]", {
        "model": ("name", "the reference model"),
        "others[]": ("name", "models that it is compared with"),
        "neurons": ("neurons", "of the model"),
        "neurons_without_correlation": ("neurons", "of them"),
        "reasons_without_correlation.{reason}": ("neurons", "that have no correlation for it"),
        **_UNIVERSAL,
        **_MEANS,
        **under("layers[]", {
            "layer": (INDEX, "the layer"),
            "neurons": ("neurons", "of the layer"),
            **_UNIVERSAL,
            **_MEANS,
        }),
        "largest_excess": (R, "of any neuron"),
        "excess_above.{level}": ("share", "of neurons whose excess_corr is above the level"),
        "spread": (R, "mean over neurons of max_corr - min_corr"),
        "spread_universal": (R, "the same of universal neurons"),
        "mutual_share": ("share", "of neurons whose best partner's best partner they are, mean "
                         "over other models"),
        "partner_layers[][]": ("share", "of a layer's neurons whose best partner lies in a layer, "
                               "by both, mean over other models; null for a layer without any"),
        "statistics.{column~column}": (R, "over neurons, of two columns of neurons.parquet"),
        **under("published", {  # null where the paper has no such model
            "universal": ("neurons", "the paper's count"),
            "universal_share": ("share", "the paper's share"),
            "universal_by_layer[]": ("neurons", "the paper's counts, by layer"),
            "spread": (R, "the paper's spread; not there where it has none"),
            "spread_universal": (R, "the paper's spread of universal neurons"),
        }),
    }),
    **under("followed[]", {  # with models.revisions alone
        "model": ("name", "a model that is followed, with its {revision}"),
        "revisions[]": ("name", "models.revisions"),
        **_OVERLAP,
        **under("layers[]", {"layer": (INDEX, "the layer"), **_OVERLAP}),
    }),
}  # fmt: skip
"""What the stage writes into `summary.json`: unit and meaning by the place in it."""
