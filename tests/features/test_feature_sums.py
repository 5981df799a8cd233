"""Sums of features against all labels and all activations at once in float64.

Shapes: B rows, P positions, T tokens, E and F features, D neurons, V ids.
"""

import numpy as np
import pytest
import torch
from torch import Tensor

from universal_ray.errors import NumericalError
from universal_ray.features.features import CURRENT, PREVIOUS
from universal_ray.features.sums import (
    TOKENS_AT_ONCE,
    FeatureSums,
    id_sums,
    merge_features,
    score_layer,
)
from universal_ray.maths.statistics.activations import LayerSums, Places, merge_layers, places

ROWS, CONTEXT, WIDTH, VOCABULARY, FEATURES = 80, 64, 6, 12, 5
TOKENS = ROWS * CONTEXT
generator = torch.Generator().manual_seed(0)
tokens_BP = torch.randint(VOCABULARY, (ROWS, CONTEXT), generator=generator)
kept_T = torch.rand(TOKENS, generator=generator) < 0.9
# Shares from three in a hundred to one half.
label_TE = torch.rand(TOKENS, FEATURES, generator=generator) < torch.logspace(-1.5, -0.3, FEATURES)
membership_VF = torch.rand(VOCABULARY, 4, generator=generator) < 0.4
# One neuron follows a label closely; scales and means over a factor of ten thousand.
noise_TD = torch.randn(TOKENS, WIDTH, generator=generator)
post_TD = noise_TD * torch.logspace(-2, 2, WIDTH) + torch.tensor([0.0, 10, 0.1, -300, 0, 1e4])
post_TD[:, 4] += 200 * label_TE[:, 1]


def sums(first: int, stop: int, batch: int = 16) -> tuple[LayerSums, FeatureSums]:
    """Sums over some rows, as a study makes them."""
    layer = LayerSums.zeros(
        torch.zeros(WIDTH), vocabulary=VOCABULARY, context=CONTEXT, subsets=0, examples=1
    )
    features = FeatureSums.zeros(FEATURES, WIDTH)
    for start in range(first, stop, batch):
        rows = slice(start, min(start + batch, stop))
        tokens = slice(rows.start * CONTEXT, rows.stop * CONTEXT)
        where = places(tokens_BP[rows], kept_T[tokens], first_row=rows.start)
        layer.update_(post_TD[tokens], post_TD[tokens], where)
        features.update_(label_TE[tokens], post_TD[tokens], where)
    return layer, features


def reductions(label_TE: Tensor) -> np.ndarray:
    """Squared correlations of labels and activations over the tokens that count, in float64."""
    label_ET, post_DT = label_TE[kept_T].double().numpy().T, post_TD[kept_T].double().numpy().T
    return np.corrcoef(label_ET, post_DT)[: len(label_ET), len(label_ET) :] ** 2


def test_scores_are_those_of_float64_to_a_millionth():
    layer, features = sums(0, ROWS)
    found = score_layer(layer, [features])
    expected_ED = reductions(label_TE)
    np.testing.assert_allclose(found.variance_reduction_FN, expected_ED, rtol=0, atol=1e-6)
    assert float(found.variance_reduction_FN[1, 4]) > 0.1
    assert float(features.n) == int(kept_T.sum())
    assert features.f_E.tolist() == label_TE[kept_T].sum(0).tolist()
    with_T, x_T = label_TE[kept_T][:, 1], post_TD[kept_T][:, 4].double()
    apart = float(x_T[with_T].mean() - x_T[~with_T].mean())
    assert float(found.mean_difference_FN[1, 4]) == pytest.approx(apart, rel=1e-6)


