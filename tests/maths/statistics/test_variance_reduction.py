"""Scores from sums against a group-by in float64, and every way in which there is none.

Shapes: T tokens, F features, N neurons.
"""

import numpy as np
import pytest
import torch
from torch import Tensor

from universal_ray.errors import NumericalError
from universal_ray.maths.statistics.variance_reduction import (
    DEAD_NEURON,
    NO_TOKENS,
    ONE_CLASS,
    RARE,
    score,
)

TOKENS = 4000


def activations(seed: int = 0, shift: float = 0.0) -> np.ndarray:
    """GELU-like values, scales spread over a factor of 100; the last neuron never varies."""
    rng = np.random.default_rng(seed)
    values_TN = np.maximum(rng.standard_normal((TOKENS, 6)) - 0.5, -0.17) * np.geomspace(0.1, 10, 6)
    values_TN[:, -1] = 0.7
    return values_TN + shift


def features(seed: int = 0) -> np.ndarray:
    """From rare to common, one that follows a neuron, none and all."""
    rng = np.random.default_rng(seed + 1)
    columns = [rng.random(TOKENS) < share for share in (0.01, 0.2, 0.9)]
    columns += [activations(seed)[:, 2] > 0.3, np.zeros(TOKENS, bool), np.ones(TOKENS, bool)]
    columns += [np.arange(TOKENS) < 29, np.arange(TOKENS) >= 29, np.arange(TOKENS) < 30]
    return np.stack(columns, axis=1)


def sums(f_TF: np.ndarray, x_TN: np.ndarray) -> dict[str, Tensor]:
    f_TF = f_TF.astype(float)
    found = {
        "f_F": f_TF.sum(0), "x_N": x_TN.sum(0), "xx_N": (x_TN**2).sum(0), "fx_FN": f_TF.T @ x_TN,
    }  # fmt: skip
    return {name: torch.from_numpy(values) for name, values in found.items()}


def group_by(f_T: np.ndarray, x_T: np.ndarray, ddof: int) -> float:
    """The definition: variances inside the classes, weighted by their shares."""
    share = f_T.mean()
    inside = (1 - share) * x_T[~f_T].var(ddof=ddof) + share * x_T[f_T].var(ddof=ddof)
    return 1 - inside / x_T.var(ddof=ddof)


def scored(minimum: int = 30, shift: float = 0.0):
    f_TF, x_TN = features(), activations(shift=shift)
    return f_TF, x_TN, score(float(TOKENS), **sums(f_TF, x_TN), minimum_support=minimum)


@pytest.mark.parametrize(("shift", "bound"), [(0.0, 1e-12), (100.0, 1e-6)])
def test_variance_reduction_is_the_definition(shift, bound):
    f_TF, x_TN, found = scored(shift=shift)
    for feature in (0, 1, 2, 3, 8):
        for neuron in range(5):
            f_T, x_T = f_TF[:, feature], x_TN[:, neuron]
            assert found.reason(feature, neuron) is None
            reduction = float(found.variance_reduction_FN[feature, neuron])
            assert reduction == pytest.approx(group_by(f_T, x_T, ddof=0), abs=bound)
            assert reduction == pytest.approx(np.corrcoef(f_T, x_T)[0, 1] ** 2, abs=bound)
            difference = float(found.mean_difference_FN[feature, neuron])
            expected = x_T[f_T].mean() - x_T[~f_T].mean()
            assert difference == pytest.approx(expected, rel=1e-9, abs=1e-9)
    assert float(found.variance_reduction_FN[3, 2]) > 0.5  # the one that follows its neuron


def test_the_papers_form_with_sample_variances_is_no_further_than_one_over_the_smaller_class():
    f_TF, x_TN, found = scored()
    for feature in (0, 1, 2, 3, 8):
        smaller = min(f_TF[:, feature].sum(), (~f_TF[:, feature]).sum())
        for neuron in range(5):
            theirs = group_by(f_TF[:, feature], x_TN[:, neuron], ddof=1)
            ours = float(found.variance_reduction_FN[feature, neuron])
            assert 0 < abs(theirs - ours) <= 1 / (smaller - 1)


def test_why_there_is_no_score():
    _, _, found = scored()
    assert found.feature_reasons[4:] == (NO_TOKENS, ONE_CLASS, RARE, RARE, None)
    assert found.reason(0, 5) == DEAD_NEURON and found.reason(4, 5) == NO_TOKENS
    null_FN = np.array([[found.reason(f, n) is not None for n in range(6)] for f in range(9)])
    np.testing.assert_array_equal(found.variance_reduction_FN.isnan(), null_FN)
    np.testing.assert_array_equal(found.mean_difference_FN.isnan(), null_FN)
    np.testing.assert_array_equal(found.support_F, features().sum(0))
    assert found.dead_N.tolist() == [False] * 5 + [True]
    assert scored(minimum=29)[2].feature_reasons[6:] == (None, None, None)


def test_a_neuron_of_zeros_is_dead():
    f_TF = features()
    assert score(float(TOKENS), **sums(f_TF, np.zeros((TOKENS, 1)))).dead_N.tolist() == [True]


def test_a_perfect_detector_scores_one():
    f_TF = features()[:, :3]
    found = score(float(TOKENS), **sums(f_TF, f_TF * 3.0 - 0.1))
    reduction_F = found.variance_reduction_FN.diagonal()
    torch.testing.assert_close(reduction_F, torch.ones(3, dtype=torch.float64))
    assert (reduction_F <= 1).all()


@pytest.mark.parametrize("wrong", [3.0, float("nan"), float("inf")])
def test_sums_over_other_tokens_are_refused(wrong):
    given = sums(features()[:, :2], activations())
    given["fx_FN"][1, 2] *= wrong * 10
    with pytest.raises(NumericalError, match="over the same tokens"):
        score(float(TOKENS), **given)


def test_one_hot_members_give_the_scores_of_labels():
    """Features of the id: sums by id and membership say what labels of every token say."""
    rng = np.random.default_rng(3)
    ids_T, member_VF = rng.integers(0, 50, TOKENS), rng.random((50, 4)) < 0.3
    x_TN = activations()
    by_id_VN = np.zeros((50, 6))
    np.add.at(by_id_VN, ids_T, x_TN)
    given = sums(member_VF[ids_T], x_TN)
    torch.testing.assert_close(torch.from_numpy(member_VF.T @ by_id_VN), given["fx_FN"])
    counted_F = torch.from_numpy(member_VF.T @ np.bincount(ids_T, minlength=50)).double()
    torch.testing.assert_close(counted_F, given["f_F"])
    given["f_F"] = counted_F
    assert score(float(TOKENS), **given).feature_reasons == (None,) * 4
