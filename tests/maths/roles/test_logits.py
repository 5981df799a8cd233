"""Roles from logit effects against direct computations in float64 by numpy and scipy.

Shapes: N neurons, R rows of them, C channels, V vocabulary, F features.
"""

from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import torch
from helpers_roles import LAYERS, MODELS, VOCABULARY, WIDTH, load

from universal_ray.errors import ConfigurationError
from universal_ray.maths.roles.logits import (
    LogitOptions,
    NextTokenSums,
    counts_by_layer,
    logit_roles,
    next_token_response,
    percentiles_by_layer,
    spread_over_seeds,
    token_classes,
)
from universal_ray.maths.statistics.weights import vocabulary
from universal_ray.models.source import resolve
from universal_ray.models.weights import load_weights

CHANNELS, IDS = 24, 400


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def planted():
    """A vocabulary in which ids 10 to 19 share a direction, and a promoter, a suppressor and a
    partitioner of planted classes among 60 random neurons."""
    unembed_CV = drawn(CHANNELS, IDS)
    few, half = torch.zeros(IDS, dtype=torch.bool), torch.arange(IDS) % 2 == 0
    few[10:20] = True
    unembed_CV[0] = 0.05 * drawn(IDS, seed=1)
    unembed_CV[0, few] = 8.0
    unembed_CV[1] = torch.where(half, 4.0, -4.0)
    w_out_NC = drawn(63, CHANNELS, seed=2)
    w_out_NC[:3] = 0.0
    w_out_NC[0, 0], w_out_NC[1, 0], w_out_NC[2, 1] = 2.0, -2.0, 1.0
    return w_out_NC, unembed_CV, torch.stack([few, half, drawn(IDS, seed=3) > 0], dim=1)


def test_planted_neurons_get_their_roles_and_random_ones_none():
    w_out_NC, unembed_CV, _ = planted()
    roles = logit_roles(
        vocabulary(w_out_NC, unembed_CV, 1).moments, LogitOptions(kurtosis=10.0, variance=0.2)
    )
    assert roles.prediction_N.nonzero().flatten().tolist() == [0]
    assert roles.suppression_N.nonzero().flatten().tolist() == [1]
    assert roles.partition_N.nonzero().flatten().tolist() == [2]


def test_planted_classes_are_found_with_their_signs():
    w_out_NC, unembed_CV, membership_VF = planted()
    found = token_classes(w_out_NC, unembed_CV, membership_VF, block=7)
    best_R, reduction_R = found.best()
    assert best_R[:3].tolist() == [0, 0, 1]
    assert bool((reduction_R[:3] > 0.95).all()) and float(reduction_R[3:].max()) < 0.9
    difference_FR = found.scores.mean_difference_FN
    assert difference_FR[0, 0] > 10 > -10 > difference_FR[0, 1]


def test_a_neuron_that_writes_nothing_has_neither_role_nor_class():
    w_out_NC, unembed_CV, membership_VF = planted()
    w_out_NC[5] = 0
    roles = logit_roles(vocabulary(w_out_NC, unembed_CV, 1).moments)
    assert not (roles.prediction_N | roles.suppression_N | roles.partition_N)[5]
    best_R, reduction_R = token_classes(w_out_NC, unembed_CV, membership_VF).best()
    assert int(best_R[5]) == -1 and bool(reduction_R[5].isnan())


def test_scores_of_classes_are_those_of_scipy():
    w_out_NC, unembed_CV, membership_VF = planted()
    w_out_NC += 100  # effects far from zero, where powers cancel
    found = token_classes(w_out_NC, unembed_CV + 3, membership_VF)
    effect_NV = (w_out_NC @ (unembed_CV + 3)).numpy()
    for feature in range(3):
        inside = membership_VF[:, feature].numpy()
        for neuron in (0, 1, 2, 30):
            effect_V = effect_NV[neuron]
            welch = scipy.stats.ttest_ind(effect_V[inside], effect_V[~inside], equal_var=False)
            beta = inside.mean()
            within = beta * effect_V[inside].var() + (1 - beta) * effect_V[~inside].var()
            difference = effect_V[inside].mean() - effect_V[~inside].mean()
            assert float(found.welch_t_FR[feature, neuron]) == pytest.approx(welch.statistic)
            scores = found.scores
            assert float(scores.mean_difference_FN[feature, neuron]) == pytest.approx(difference)
            assert float(scores.variance_reduction_FN[feature, neuron]) == pytest.approx(
                1 - within / effect_V.var(), abs=1e-9
            )