@pytest.mark.parametrize("count", [1, TOKENS_AT_ONCE - 1, TOKENS_AT_ONCE + 1])
def test_features_that_no_token_has_or_every_one(count):
    labels_TE = label_TE[:count].clone()
    labels_TE[:, [0, 3]] = torch.tensor([False, True])
    # Neurons of one layer lie between those of others.
    x_TD = torch.cat([torch.full((count, 2), torch.nan), post_TD[:count], post_TD[:count]], 1)
    features = FeatureSums.zeros(FEATURES, WIDTH)
    every = torch.arange(count)
    features.update_(labels_TE, x_TD[:, 2 : 2 + WIDTH], Places(every, every, {}))
    assert features.f_E.tolist() == labels_TE.sum(0).tolist()
    assert features.fx_ED[0].tolist() == [0] * WIDTH
    exact_ED = labels_TE.double().T @ post_TD[:count].double()
    size_ED = labels_TE.double().T @ post_TD[:count].double().abs()
    assert bool(((features.fx_ED - exact_ED).abs() <= 1e-6 * size_ED).all())


def test_a_long_run_of_one_sign_stays_within_the_bound():
    """Float32 sums of many equal signs are where rounding does not cancel."""
    count, far = 200_000, 1000.0
    x_TD = torch.rand(count, 1, generator=generator) + far
    labels_TE = x_TD > far + 0.7
    features = FeatureSums.zeros(1, 1)
    everything = torch.arange(count)
    features.update_(labels_TE, x_TD, Places(everything, everything, {}))
    exact = x_TD[labels_TE[:, 0]].double().sum()
    apart = abs(float(features.fx_ED) - float(exact))
    assert apart <= 2.0**-24 * TOKENS_AT_ONCE * float(exact)  # the theory
    assert apart <= 1e-7 * float(exact)  # the practice


@pytest.mark.parametrize("looks_at", [CURRENT, PREVIOUS])
def test_features_of_the_id_follow_from_sums_by_id(looks_at):
    layer, _ = sums(0, ROWS)
    found = id_sums(layer, membership_VF, looks_at)
    labels_BPF = membership_VF[tokens_BP]
    if looks_at == PREVIOUS:
        labels_BPF = labels_BPF.roll(1, dims=1)
        labels_BPF[:, 0] = False
    labels_TF = labels_BPF.flatten(0, 1)
    assert found.f_E.tolist() == labels_TF[kept_T].sum(0).tolist()
    expected_FD = reductions(labels_TF)
    scores = score_layer(layer, [found]).variance_reduction_FN
    np.testing.assert_allclose(scores, expected_FD, rtol=0, atol=1e-10)


def test_parts_of_disjoint_tokens_make_the_whole():
    whole_layer, whole = sums(0, ROWS)
    parts = [sums(first, first + 16) for first in range(0, ROWS, 16)]
    features = [part for _, part in parts]
    kept = features[0].fx_ED.clone()
    merged = merge_features(features)
    assert torch.equal(merged.fx_ED, whole.fx_ED)  # batches cut the tokens in the same places
    assert torch.equal(merged.f_E, whole.f_E) and torch.equal(merged.n, whole.n)
    assert torch.equal(features[0].fx_ED, kept)
    coarse = merge_features([sums(0, 37, batch=5)[1], sums(37, ROWS)[1]])
    torch.testing.assert_close(coarse.fx_ED, whole.fx_ED, rtol=1e-6, atol=1e-6)
    scores = score_layer(merge_layers([layer for layer, _ in parts]), [merged])
    expected = score_layer(whole_layer, [whole])
    torch.testing.assert_close(scores.variance_reduction_FN, expected.variance_reduction_FN)


def test_stored_and_read_again():
    _, features = sums(0, 16)
    again = FeatureSums.of(features.tensors())
    assert set(features.tensors()) == {"n", "f_E", "fx_ED"}
    assert all(torch.equal(value, again.tensors()[k]) for k, value in features.tensors().items())


def test_sums_over_other_tokens_are_refused():
    (layer, _), (_, features) = sums(0, ROWS), sums(0, 16)
    with pytest.raises(NumericalError, match=r"over \d+ tokens and neurons over \d+"):
        score_layer(layer, [features])
