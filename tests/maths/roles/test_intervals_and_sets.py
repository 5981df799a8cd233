"""Bootstrap intervals and random sets of neurons.

Shapes: R rows, I interventions, N neurons.
"""

import numpy as np
import pytest
import scipy.stats
import torch

from universal_ray.errors import ConfigurationError
from universal_ray.maths.roles.sets import by_layer, matched_random
from universal_ray.maths.statistics.bootstrap import Bootstrap

ROWS = 80


def rows_of(seed: int, mean: float) -> torch.Tensor:
    generator = np.random.default_rng(seed)
    return torch.from_numpy(generator.gamma(2.0, mean / 2, (2, ROWS)))


def test_a_mean_has_the_interval_of_scipy():
    sums_IR, count_R = rows_of(0, 30.0), torch.from_numpy(
        np.random.default_rng(1).integers(5, 15, ROWS).astype(float)
    )  # fmt: skip
    found = Bootstrap(ROWS, draws=4000).mean(sums_IR, count_R)
    for index in range(2):
        expected = scipy.stats.bootstrap(
            (sums_IR[index].numpy(), count_R.numpy()),
            lambda s, n, axis=-1: s.sum(axis) / n.sum(axis),
            paired=True, vectorized=True, n_resamples=4000, method="percentile",
            rng=np.random.default_rng(2),
        ).confidence_interval  # fmt: skip
        width = expected.high - expected.low
        assert float(found.value_I[index]) == pytest.approx(
            float(sums_IR[index].sum() / count_R.sum())
        )
        assert abs(float(found.low_I[index]) - expected.low) < 0.1 * width
        assert abs(float(found.high_I[index]) - expected.high) < 0.1 * width


def test_a_mediated_share_is_one_less_the_ratio_of_effects():
    total_IR = rows_of(3, 2.0)
    direct_IR = total_IR * torch.tensor([[0.25], [1.0]])
    found = Bootstrap(ROWS).mediated_share(total_IR, direct_IR)
    torch.testing.assert_close(found.value_I, torch.tensor([0.75, 0.0], dtype=torch.float64))
    torch.testing.assert_close(found.low_I, found.high_I)  # the same in every row
    noisy = Bootstrap(ROWS).mediated_share(total_IR, direct_IR * rows_of(4, 1.0))
    assert bool((noisy.low_I < noisy.value_I).all() and (noisy.value_I < noisy.high_I).all())
    assert bool(Bootstrap(ROWS).mediated_share(total_IR * 0, direct_IR * 0).value_I.isnan().all())


def test_intervals_follow_from_the_seed_alone():
    sums_IR, count_R = rows_of(5, 1.0), torch.ones(ROWS, dtype=torch.float64)
    one, same, other = (Bootstrap(ROWS, seed=s).mean(sums_IR, count_R) for s in (1, 1, 2))
    assert torch.equal(one.low_I, same.low_I) and not torch.equal(one.low_I, other.low_I)


def test_one_row_has_no_interval():
    with pytest.raises(ConfigurationError, match="two rows"):
        Bootstrap(1)


def test_random_sets_match_the_layers_and_avoid_the_set():
    neurons, eligible_N = (3, 25, 21, 29, 11), torch.ones(30, dtype=torch.bool)
    eligible_N[4] = False
    drawn = matched_random(neurons, width=10, eligible_N=eligible_N, draws=200)
    layers = {layer: len(members) for layer, members in by_layer(neurons, 10).items()}
    assert layers == {0: 1, 1: 1, 2: 3}
    for members in drawn:
        assert {k: len(v) for k, v in by_layer(members, 10).items()} == layers
        assert len(set(members)) == 5 and not set(members) & {*neurons, 4}
    seen = {neuron for members in drawn for neuron in members}
    assert seen == set(range(30)) - {*neurons, 4}  # every other neuron has its chance
    assert drawn == matched_random(neurons, width=10, eligible_N=eligible_N, draws=200)
    assert drawn != matched_random(neurons, width=10, eligible_N=eligible_N, draws=200, seed=1)


def test_a_layer_with_too_few_others_is_refused():
    with pytest.raises(ConfigurationError, match="Layer 0 has 1 "):
        matched_random(range(5), width=6, eligible_N=torch.ones(12, dtype=torch.bool), draws=1)
