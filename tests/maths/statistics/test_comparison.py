"""Universal neurons against the rest: ranks against scipy, effects against pairs, planted truths.

Shapes: N neurons.
"""

from typing import Any

import numpy as np
import pytest
import scipy.stats

from universal_ray.errors import ConfigurationError
from universal_ray.maths.statistics.comparison import (
    PUBLISHED_DIRECTIONS,
    agreement,
    bootstrap_interval,
    compare,
    flips,
    pearson,
    percentiles_in_layer,
)

LAYERS, WIDTH = 4, 200
of_layer_N = np.repeat(np.arange(LAYERS), WIDTH)


def values(seed: int = 0, ties: bool = False) -> np.ndarray:
    """Layers apart in place and scale, so that only ranks inside a layer mean anything."""
    found_N = np.random.default_rng(seed).standard_normal(LAYERS * WIDTH)
    if ties:
        found_N = found_N.round(1)
    return found_N * 10.0**of_layer_N + 100 * of_layer_N


def chosen(share: float = 0.1, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).random(LAYERS * WIDTH) < share


@pytest.mark.parametrize("ties", [False, True])
def test_percentiles_are_scipys_ranks_in_the_layer(ties):
    values_N = values(ties=ties)
    values_N[[3, 250]] = np.nan
    order = np.random.default_rng(2).permutation(len(values_N))  # rows in any order
    found_N = percentiles_in_layer(values_N[order], of_layer_N[order])[np.argsort(order)]
    for neuron in range(0, len(values_N), 3):
        peers = values_N[of_layer_N == of_layer_N[neuron]]
        peers = peers[~np.isnan(peers)]
        expected = scipy.stats.percentileofscore(peers, values_N[neuron], kind="rank")
        np.testing.assert_allclose(found_N[neuron], expected, rtol=1e-12)
    assert np.isnan(found_N[[3, 250]]).all() and np.nanmax(found_N) == 100


def test_delta_is_cliffs_over_pairs_of_one_layer():
    values_N, universal_N = values(ties=True), chosen()
    values_N[5] = np.nan
    found = compare(values_N, of_layer_N, universal_N)
    per_neuron = []
    for neuron in np.flatnonzero(universal_N & ~np.isnan(values_N)):
        rest = values_N[(of_layer_N == of_layer_N[neuron]) & ~universal_N & ~np.isnan(values_N)]
        per_neuron.append(np.sign(values_N[neuron] - rest).mean())
    assert found.delta == pytest.approx(np.mean(per_neuron), abs=1e-14)
    assert found.universal == len(per_neuron)
    assert found.others == int((~universal_N).sum()) - int(not universal_N[5])
    ranks_N = percentiles_in_layer(values_N, of_layer_N)
    of_universal = ranks_N[universal_N & ~np.isnan(values_N)]
    assert found.median_percentile == np.median(of_universal)


def test_in_one_layer_delta_is_the_difference_of_mean_percentiles_over_fifty():
    values_N, universal_N = values(ties=True)[:WIDTH], chosen()[:WIDTH]
    found = compare(values_N, of_layer_N[:WIDTH], universal_N)
    percentile_N = percentiles_in_layer(values_N, of_layer_N[:WIDTH])
    apart = percentile_N[universal_N].mean() - percentile_N[~universal_N].mean()
    assert found.delta == pytest.approx(apart / 50, abs=1e-12)


@pytest.mark.parametrize("direction", [1, -1])
def test_a_planted_difference_is_found_and_none_is_not(direction):
    values_N, universal_N = values(), chosen()
    assert compare(values_N, of_layer_N, universal_N).direction == 0
    shifted_N = values_N + direction * universal_N * 10.0**of_layer_N
    found = compare(shifted_N, of_layer_N, universal_N)
    assert found.direction == direction
    assert found.delta_low < found.delta < found.delta_high
    # Cliff's delta of two Gaussians one deviation apart.
    expected = direction * (2 * scipy.stats.norm.cdf(1 / np.sqrt(2)) - 1)
    assert found.delta_low < expected < found.delta_high
    # The same seed draws the same; a rank does not know the scale of its layer.
    assert compare(shifted_N, of_layer_N, universal_N) == found
    assert compare(-shifted_N, of_layer_N, universal_N).delta == pytest.approx(-found.delta)
    assert compare(values_N + 1e3 * of_layer_N, of_layer_N, universal_N).direction == 0


def test_a_layer_effect_is_no_effect_of_universality():
    """Universal neurons in the last layer alone, where all values are large."""
    universal_N = chosen() & (of_layer_N == LAYERS - 1)
    found = compare(values(), of_layer_N, universal_N)
    assert found.median_universal > found.median_others
    assert found.direction == 0


def test_all_or_nothing_has_its_bounds():
    values_N = np.arange(10.0)
    found = compare(values_N, np.zeros(10, dtype=int), values_N >= 7)
    assert (found.delta, found.delta_low, found.delta_high) == (1, 1, 1)
    assert (found.median_universal, found.median_others, found.median_percentile) == (8, 3, 90)


