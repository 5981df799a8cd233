"""Schemas of `pairs.parquet` and `neurons.parquet`, every column with its meaning and unit."""

import pyarrow as pa

from universal_ray.storage.columns import Table, list_of
from universal_ray.storage.finished import NEURONS_PATH, PAIRS_PATH
from universal_ray.storage.reasons import field

NO_PARTNER = "no neuron of the other model varies enough over the kept tokens"

R, INDEX = "correlation", "index from 0"


PAIRS = pa.schema(
    [
        field("model", pa.string(), "id[@revision]", "model the neuron belongs to"),
        field("other", pa.string(), "id[@revision]", "model whose neurons it is compared with"),
        field("layer", pa.int16(), INDEX, "layer of the neuron"),
        field("neuron", pa.int32(), INDEX, "neuron within its layer"),
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
        field("diag_corr", pa.float64(), R, "with the neuron of the same layer and index"),
        field("corr_se", pa.float64(), R, "jackknife standard error of max_corr's correlation",
              null="there are too few blocks of tokens"),
        field("baseline_corr", pa.float64(), R, "mean over draws of the largest with any rotated"),
        field("baseline_se", pa.float64(), R, "standard error of that mean",
              null="there is one draw"),
        field("baseline_draws", list_of(pa.float64()), R, "largest with any rotated unit, by draw"),
        field("mutual", pa.bool_(), "", "whether the best partner's best partner is this neuron"),
        field("n", pa.int64(), "tokens", "tokens that count"),
        field("n_excluded", pa.int64(), "tokens", "tokens left out by corpus.exclude"),
        field("null_reason", pa.string(), "", "why a row has no correlation", null="it has one"),
    ]
)

NEURONS = pa.schema(
    [
        field("model", pa.string(), "id[@revision]", "reference model"),
        field("layer", pa.int16(), INDEX, "layer of the neuron"),
        field("neuron", pa.int32(), INDEX, "neuron within its layer"),
        field("max_corr", pa.float64(), R, "largest over the other models of max_corr"),
        field("mean_corr", pa.float64(), R, "mean over the other models of max_corr"),
        field("min_corr", pa.float64(), R, "smallest over the other models of max_corr"),
        field("max_baseline", pa.float64(), R, "largest over the other models of baseline_corr"),
        field("mean_baseline", pa.float64(), R, "mean over the other models of baseline_corr"),
        field("min_baseline", pa.float64(), R, "smallest over the other models"),
        field("excess_corr", pa.float64(), R, "mean_corr - mean_baseline"),
        field("is_universal", pa.bool_(), "", "excess_corr above universal.threshold"),
        field("baseline_se", pa.float64(), R, "standard error of mean_baseline over the draws",
              null="there is one draw"),
        field("n", pa.int64(), "tokens", "tokens that count"),
        field("null_reason", pa.string(), "", "why a row has no correlation", null="it has one"),
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
)
