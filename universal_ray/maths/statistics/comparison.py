"""Universal neurons against the others of their layer, and a table against the published one.

Shapes: N neurons of a model, U universal ones, K neurons that two tables share, B bins.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from universal_ray.errors import ConfigurationError

PUBLISHED_DIRECTIONS = {
    "l2_penalty": 1,
    "input_bias": -1,
    "mean": -1,
    "sparsity": -1,
    "skew": 1,
    "kurt": 1,
    "vocab_kurt": 1,
    "in_out_sim": 1,
}
"""Whether universal neurons have more (1) or less (-1) of a statistic than the others of their
layer, as arXiv 2401.12181 (section 4.2) says."""
WEIGHTS = (
    "w_in_norm", "w_out_norm", "l2_penalty", "input_bias", "in_out_sim", "vocab_mean", "vocab_var",
    "vocab_skew", "vocab_kurt",
)  # fmt: skip
"""Published columns that weights alone decide."""
SAME_WEIGHTS = 0.1
"""Relative difference up to which a column of weights is one model's: rounding makes 0.001 and
less, another seed's weights about 1."""
FIRST_COUNTED = 102
"""Bin of their histogram from which the authors count activations as above zero; it begins at
-0.098, as the edge that they look for comes out above zero by rounding."""
RESAMPLES = 2000
COVERAGE = 0.95
DRAWS_AT_ONCE = 1 << 20


def percentiles_in_layer(
    values_N: Float[np.ndarray, "N"], layer_N: Int[np.ndarray, "N"]
) -> Float[np.ndarray, "N"]:
    """Percentile rank (above 0, to 100) of each neuron among all of its layer, ties averaged.

    As scipy's `percentileofscore(kind="rank")`. NaN has no rank and is nobody's peer.
    """
    found_N = np.full(len(values_N), np.nan)
    for layer in np.unique(layer_N):
        peers = np.flatnonzero((layer_N == layer) & ~np.isnan(values_N))
        ordered = np.sort(values_N[peers])
        below = np.searchsorted(ordered, values_N[peers], side="left")
        up_to = np.searchsorted(ordered, values_N[peers], side="right")
        found_N[peers] = 50 * (below + up_to + 1) / len(peers)
    return found_N


@dataclass(frozen=True)
class Comparison:
    """How the universal neurons of a model differ from the others in one statistic."""

    universal: int
    """universal neurons that have the statistic and another neuron in their layer to compare"""
    others: int
    median_universal: float
    median_others: float
    median_percentile: float
    """of the universal neurons, each in its layer"""
    delta: float
    """Cliff's: share of the layer's others below a universal neuron minus share above it, mean
    over the universal neurons; -1 to 1. In one layer, mean percentiles differ by fifty times it."""
    delta_low: float
    """ends of a bootstrap interval over universal neurons; NaN for fewer than two"""
    delta_high: float

    @property
    def direction(self) -> int | None:
        """1 or -1 where the interval leaves no doubt, else 0; None where there is none."""
        if np.isnan(self.delta_low):
            return None
        return int(self.delta_low > 0) - int(self.delta_high < 0)


def compare(
    values_N: Float[np.ndarray, "N"],
    layer_N: Int[np.ndarray, "N"],
    universal_N: Bool[np.ndarray, "N"],
    *,
    seed: int = 0,
) -> Comparison:
    """Compare one statistic within layers; neurons without it (NaN) are left out.

    The others of a layer are all there are, so that only universal neurons are drawn again.
    """
    has_N = ~np.isnan(values_N)
    chosen_N, rest_N = universal_N & has_N, ~universal_N & has_N
    delta_N = np.full(len(values_N), np.nan)
    for layer in np.unique(layer_N[chosen_N]):
        here_N = layer_N == layer
        others = np.sort(values_N[here_N & rest_N])
        if not len(others):
            continue
        value_U = values_N[here_N & chosen_N]
        below_U = np.searchsorted(others, value_U, side="left")
        above_U = len(others) - np.searchsorted(others, value_U, side="right")
        delta_N[here_N & chosen_N] = (below_U - above_U) / len(others)
    compared_N = ~np.isnan(delta_N)
    percentile_N = percentiles_in_layer(values_N, layer_N)
    low, high = bootstrap_interval(delta_N[compared_N], seed=seed)
    return Comparison(
        universal=int(compared_N.sum()),
        others=int(rest_N.sum()),
        median_universal=_median(values_N[chosen_N]),
        median_others=_median(values_N[rest_N]),
        median_percentile=_median(percentile_N[compared_N]),
        delta=float(delta_N[compared_N].mean()) if compared_N.any() else np.nan,
        delta_low=low,
        delta_high=high,
    )


