"""Best partners and one-to-one matchings against brute force over all there are.

Shapes: R and C neurons of two layers.
"""

from itertools import combinations, permutations

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import torch

from universal_ray.maths.similarity.matching import (
    assign,
    assign_lists,
    assign_partly,
    best,
    mutual,
)

quickly = hypothesis.settings(max_examples=25, deadline=None, database=None, derandomize=True)
shapes = st.tuples(st.integers(1, 4), st.integers(1, 4))
seeds = st.integers(0, 2**16)


def correlations(shape, seed):
    return torch.from_numpy(np.random.default_rng(seed).uniform(-1, 1, shape))


def partial_matchings(rows, columns):
    """Every one-to-one matching of some rows with some columns, as pairs."""
    for size in range(min(rows, columns) + 1):
        for own in combinations(range(rows), size):
            for other in permutations(range(columns), size):
                yield list(zip(own, other, strict=True))


def largest_sum(worth_RC, full=False):
    size = min(worth_RC.shape)
    return max(
        sum(float(worth_RC[pair]) for pair in pairs)
        for pairs in partial_matchings(*worth_RC.shape)
        if len(pairs) == size or not full
    )


def one_to_one(pairs_2P):
    return all(len(set(side)) == len(side) for side in pairs_2P.tolist())


@quickly
@hypothesis.given(shape=shapes, seed=seeds)
def test_the_matching_has_the_largest_sum_of_all(shape, seed):
    r_RC = correlations(shape, seed)
    rows, columns = assign(r_RC)
    assert one_to_one(torch.stack([rows, columns])) and len(rows) == min(shape)
    assert float(r_RC[rows, columns].sum()) == pytest.approx(largest_sum(r_RC, full=True))


@quickly
@hypothesis.given(shape=shapes, seed=seeds, worth=st.floats(-0.5, 0.9))
def test_what_may_stay_alone_does_where_pairs_are_worth_nothing(shape, seed, worth):
    r_RC = correlations(shape, seed)
    pairs_2P = assign_partly(r_RC, worth)
    assert one_to_one(pairs_2P)
    gains_P = r_RC[pairs_2P[0], pairs_2P[1]] - worth
    assert (gains_P > 0).all()
    assert float(gains_P.sum()) == pytest.approx(largest_sum(r_RC - worth), abs=1e-12)


def lists(r_RC, count):
    """The best of every row, descending, as tables have them; those that are none are -inf."""
    top = torch.sort(r_RC, dim=1, descending=True)
    return top.values[:, :count], top.indices[:, :count]


@quickly
@hypothesis.given(shape=shapes, seed=seeds, count=st.integers(1, 4))
def test_of_lists_of_the_best_the_matching_has_the_largest_sum(shape, seed, count):
    r_RC = correlations(shape, seed)
    if seed % 3 == 0:
        r_RC[0] = -torch.inf  # a neuron without correlations
    sides = lists(r_RC, count), lists(r_RC.T, count)
    pairs_2P, r_P = assign_lists(*sides)
    assert one_to_one(pairs_2P) and (r_P > 0).all()
    torch.testing.assert_close(r_P, r_RC[pairs_2P[0], pairs_2P[1]], rtol=0, atol=0)
    listed_RC = torch.full_like(r_RC, -torch.inf)
    listed_RC.scatter_(1, sides[0][1], sides[0][0])
    listed_RC.T.scatter_(1, sides[1][1], sides[1][0])
    assert float(r_P.sum()) == pytest.approx(largest_sum(listed_RC), abs=1e-12)


def test_a_shuffled_layer_is_found_again():
    r_RC = correlations((40, 40), 1) * 0.3
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    r_RC[torch.arange(40), order] = 0.9
    for rows, columns in (assign(r_RC), assign_partly(r_RC, 0.5),
                          assign_lists(lists(r_RC, 5), lists(r_RC.T, 5))[0]):  # fmt: skip
        assert columns[rows.argsort()].tolist() == order.tolist()
    assert best(r_RC) == pytest.approx((0.9, 0.9)) and mutual(r_RC) == (1, 1)


def test_best_and_mutual_partners_are_told_of_either_side():
    r_RC = torch.tensor([[0.9, 0.1, 0.2], [0.8, 0.3, 0.0]]).double()
    assert best(r_RC) == pytest.approx(((0.9 + 0.8) / 2, (0.9 + 0.3 + 0.2) / 3))
    assert mutual(r_RC) == (1 / 2, 1 / 3)
