"""The permutations that the shifted baseline is made of."""

import numpy as np
import pytest
import torch

from universal_ray.maths.moments.shift import partners, unlike


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


@pytest.mark.parametrize("alone", [0, 3, 7])
def test_one_token_that_is_alone_at_its_position_changes_places_with_another(alone):
    kept_BP = torch.ones(4, 8, dtype=torch.bool)
    kept_BP[:, alone] = False
    kept_BP[2, alone] = True
    for draw in range(6):
        order_T = partners(kept_BP, f"0.{draw}")
        own_T = order_T == torch.arange(32)
        assert sorted(order_T.tolist()) == list(range(32))
        assert torch.equal(own_T, ~kept_BP.flatten())
        moved_T = (order_T % 8 != torch.arange(32) % 8) & kept_BP.flatten()
        assert moved_T.sum() == 2  # it, and the one that it is beside
    only_BP = torch.zeros(4, 8, dtype=torch.bool)
    only_BP[2, alone] = True
    assert torch.equal(partners(only_BP, "0.0"), torch.arange(32))


def test_no_draw_leaves_any_token_where_it_is_whatever_it_rounds_to(monkeypatch):
    from universal_ray.maths.moments import shift

    monkeypatch.setattr(shift, "_part", lambda drawn: 1 - 2.0**-40)  # 1 in float32
    for rows in (2, 3, 8):
        order_T = partners(torch.ones(rows, 2, dtype=torch.bool), "0.0")
        assert not (order_T == torch.arange(2 * rows)).any()


def test_how_many_draws_are_unlike_is_that_of_their_permutations():
    drawn = [f"5.{draw}" for draw in range(9)]
    for rows in (2, 3, 5, 8, 40):
        kept_BP = torch.ones(rows, 3, dtype=torch.bool)
        orders = {tuple(partners(kept_BP, each).tolist()) for each in drawn}
        assert unlike(rows, drawn) == len(orders) <= min(rows - 1, 9)
    assert unlike(40, drawn) == 9


def test_where_no_token_counts_nothing_moves():
    order_T = partners(torch.zeros(3, 5, dtype=torch.bool), "0.0")
    assert order_T.tolist() == list(range(15))