def bootstrap_interval(
    sample_U: Float[np.ndarray, "U"], *, seed: int = 0, resamples: int = RESAMPLES
) -> tuple[float, float]:
    """95 % percentile interval of the mean; NaN for fewer than two values."""
    count = len(sample_U)
    if count < 2:
        return np.nan, np.nan
    random = np.random.default_rng(seed)
    block = max(DRAWS_AT_ONCE // count, 1)
    means = [
        sample_U[random.integers(count, size=(min(block, resamples - first), count))].mean(1)
        for first in range(0, resamples, block)
    ]
    low, high = np.quantile(np.concatenate(means), [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2])
    return float(low), float(high)


def published_sparsity(histogram_NB: Int[np.ndarray, "N 257"]) -> Float[np.ndarray, "N"]:
    """The column `sparsity` as the authors' code counts it, from the histogram, whose bins are
    theirs: the share of pre-activations above -0.098, not above zero.
    """
    share_N: np.ndarray = histogram_NB[:, FIRST_COUNTED:].sum(1) / histogram_NB.sum(1)
    return share_N


def pearson(a_K: Float[np.ndarray, "K"], b_K: Float[np.ndarray, "K"]) -> float:
    """Correlation over the pairs that have both values; NaN where there is none."""
    both_K = ~(np.isnan(a_K) | np.isnan(b_K))
    a_K, b_K = a_K[both_K], b_K[both_K]
    if len(a_K) < 2 or np.ptp(a_K) == 0 or np.ptp(b_K) == 0:
        return np.nan
    return float(np.corrcoef(a_K, b_K)[0, 1])


Table = Mapping[str, np.ndarray]
"""Columns by name, `layer` and `neuron` among them, one row per neuron."""


@dataclass(frozen=True)
class Agreement:
    """How one column of two tables agrees over the neurons that both have."""

    neurons: int
    """that have the value in both tables"""
    pearson: float
    """which a constant difference leaves at 1"""
    relative_difference: float
    """root mean square of the differences over the spread of the published column: its standard
    deviation, or its size where it has none; 0 where all are equal, about 1.4 where nothing is"""
    max_difference: float
    """largest absolute difference"""
    median_difference: float
    worst: tuple[int, int] | None
    """layer and neuron of the largest difference"""


def agreement(own: Table, published: Table) -> dict[str, Agreement]:
    """Agreement of every column that both tables have, over the neurons of the published one.

    Raises ConfigurationError where a table names a neuron twice, or the published one has a neuron
    that ours has not.
    """
    place_K, keys = _places(own, published), _keys(published)
    found: dict[str, Agreement] = {}
    for name in sorted(published.keys() & own.keys() - {"layer", "neuron"}):
        ours_K = np.asarray(own[name], dtype=np.float64)[place_K]
        theirs_K = np.asarray(published[name], dtype=np.float64)
        apart_K = np.abs(ours_K - theirs_K)
        both_K = ~np.isnan(apart_K)
        worst = int(np.nanargmax(apart_K)) if both_K.any() else None
        found[name] = Agreement(
            neurons=int(both_K.sum()),
            pearson=pearson(ours_K, theirs_K),
            relative_difference=_relative(apart_K[both_K], theirs_K[both_K]),
            max_difference=np.nan if worst is None else float(apart_K[worst]),
            median_difference=_median(apart_K[both_K]),
            worst=None if worst is None else keys[worst],
        )
    return found


def _relative(apart_K: Float[np.ndarray, "K"], theirs_K: Float[np.ndarray, "K"]) -> float:
    """Root mean square of differences, over the spread of what they are from."""
    if not len(apart_K):
        return np.nan
    spread = float(theirs_K.std()) or float(np.abs(theirs_K).max()) or 1.0
    return float(np.sqrt(np.mean(apart_K**2)) / spread)


def other_weights(found: Mapping[str, Agreement]) -> list[str]:
    """Columns of weights that tell two models apart, among those that two tables share.

    Weights are computed, not estimated: of one model they agree but for rounding. Raises
    ConfigurationError where none of them does.
    """
    there = [name for name in WEIGHTS if name in found and found[name].neurons]
    apart = [name for name in there if not found[name].relative_difference <= SAME_WEIGHTS]
    if there and apart == there:
        told = ", ".join(f"{name} by {found[name].relative_difference:.2g}" for name in apart)
        raise ConfigurationError(
            f"the weights are of another model, as shares of each column's spread they differ in "
            f"{told}: compare the model that the table is of"
        )
    return apart


@dataclass(frozen=True)
class Flips:
    """Neurons that one table calls universal and the other does not.

    By layer and neuron, with our excess correlation, NaN where there is none.
    """

    lost: dict[tuple[int, int], float]
    """published as universal, not so in ours"""
    gained: dict[tuple[int, int], float]
    """universal in ours, not published"""


def flips(own: Table, published: Table, threshold: float = 0.5) -> Flips:
    """What the threshold of the excess correlation decides otherwise than in the published table.

    The published table holds universal neurons alone: `own` has all neurons of the model, by its
    column `excess_corr`. Raises ConfigurationError as `agreement` does, and where the published
    table has a neuron at or below the threshold.
    """
    place_K = _places(own, published)
    if not bool((np.asarray(published["excess_corr"]) > threshold).all()):
        raise ConfigurationError(
            f"the published table has neurons whose excess correlation is not above {threshold}, "
            "so that it is not of universal neurons: compare at its own threshold"
        )
    excess_N = np.asarray(own["excess_corr"], dtype=np.float64)
    published_N = np.isin(np.arange(len(excess_N)), place_K)

    def named(chosen_N: np.ndarray) -> dict[tuple[int, int], float]:
        keys = _keys(own)
        return {keys[row]: float(excess_N[row]) for row in np.flatnonzero(chosen_N)}

    return Flips(
        lost=named(published_N & ~(excess_N > threshold)),
        gained=named(~published_N & (excess_N > threshold)),
    )


def _keys(table: Table) -> list[tuple[int, int]]:
    """Layer and neuron of every row."""
    keys = list(zip(table["layer"].tolist(), table["neuron"].tolist(), strict=True))
    if len(set(keys)) != len(keys):
        raise ConfigurationError(
            "a table of neurons has one of them twice: give it one row per layer and neuron"
        )
    return keys


def _places(own: Table, published: Table) -> Int[np.ndarray, "K"]:
    """The row in our table of each published neuron."""
    row = {key: index for index, key in enumerate(_keys(own))}
    keys = _keys(published)
    missing = [key for key in keys if key not in row]
    if missing:
        layer, neuron = missing[0]
        raise ConfigurationError(
            f"our table lacks {len(missing)} of the {len(keys)} published neurons, the first of "
            f"them layer {layer}, neuron {neuron}: compare tables of the same model"
        )
    return np.array([row[key] for key in keys], dtype=np.int64)


def _median(values: np.ndarray) -> float:
    return float(np.median(values)) if len(values) else np.nan


def beside_peers(
    chosen_N: Bool[np.ndarray, "N"],
    member_N: Bool[np.ndarray, "N"],
    universal_N: Bool[np.ndarray, "N"],
    layer_N: Int[np.ndarray, "N"],
) -> dict[str, Any]:
    """Share of members among chosen universal neurons, beside the others of their layers."""
    share_L = {
        layer: member_N[(layer_N == layer) & ~universal_N].mean()
        if ((layer_N == layer) & ~universal_N).any()
        else math.nan
        for layer in np.unique(layer_N)
    }
    gain_U = np.array([float(member_N[n]) - share_L[layer_N[n]] for n in np.flatnonzero(chosen_N)])
    gain_U = gain_U[~np.isnan(gain_U)]
    low, high = bootstrap_interval(gain_U)
    return {
        "neurons": int(chosen_N.sum()),
        "members": int(member_N[chosen_N].sum()),
        "share": float(member_N[chosen_N].mean()) if chosen_N.any() else math.nan,
        "gain": float(gain_U.mean()) if len(gain_U) else math.nan,
        "gain_low": low,
        "gain_high": high,
        "share_of_others": float(member_N[~universal_N].mean())
        if not universal_N.all()
        else math.nan,
    }
