"""The shifted baseline: tokens of one model beside other tokens of another.

Rows of one model meet other rows of the other at the same position, so that what two units owe to
frequency, sparsity and position stays, and what they owe to the text goes. Every draw permutes the
tokens that count, and so leaves n, means and variances of every unit as they are: r follows from
the cross sums alone.

Shapes: B rows of a batch, P positions, T = B * P tokens, X tokens that count.
"""

import hashlib
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Int
from torch import Tensor

SHIFTED = "shifted"
APART = 0.6180339887498949
"""Draws are this part of all rows apart: of any number of them none lie close to each other."""


def partners(kept_BP: Bool[Tensor, "B P"], drawn: str) -> Int[Tensor, "T"]:
    """The token whose values stand beside each token's in one draw ("seed.number"), of the same
    position where that counts in another row of the batch. Tokens that do not count are their own.

    Tokens that are alone at their position go half their number on among themselves, in every draw;
    a single such token has its place with that of one half of all on. So no token that counts is
    its own but one without any other in its batch.
    """
    rows, positions = kept_BP.shape
    order_T = torch.arange(rows * positions)
    # position by position, and row by row within
    at_X, row_X = kept_BP.T.nonzero(as_tuple=True)
    token_X = row_X * positions + at_X
    count_P = kept_BP.sum(0)
    first_P = count_P.cumsum(0) - count_P
    count_X, first_X = count_P[at_X], first_P[at_X]
    step_X = _step(drawn, count_X)
    rank_X = torch.arange(len(token_X)) - first_X
    order_T[token_X] = token_X[first_X + (rank_X + step_X) % count_X]
    alone_X = token_X[count_X == 1]
    order_T[alone_X] = alone_X.roll(-((len(alone_X) + 1) // 2))
    if len(alone_X) == 1:
        place = int((count_X == 1).nonzero()) + len(token_X) // 2
        other = token_X[place % len(token_X)]
        order_T[alone_X], order_T[other] = order_T[other].clone(), order_T[alone_X].clone()
    return order_T


def unlike(rows: int, drawn: Sequence[str]) -> int:
    """How many of some draws are not the same in a batch of so many rows."""
    return len({int(_step(each, torch.tensor([rows]))) for each in drawn})


def _step(drawn: str, count_X: Int[Tensor, "X"]) -> Int[Tensor, "X"]:
    """How many of the rows that count at a position each goes on, never all or none of several."""
    step_X = 1 + (_part(drawn) * (count_X - 1)).floor().long()
    return step_X.minimum((count_X - 1).clamp_min(1))  # float32 may round up to all


def _part(drawn: str) -> float:
    """From 0 up to 1, of a draw: how many of the other rows it goes on."""
    seed, _, draw = drawn.rpartition(".")
    start = int.from_bytes(hashlib.sha256(f"shifted {seed}".encode()).digest()[:4], "little")
    return (start / 2**32 + APART * int(draw)) % 1