def test_too_few_universal_neurons_have_no_interval():
    layer_N = np.zeros(10, dtype=int)
    one = compare(np.arange(10.0), layer_N, np.arange(10) == 9)
    assert one.delta == 1 and np.isnan(one.delta_low) and one.direction is None
    none = compare(np.arange(10.0), layer_N, np.zeros(10, dtype=bool))
    assert none.universal == 0 and np.isnan(none.delta) and np.isnan(none.median_universal)
    # A layer without others offers nothing to compare with.
    assert compare(np.arange(10.0), layer_N, np.ones(10, dtype=bool)).universal == 0


def test_the_interval_covers_the_mean_as_often_as_it_says():
    random = np.random.default_rng(3)
    covered = 0
    for seed in range(200):
        low, high = bootstrap_interval(random.standard_normal(40), seed=seed, resamples=400)
        covered += low < 0 < high
    assert 180 <= covered <= 198  # 95 % of 200, less what the method misses in small samples


def test_pearson_is_that_of_pairs_with_both_values():
    a, b = np.random.default_rng(0).standard_normal((2, 50))
    a[3], b[[4, 5]] = np.nan, np.nan
    both = ~np.isnan(a + b)
    assert pearson(a, b) == pytest.approx(scipy.stats.pearsonr(a[both], b[both]).statistic)
    assert np.isnan(pearson(np.ones(5), np.arange(5.0)))
    assert np.isnan(pearson(a[:1], b[:1]))


def test_the_published_directions_name_columns_of_the_published_table():
    assert set(PUBLISHED_DIRECTIONS.values()) == {1, -1}
    assert PUBLISHED_DIRECTIONS["input_bias"] == PUBLISHED_DIRECTIONS["sparsity"] == -1
    assert PUBLISHED_DIRECTIONS["vocab_kurt"] == PUBLISHED_DIRECTIONS["in_out_sim"] == 1
    assert len(PUBLISHED_DIRECTIONS) == 8


def tables() -> tuple[dict[str, Any], dict[str, Any]]:
    """Ours of 12 neurons, published of four of them in another order, slightly off."""
    own = {
        "layer": np.repeat(np.arange(3), 4),
        "neuron": np.tile(np.arange(4), 3),
        "excess_corr": np.array([0.6, 0.2, 0.55, 0.4, 0.51, 0.1, 0.3, 0.0, 0.9, 0.3, np.nan, 0.1]),
        "kurt": np.arange(12.0),
        "only_ours": np.zeros(12),
    }
    row = np.array([8, 3, 0, 10])
    published = {
        "layer": own["layer"][row],
        "neuron": own["neuron"][row],
        "excess_corr": np.array([0.91, 0.52, 0.6, 0.7]),
        "kurt": own["kurt"][row] + np.array([0.1, -0.5, 0.0, np.nan]),
        "only_theirs": np.zeros(4),
    }
    return own, published


def test_agreement_is_by_neuron_and_names_the_worst():
    found = agreement(*tables())
    assert set(found) == {"excess_corr", "kurt"}
    kurt = found["kurt"]
    assert (kurt.neurons, kurt.worst) == (3, (0, 3))
    assert kurt.max_difference == pytest.approx(0.5)
    assert kurt.median_difference == pytest.approx(0.1)
    assert kurt.pearson == pytest.approx(np.corrcoef([8, 3, 0], [8.1, 2.5, 0])[0, 1])
    assert found["excess_corr"].neurons == 3
    apart = np.sqrt((0.1**2 + 0.5**2) / 3) / np.std([8.1, 2.5, 0])
    assert kurt.relative_difference == pytest.approx(apart)


@pytest.mark.parametrize(("theirs", "apart"), [(2.0, 0.5), (0.0, 3.0), (3.0, 0.0)])
def test_a_constant_column_is_apart_by_its_size(theirs, apart):
    own, published = tables()
    constant = agreement(own | {"kurt": np.full(12, 3.0)}, published | {"kurt": np.full(4, theirs)})
    assert constant["kurt"].relative_difference == apart


def test_a_column_without_values_agrees_in_nothing():
    own, published = tables()
    found = agreement(own | {"kurt": np.full(12, np.nan)}, published)["kurt"]
    assert (found.neurons, found.worst) == (0, None)
    assert np.isnan([found.pearson, found.max_difference, found.median_difference]).all()
    assert np.isnan(found.relative_difference)


def test_neurons_that_flip_at_the_threshold():
    found = flips(*tables())
    assert set(found.lost) == {(0, 3), (2, 2)} and found.lost[0, 3] == 0.4
    assert np.isnan(found.lost[2, 2])
    assert found.gained == {(0, 2): 0.55, (1, 0): 0.51}


def test_tables_of_other_neurons_are_refused():
    own, published = tables()
    for broken, sentence in [
        ((own, published | {"layer": published["layer"] + 1}), "our table lacks 2 of the 4"),
        ((own, published | {"layer": np.zeros(4), "neuron": np.zeros(4)}), "one of them twice"),
        ((own | {"neuron": np.zeros(12)}, published), "one of them twice"),
    ]:
        for function in (agreement, flips):
            with pytest.raises(ConfigurationError, match=sentence):
                function(*broken)
    with pytest.raises(ConfigurationError, match=r"not above 0\.6"):
        flips(own, published, threshold=0.6)
