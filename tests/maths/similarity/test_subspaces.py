"""Measures of subspaces from sums, against float64 computations on the activations themselves.

Shapes: T tokens, D and E neurons of two layers.
"""

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import scipy.linalg
import torch

from universal_ray.maths.similarity import subspaces
from universal_ray.maths.similarity.measures import (
    OF_SUBSPACES,
    Beside,
    by_chance,
    measured,
)

TOKENS = 400
quickly = hypothesis.settings(max_examples=15, deadline=None, database=None, derandomize=True)
seeds = st.integers(0, 2**16)


def layers(seed=0, widths=(7, 5), tokens=TOKENS):
    """Two layers that share some causes, of neurons of unlike scales with means far from 0."""
    rng = np.random.default_rng(seed)
    cause_TC = rng.exponential(1, (tokens, 4))
    return [
        (cause_TC @ rng.standard_normal((4, width)) + rng.standard_normal((tokens, width)))
        * 10 ** np.linspace(-0.3, 0.3, width) + 3
        for width in widths
    ]  # fmt: skip


def sums(x_TD, y_TE):
    x, y = (torch.from_numpy(v - v.mean(0)) for v in (x_TD, y_TE))
    return Beside(
        n=float(len(x)), cross_DE=x.T @ y, squares_D=(x * x).sum(0), squares_E=(y * y).sum(0),
        left_DD=x.T @ x, right_EE=y.T @ y,
    )  # fmt: skip


def values(x_TD, y_TE, names=OF_SUBSPACES):
    found_2X = measured(names, sums(x_TD, y_TE), {}, 0.0)
    return {name: found_2X[:, place].tolist() for place, name in enumerate(names)}


def principal(x_TD, share):
    """Scores of the components that hold a share of the variance."""
    u, s, _ = np.linalg.svd(x_TD - x_TD.mean(0), full_matrices=False)
    kept = int(np.searchsorted((s**2).cumsum() / (s**2).sum(), share)) + 1
    return (u * s)[:, :kept]


def canonical(x_TP, y_TQ):
    """Canonical correlations, and variates [T, R] of both, of unit length."""
    (q, _), (p, _) = np.linalg.qr(x_TP), np.linalg.qr(y_TQ)
    u, r, vt = np.linalg.svd(q.T @ p, full_matrices=False)
    return r, q @ u, p @ vt.T


def truth(x_TD, y_TE):
    """Of the activations, by other ways than sums of neurons: kernels of tokens, least squares."""
    x, y = x_TD - x_TD.mean(0), y_TE - y_TE.mean(0)
    kernel_TT, other_TT = x @ x.T, y @ y.T
    cka = (kernel_TT * other_TT).sum() / np.sqrt((kernel_TT**2).sum() * (other_TT**2).sum())
    svcca = canonical(principal(x, subspaces.LEADING), principal(y, subspaces.LEADING))[0].mean()
    r, left_TR, right_TR = canonical(x, y)
    weights = [np.abs(h.T @ v).sum(1) for h, v in ((left_TR, x), (right_TR, y))]
    _, scale = scipy.linalg.orthogonal_procrustes(
        np.pad(x, ((0, 0), (0, max(0, y.shape[1] - x.shape[1])))),
        np.pad(y, ((0, 0), (0, max(0, x.shape[1] - y.shape[1])))),
    )
    procrustes = scale / np.linalg.norm(x) / np.linalg.norm(y)
    explained = [
        1 - ((b - a @ np.linalg.lstsq(a, b)[0]) ** 2).sum() / (b**2).sum()
        for a, b in ((x, y), (y, x))
    ]
    return {
        "cka": [cka] * 2, "svcca": [svcca] * 2, "procrustes": [procrustes] * 2,
        "pwcca": [(w * r).sum() / w.sum() for w in weights], "regression": explained,
    }  # fmt: skip


@pytest.mark.parametrize("widths", [(7, 5), (5, 7), (6, 6)])
def test_sums_give_what_the_activations_give(widths):
    x_TD, y_TE = layers(1, widths)
    found, true = values(x_TD, y_TE), truth(x_TD, y_TE)
    assert found.keys() == true.keys()
    for name in true:
        np.testing.assert_allclose(found[name], true[name], rtol=1e-9, err_msg=name)
        assert 0.05 < found[name][0] < 0.999, name


def orthogonal(width, seed):
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((width, width)))[0]


