"""The largest tokens of each neuron, ties and all, however the tokens come.

Shapes: T tokens, D neurons, K examples.
"""

import hypothesis
import hypothesis.strategies as st
import torch

from universal_ray.maths.statistics.examples import Examples, merge_examples

thoroughly = hypothesis.settings(max_examples=100, deadline=None, database=None, derandomize=True)


def expected(x_TD: torch.Tensor, token_T: torch.Tensor, count: int) -> list[list[tuple]]:
    """By sorting pairs of value and token in Python."""
    pairs = [list(zip(x_T.tolist(), token_T.tolist(), strict=True)) for x_T in x_TD.T]
    none = [(-torch.inf, -1)] * count
    return [(sorted(each, key=lambda pair: (-pair[0], pair[1])) + none)[:count] for each in pairs]


def pairs(found: Examples) -> list[list[tuple]]:
    values, tokens = found.value_DK.tolist(), found.token_DK.tolist()
    return [list(zip(*each, strict=True)) for each in zip(values, tokens, strict=True)]


def draw_tokens(data) -> tuple[torch.Tensor, torch.Tensor]:
    """Few values, so that there are many ties; tokens with gaps."""
    tokens = sorted(data.draw(st.sets(st.integers(0, 60), min_size=1, max_size=40)))
    values = st.lists(st.sampled_from([-0.1, 0.0, 1.0, 2.0]), min_size=2, max_size=2)
    x_TD = data.draw(st.lists(values, min_size=len(tokens), max_size=len(tokens)))
    return torch.tensor(x_TD), torch.tensor(tokens)


@thoroughly
@hypothesis.given(st.data(), st.integers(1, 12), st.integers(1, 15))
def test_streamed_in_batches_of_any_size(data, count, batch):
    x_TD, token_T = draw_tokens(data)
    found = Examples.none(2, count)
    for x_PD, token_P in zip(x_TD.split(batch), token_T.split(batch), strict=True):
        found.update_(x_PD, token_P)
    assert pairs(found) == expected(x_TD, token_T, count)


@thoroughly
@hypothesis.given(st.data(), st.integers(1, 12), st.randoms(use_true_random=False))
def test_disjoint_parts_in_any_order(data, count, random):
    x_TD, token_T = draw_tokens(data)
    parts = []
    for x_PD, token_P in zip(x_TD.split(7), token_T.split(7), strict=True):
        parts.append(Examples.none(2, count))
        parts[-1].update_(x_PD, token_P)
    random.shuffle(parts)
    assert pairs(merge_examples(parts)) == expected(x_TD, token_T, count)


def test_where_there_is_no_example_there_is_no_place():
    found = Examples.none(1, 3)
    found.update_(torch.tensor([[2.0], [5.0]]), torch.tensor([7, 12]))
    row_DK, position_DK = found.place(context=5)
    assert row_DK.tolist() == [[2, 1, -1]] and position_DK.tolist() == [[2, 2, -1]]
