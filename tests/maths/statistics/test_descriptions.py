"""Descriptions on made-up tokens: planted ones are found, scores are those of plain definitions.

Shapes: T tokens, D neurons, F features, V ids.
"""

import numpy as np
import pytest
import torch

from universal_ray.maths.statistics.descriptions import (
    AND,
    NONE,
    NOT,
    OR,
    correlated,
    fit,
    nothing,
    own_sets,
    says,
    score,
)

TOKENS, IDS, FEATURES = 1200, 40, 12
RNG = np.random.default_rng(0)


def made_up() -> tuple[torch.Tensor, torch.Tensor]:
    """Labels [T, F] at random, ids of tokens and of those before [T, 2]."""
    label_TF = torch.from_numpy(RNG.random((TOKENS, FEATURES)) < 0.3)
    id_T = torch.from_numpy(RNG.integers(0, IDS, TOKENS))
    before_T = id_T.roll(1)
    before_T[::30] = NONE
    return label_TF, torch.stack([id_T, before_T], dim=1)


LABELS, ID_PAIRS = made_up()
A, B = LABELS[:, 3], LABELS[:, 7]
WITHIN = torch.isin(ID_PAIRS, torch.tensor([5, 9, 11]))
PLANTED = {
    "a feature": A,
    "a union": A | B,
    "an intersection": A & B,
    "an exception": A & ~B,
    "ids": WITHIN[:, 0],
    "ids before": WITHIN[:, 1],
    "ids or a feature": WITHIN[:, 0] | B,
}


def noisy(in_T: torch.Tensor) -> torch.Tensor:
    noise_T = torch.from_numpy(RNG.normal(0, 0.2, TOKENS)).float()
    return in_T.float() + noise_T


X_TD = torch.stack([noisy(each) for each in PLANTED.values()], dim=1)
HALF = slice(0, TOKENS // 2)
REST = slice(TOKENS // 2, None)


def test_planted_descriptions_are_found_on_one_half_and_hold_on_the_other():
    found = fit(X_TD[HALF], LABELS[HALF], ID_PAIRS[HALF], IDS)
    said_TD = says(found, LABELS, ID_PAIRS, IDS)
    for place, (name, in_T) in enumerate(PLANTED.items()):
        assert torch.equal(said_TD[:, place], in_T), name
    joins = {name: found.join_DK[place, 1] for place, name in enumerate(PLANTED)}
    assert joins["a union"] == OR and joins["an intersection"] == AND
    assert joins["an exception"] == NOT
    assert found.term_DK[0].tolist() == [3, NONE, NONE]
    assert found.term_DK[4].tolist() == [FEATURES, NONE, NONE]
    assert found.term_DK[5, 0] == FEATURES + 1
    ids = found.ids_D2J[4, 0]
    assert set(ids[ids != NONE].tolist()) == {5, 9, 11}
    for place, in_T in enumerate(PLANTED.values()):
        expected = np.corrcoef(in_T[HALF].double(), X_TD[HALF, place].double())[0, 1]
        assert float(found.correlation_D[place]) == pytest.approx(expected, abs=1e-12)


def average_precision(x_T: np.ndarray, in_T: np.ndarray) -> float:
    """By its definition: over thresholds at every distinct activation."""
    total, recall = 0.0, 0.0
    for threshold in np.unique(x_T)[::-1]:
        fires_T = x_T >= threshold
        hits = (fires_T & in_T).sum()
        total += (hits / in_T.sum() - recall) * hits / fires_T.sum()
        recall = hits / in_T.sum()
    return total


def test_scores_are_by_their_definitions_ties_among_activations_too():
    x_TD = torch.round(X_TD * 4) / 4
    in_TD = torch.stack([*PLANTED.values()], dim=1).roll(3, dims=1)
    threshold_D = torch.full((len(PLANTED),), 0.5, dtype=torch.float64)
    found = score(x_TD, in_TD, threshold_D)
    for place in range(len(PLANTED)):
        x_T, in_T = x_TD[:, place].double().numpy(), in_TD[:, place].numpy()
        assert float(found.pearson_D[place]) == pytest.approx(np.corrcoef(x_T, in_T)[0, 1])
        assert float(found.auprc_D[place]) == pytest.approx(average_precision(x_T, in_T))
        both, either = ((x_T >= 0.5) & in_T).sum(), (x_T >= 0.5).sum() + in_T.sum()
        assert float(found.f1_D[place]) == pytest.approx(2 * both / either)
        sums_5 = torch.tensor(
            [len(x_T), in_T.sum(), x_T.sum(), (x_T**2).sum(), (in_T * x_T).sum()]
        )
        r = float(correlated(sums_5.double()[:, None]))
        assert r == pytest.approx(float(found.pearson_D[place]), abs=1e-9)


def test_the_threshold_is_the_one_of_the_best_f1():
    found = fit(X_TD[HALF], LABELS[HALF], ID_PAIRS[HALF], IDS)
    for place, in_T in enumerate(PLANTED.values()):
        x_T = X_TD[HALF, place].double()
        best = max(
            2 * float(((x_T >= t) & in_T[HALF]).sum()) / float((x_T >= t).sum() + in_T[HALF].sum())
            for t in x_T
        )
        at = score(X_TD[HALF, place : place + 1], in_T[HALF][:, None], found.threshold_D[[place]])
        assert float(at.f1_D[0]) == pytest.approx(best)


def test_what_does_not_vary_or_is_noise_has_no_description_that_holds():
    noise_T = torch.from_numpy(RNG.normal(0, 1, TOKENS)).float()
    x_TD = torch.stack([torch.full((TOKENS,), -0.17), noise_T], dim=1)
    found = fit(x_TD[HALF], LABELS[HALF], ID_PAIRS[HALF], IDS)
    assert (found.term_DK[0] == NONE).all() and found.correlation_D[0].isnan()
    said_TD = says(found, LABELS[REST], ID_PAIRS[REST], IDS)
    scores = score(x_TD[REST], said_TD, found.threshold_D)
    assert scores.pearson_D[0].isnan()
    assert float(found.correlation_D[1]) > 0.1 > float(scores.pearson_D[1])


def test_of_ids_that_are_hardly_seen_there_is_no_set():
    x_TD = torch.linspace(-1, 1, 40, dtype=torch.float64)[:, None]
    found = own_sets(x_TD, torch.arange(40), 40, (x_TD**2).sum(0))
    assert (found == NONE).all() and len(found) == 1


def test_no_description_says_nothing():
    found = nothing(2)
    assert not says(found, LABELS, ID_PAIRS, IDS).any()
    assert found.correlation_D.isnan().all() and found.threshold_D.isnan().all()