@pytest.mark.parametrize("convention", ["raw", "folded"])
@pytest.mark.parametrize("kind", ["gpt2", "pythia"])
def test_a_model_in_both_conventions(kind, convention, tmp_path: Path):
    """Roles and classes from a model's files, folded by hand, in float64."""
    source = resolve(str(MODELS[kind](tmp_path)))
    model = load(tmp_path)
    weights = load_weights(source, convention)
    head = model.get_output_embeddings().weight.detach().T
    layers = getattr(model.base_model, "h", None) or model.base_model.layers
    final = model.base_model.ln_f if kind == "gpt2" else model.base_model.final_layer_norm
    outs = [
        block.mlp.c_proj.weight.detach() if kind == "gpt2" else block.mlp.dense_4h_to_h.weight.T
        for block in layers
    ]
    w_out_NC = torch.cat([each.detach() for each in outs]).numpy()
    unembed_CV = head.numpy()
    if convention == "folded":
        w_out_NC = w_out_NC - w_out_NC.mean(1, keepdims=True)
        unembed_CV = final.weight.detach().numpy()[:, None] * unembed_CV
        unembed_CV = unembed_CV - unembed_CV.mean(0)
        unembed_CV = unembed_CV - unembed_CV.mean(1, keepdims=True)
    lengths = np.linalg.norm(w_out_NC, axis=1)[:, None] * np.linalg.norm(unembed_CV, axis=0)
    cosine_NV = w_out_NC @ unembed_CV / lengths
    kurtosis_N = scipy.stats.kurtosis(cosine_NV, axis=1, fisher=False)
    skew_N = scipy.stats.skew(cosine_NV, axis=1)
    limit = float(np.median(kurtosis_N))
    roles = logit_roles(
        vocabulary(weights.w_out_NC, weights.unembed_CV, 1).moments,
        LogitOptions(kurtosis=limit, variance=float(np.median(cosine_NV.var(1)))),
    )
    sure_N = np.abs(kurtosis_N - limit) > 1e-4
    assert sure_N.sum() > 0.9 * LAYERS * WIDTH
    prediction_N, suppression_N = roles.prediction_N.numpy(), roles.suppression_N.numpy()
    assert (prediction_N == ((kurtosis_N > limit) & (skew_N > 0)))[sure_N].all()
    assert (suppression_N == ((kurtosis_N > limit) & (skew_N < 0)))[sure_N].all()
    membership_VF = (drawn(VOCABULARY - 20, 3, seed=4) > 0.5)[: VOCABULARY - 20]
    found = token_classes(weights.w_out_NC, weights.unembed_CV, membership_VF)
    effect_NV = (w_out_NC @ unembed_CV)[:, : VOCABULARY - 20]  # ids beyond are padding
    expected_FN = np.corrcoef(np.vstack([membership_VF.T.numpy(), effect_NV]))[:3, 3:] ** 2
    np.testing.assert_allclose(found.scores.variance_reduction_FN, expected_FN, atol=2e-5)


def test_features_of_another_tokenizer_are_refused():
    w_out_NC, unembed_CV, membership_VF = planted()
    with pytest.raises(ConfigurationError, match="know 400 ids"):
        token_classes(w_out_NC, unembed_CV[:, :-1], membership_VF)


def test_a_neuron_that_fires_before_its_class_is_seen_to():
    generator = torch.Generator().manual_seed(0)
    next_T = torch.randint(IDS, (3000,), generator=generator)
    members_VR = torch.zeros(IDS, 2, dtype=torch.bool)
    members_VR[10:60] = True
    x_TR = torch.randn(3000, 2, generator=generator) + 5
    x_TR[:, 0] += 3.0 * members_VR[next_T, 0]
    sums = NextTokenSums(IDS, 2)
    for part in (slice(0, 1000), slice(1000, 3000)):
        sums.update_(x_TR[part], next_T[part])
    found = next_token_response(
        count_V=sums.count_V,
        total_VR=sums.total_VR,
        squares_R=sums.squares_R,
        members_VR=members_VR,
    )
    inside_T = members_VR[next_T, 0].numpy()
    for neuron in range(2):
        x_T = x_TR[:, neuron].double().numpy()
        assert float(found.inside_R[neuron]) == pytest.approx(x_T[inside_T].mean())
        assert float(found.outside_R[neuron]) == pytest.approx(x_T[~inside_T].mean())
        assert float(found.correlation_R[neuron]) == pytest.approx(np.corrcoef(x_T, inside_T)[0, 1])
    assert float(found.correlation_R[0]) > 0.5 > 0.1 > abs(float(found.correlation_R[1]))


def test_a_class_that_never_comes_has_no_response():
    sums = NextTokenSums(4, 1)
    sums.update_(torch.tensor([[1.0], [2.0]]), torch.tensor([0, 1]))
    members_VR = torch.tensor([[False], [False], [True], [False]])
    found = next_token_response(
        count_V=sums.count_V,
        total_VR=sums.total_VR,
        squares_R=sums.squares_R,
        members_VR=members_VR,
    )
    assert bool(found.inside_R.isnan()) and bool(found.correlation_R.isnan())
    assert float(found.outside_R) == 1.5


def test_counts_and_percentiles_by_layer():
    flag_N = torch.tensor([True, False, True, True, False, False])
    counts_SL = torch.stack([counts_by_layer(flag_N, 2), counts_by_layer(~flag_N, 2)])
    assert counts_SL.tolist() == [[2, 1], [1, 2]]
    spread = spread_over_seeds(counts_SL)
    assert spread["mean"].tolist() == [1.5, 1.5] and spread["minimum"].tolist() == [1, 1]
    assert spread["maximum"].tolist() == [2, 2]
    assert spread["deviation"].tolist() == pytest.approx([np.std([1, 2], ddof=1)] * 2)
    assert bool(spread_over_seeds(counts_SL[:1])["deviation"].isnan().all())
    values_N = drawn(30)
    values_N[3] = torch.nan
    expected = np.nanpercentile(values_N.view(3, 10).numpy(), [5, 50, 95], axis=1).T
    np.testing.assert_allclose(percentiles_by_layer(values_N, 3, (5.0, 50.0, 95.0)), expected)