@quickly
@hypothesis.given(seed=seeds, scale=st.floats(0.1, 10))
def test_rotations_and_scales_change_nothing(seed, scale):
    x_TD, y_TE = layers(seed % 7)
    turned = [v @ orthogonal(v.shape[1], seed + place) * scale + 1
              for place, v in enumerate((x_TD, y_TE))]  # fmt: skip
    before, after = values(x_TD, y_TE), values(*turned)
    for name in set(OF_SUBSPACES) - {"pwcca"}:  # whose weights are of the neurons
        np.testing.assert_allclose(after[name], before[name], rtol=1e-8, err_msg=name)


@quickly
@hypothesis.given(seed=seeds)
def test_a_layer_is_its_own_and_its_rotations_equal(seed):
    x_TD, _ = layers(seed % 7)
    for other_TE in (x_TD, x_TD @ orthogonal(x_TD.shape[1], seed)):
        for name, both in values(x_TD, other_TE).items():
            np.testing.assert_allclose(both, 1, rtol=1e-9, err_msg=name)


@quickly
@hypothesis.given(seed=seeds)
def test_what_is_explained_is_so_by_any_invertible_map_of_what_explains(seed):
    x_TD, y_TE = layers(seed % 7)
    map_DD = orthogonal(x_TD.shape[1], seed) * np.linspace(0.7, 1.4, x_TD.shape[1])
    before, after = values(x_TD, y_TE), values(x_TD @ map_DD, y_TE)
    np.testing.assert_allclose(after["regression"][0], before["regression"][0], rtol=1e-8)
    assert abs(after["regression"][1] - before["regression"][1]) > 1e-6


def test_both_directions_are_those_of_the_layers_exchanged():
    x_TD, y_TE = layers(3)
    found, turned = values(x_TD, y_TE), values(y_TE, x_TD)
    for name, both in found.items():
        np.testing.assert_allclose(both[::-1], turned[name], rtol=1e-9, err_msg=name)
    assert found["regression"][0] != pytest.approx(found["regression"][1], rel=1e-3)


def test_what_chance_gives_is_what_tokens_in_any_order_give():
    """Nothing is drawn of the tokens: mean and spread follow from the sums."""
    x_TD, y_TE = layers(2, tokens=150)
    rng, orders = np.random.default_rng(0), 100
    drawn = by_chance(OF_SUBSPACES, sums(x_TD, y_TE), ([], []), worth=0.0, draws=orders, seed="s")
    shuffled = [values(x_TD, y_TE[rng.permutation(150)]) for _ in range(orders)]
    for place, name in enumerate(OF_SUBSPACES):
        true_K2 = np.array([each[name] for each in shuffled])
        found_2K = drawn[:, place].numpy()
        for side in (0, 1):
            mean, spread = true_K2[:, side].mean(), true_K2[:, side].std()
            assert found_2K[side].mean() == pytest.approx(mean, abs=5 * spread / orders**0.5), name
            assert found_2K[side].std() == pytest.approx(spread, rel=0.35), name
            assert values(x_TD, y_TE)[name][side] > mean + 4 * spread, name


def test_draws_follow_from_what_they_are_of_and_from_nothing_else():
    beside = sums(*layers(0))

    def drawn(seed):
        return by_chance(OF_SUBSPACES, beside, ([], []), worth=0.0, draws=3, seed=seed)

    torch.testing.assert_close(drawn("a"), drawn("a"), rtol=0, atol=0)
    for one_2K, other_2K in zip(drawn("a").unbind(1), drawn("b").unbind(1), strict=True):
        assert (one_2K != other_2K).all() and one_2K.unique(dim=1).shape[1] == 3


def test_where_tokens_are_fewer_than_components_what_inverts_them_has_no_value():
    x_TD, y_TE = layers(0, widths=(8, 8), tokens=12)
    found = values(x_TD, y_TE)
    none = {name for name, both in found.items() if np.isnan(both).all()}
    assert none == {"svcca", "pwcca", "regression"}
    drawn = by_chance(OF_SUBSPACES, sums(x_TD, y_TE), ([], []), worth=0.0, draws=2, seed="s")
    assert drawn.isnan().all(2).all(0).tolist() == [name in none for name in OF_SUBSPACES]


def test_a_layer_without_neurons_has_no_value():
    beside = sums(np.zeros((9, 0)), layers(0, tokens=9)[1])
    assert measured(OF_SUBSPACES, beside, {}, 0.0).isnan().all()
    assert by_chance(OF_SUBSPACES, beside, ([], []), worth=0.0, draws=2, seed="s").isnan().all()


def test_components_below_what_sums_of_float32_resolve_do_not_count():
    x_TD, y_TE = layers(4)
    faint_T1 = 1e-4 * y_TE[:, :1]  # would be explained in full
    both = values(np.hstack([x_TD, faint_T1]), y_TE)["regression"]
    np.testing.assert_allclose(both[0], values(x_TD, y_TE)["regression"][0], rtol=1e-5)
