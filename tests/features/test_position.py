"""Measures of position against their definitions, and the features of a token's place.

Shapes: B rows, P positions, N neurons.
"""

import math

import numpy as np
import torch
from helpers_taxonomy import make_rows

from universal_ray.features.position import POSITION, tokens_since
from universal_ray.maths.statistics.position import mutual_information, position_variance_explained

ROWS, POSITIONS, NEURONS = 300, 12, 5


def activations() -> np.ndarray:
    """By position: independent, shifted, oscillating, on in the first half alone, never on."""
    values_BPN = np.random.default_rng(0).standard_normal((ROWS, POSITIONS, NEURONS))
    place_P = np.arange(POSITIONS)
    values_BPN[..., 1] += place_P
    values_BPN[..., 2] += np.sin(place_P)
    values_BPN[..., 3] = np.where(place_P < POSITIONS // 2, 1, -1)
    values_BPN[..., 4] = -1
    return values_BPN


def voita(rate_P: list[float]) -> float:
    """The formula, term by term."""
    mean = sum(rate_P) / len(rate_P)

    def term(p: float, q: float) -> float:
        return p * math.log(p / q) if p > 0 else 0.0

    return sum(term(p, mean) + term(1 - p, 1 - mean) for p in rate_P) / len(rate_P)


def test_mutual_information_is_the_formula():
    values_BPN = activations()
    active_PN = torch.from_numpy((values_BPN > 0).sum(0))
    found_N = mutual_information(active_PN.double(), torch.full((POSITIONS,), float(ROWS)))
    rate_PN = (values_BPN > 0).mean(0)
    for neuron in range(4):
        assert math.isclose(found_N[neuron], voita(rate_PN[:, neuron].tolist()), abs_tol=1e-12)
    assert math.isclose(found_N[3], math.log(2), abs_tol=1e-12)
    assert found_N[4] == 0 and found_N[0] < 0.01 < found_N[2]


def test_positions_without_tokens_are_left_out():
    active_PN, n_P = torch.tensor([[3.0], [0.0], [1.0]]), torch.tensor([4.0, 0.0, 4.0])
    assert math.isclose(mutual_information(active_PN, n_P), voita([0.75, 0.25]), abs_tol=1e-12)
    sums_PN, squares_N = torch.tensor([[4.0], [0.0], [-4.0]]), torch.tensor([8.0])
    assert position_variance_explained(sums_PN, n_P, squares_N).tolist() == [1.0]


def test_variance_explained_is_that_of_means_by_position():
    values_BPN = activations()
    n_P = torch.full((POSITIONS,), float(ROWS))
    found_N = position_variance_explained(
        torch.from_numpy(values_BPN.sum(0)), n_P, torch.from_numpy((values_BPN**2).sum((0, 1)))
    )
    expected_N = values_BPN.mean(0).var(0)[:4] / values_BPN.var((0, 1))[:4]
    np.testing.assert_allclose(found_N[:4], expected_N, atol=1e-12)
    assert math.isclose(found_N[3], 1) and found_N[4].isnan()


def test_variance_explained_weighs_positions_by_their_tokens():
    rng = np.random.default_rng(1)
    place_T = rng.integers(0, 4, 900) ** 2 // 3  # unequal numbers of tokens
    x_T = rng.standard_normal(900) + place_T
    n_P = np.bincount(place_T, minlength=4).astype(float)
    sums_P = np.bincount(place_T, x_T, minlength=4)
    means_T = (sums_P / np.maximum(n_P, 1))[place_T]
    found_N = position_variance_explained(
        torch.from_numpy(sums_P)[:, None], torch.from_numpy(n_P), torch.tensor([(x_T**2).sum()])
    )
    assert math.isclose(found_N, means_T.var() / x_T.var(), rel_tol=1e-10)


def test_tokens_since_a_begin():
    begins_T = np.array([0, 1, 0, 0, 1, 1, 0, 0, 0, 1]).astype(bool)
    ends_T = np.array([0, 0, 0, 0, 0, 1, 0, 1, 0, 0]).astype(bool)
    assert tokens_since(begins_T, ends_T).tolist() == [-1, 0, 1, 2, 0, 0, 1, -1, -1, 0]


def test_features_of_the_place():
    rows = make_rows([None, "a", "b", None, None, "c", "d"], ["e", "f", None, "g", "h", "i", "j"])
    found = {f.name: f.labels(rows).reshape(2, 7).astype(int).tolist() for f in POSITION}
    assert found == {
        "row_first": [[1, 0, 0, 0, 0, 0, 0]] * 2,
        "row_third_1": [[1, 1, 1, 0, 0, 0, 0]] * 2,
        "row_third_2": [[0, 0, 0, 1, 1, 0, 0]] * 2,
        "row_third_3": [[0, 0, 0, 0, 0, 1, 1]] * 2,
        "passage_first": [[0, 1, 0, 0, 0, 1, 0], [1, 0, 0, 1, 0, 0, 0]],
    }
