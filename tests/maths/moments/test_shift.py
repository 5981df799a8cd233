"""The permutations that the shifted baseline is made of."""

import numpy as np
import pytest
import torch

from universal_ray.maths.moments.shift import partners


def kept(seed: int, rows: int, positions: int, share: float) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).random((rows, positions)) < share)


@pytest.mark.parametrize("share", [1.0, 0.8, 0.3])
@pytest.mark.parametrize("rows", [1, 2, 7, 8])
def test_tokens_that_count_are_permuted_and_stay_at_their_position(rows, share):
    kept_BP = kept(rows, rows, 40, share)
    kept_T = kept_BP.flatten()
    several_T = (kept_BP.sum(0) > 1)[torch.arange(40).repeat(rows)] & kept_T
    for draw in range(5):
        order_T = partners(kept_BP, f"3.{draw}")
        assert sorted(order_T.tolist()) == list(range(rows * 40))
        own_T = order_T == torch.arange(rows * 40)
        assert bool(own_T[~kept_T].all()) and not bool(own_T[kept_T].any())
        assert bool(kept_T[order_T[kept_T]].all())
        assert bool((order_T[several_T] % 40 == torch.arange(rows * 40)[several_T] % 40).all())


def test_draws_and_seeds_are_unlike_and_the_same_again():
    kept_BP = kept(0, 32, 8, 1.0)
    orders = [partners(kept_BP, f"{seed}.{draw}") for seed in (0, 1) for draw in range(5)]
    assert len({tuple(order.tolist()) for order in orders}) == 10
    assert torch.equal(orders[0], partners(kept_BP, "0.0"))


def test_where_no_token_counts_nothing_moves():
    order_T = partners(torch.zeros(3, 5, dtype=torch.bool), "0.0")
    assert order_T.tolist() == list(range(15))
