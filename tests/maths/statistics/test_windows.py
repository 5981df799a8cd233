"""Windows around largest activations, at quantiles and at random, however the rows come.

Shapes: B rows, P positions, T tokens, D neurons, K windows, W tokens of a window.
"""

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import torch

from universal_ray.maths.statistics.windows import (
    Peaks,
    at_quantiles,
    drawn,
    merge_peaks,
    starts,
)

thoroughly = hypothesis.settings(max_examples=60, deadline=None, database=None, derandomize=True)
POSITIONS, WINDOW = 6, 3


def expected(x_BPD: torch.Tensor, kept_BP: torch.Tensor, count: int) -> list[list[tuple]]:
    """Row, focus, value and window of each peak, by sorting in Python."""
    found = []
    for neuron in range(x_BPD.shape[2]):
        peaks = []
        for row, (x_P, kept_P) in enumerate(zip(x_BPD[:, :, neuron], kept_BP, strict=True)):
            there = [(-float(x_P[p]), row, p) for p in range(POSITIONS) if kept_P[p]]
            peaks += [min(there)] if there else []
        told = []
        for value, row, focus in sorted(peaks)[:count]:
            start = min(max(focus - WINDOW // 2, 0), POSITIONS - WINDOW)
            window = x_BPD[row, start : start + WINDOW, neuron].tolist()
            told.append((row, focus, -value, tuple(window)))
        found.append(told + [(-1, -1, -torch.inf, None)] * (count - len(told)))
    return found


def told(peaks: Peaks) -> list[list[tuple]]:
    lists = (peaks.row_DK, peaks.focus_DK, peaks.value_DK, peaks.window_DKW)
    return [
        [(*one, tuple(window) if one[0] >= 0 else None) for *one, window in zip(*each, strict=True)]
        for each in zip(*(x.tolist() for x in lists), strict=True)
    ]


def draw_rows(data) -> tuple[torch.Tensor, torch.Tensor]:
    """Few values, so that there are many ties; rows in which no token counts among them."""
    rows = data.draw(st.integers(1, 12))
    seed = data.draw(st.integers(0, 1 << 30))
    rng = np.random.default_rng(seed)
    x_BPD = rng.choice([-0.5, 0.0, 1.0, 2.0], (rows, POSITIONS, 2))
    kept_BP = rng.random((rows, POSITIONS)) < data.draw(st.sampled_from([0.2, 0.9]))
    return torch.from_numpy(x_BPD).float(), torch.from_numpy(kept_BP)


@thoroughly
@hypothesis.given(st.data(), st.integers(1, 5), st.integers(1, 12))
def test_peaks_streamed_in_batches_of_any_size(data, count, batch):
    x_BPD, kept_BP = draw_rows(data)
    peaks = Peaks.none(2, count, WINDOW)
    for first in range(0, len(x_BPD), batch):
        peaks.update_(x_BPD[first : first + batch], kept_BP[first : first + batch], first)
    assert told(peaks) == expected(x_BPD, kept_BP, count)


@thoroughly
@hypothesis.given(st.data(), st.integers(1, 5), st.integers(1, 12))
def test_peaks_of_disjoint_rows_merge(data, count, shard):
    x_BPD, kept_BP = draw_rows(data)
    parts = []
    for first in range(0, len(x_BPD), shard):
        parts.append(Peaks.none(2, count, WINDOW))
        parts[-1].update_(x_BPD[first : first + shard], kept_BP[first : first + shard], first)
    assert told(merge_peaks(parts)) == expected(x_BPD, kept_BP, count)


def test_windows_have_context_on_both_sides_but_at_the_ends_of_their_row():
    assert starts(torch.tensor([0, 15, 16, 17, 100, 127]), 32, 128).tolist() == [0, 0, 0, 1, 84, 96]


def test_quantiles_are_of_positive_activations_that_count():
    rng = torch.Generator().manual_seed(0)
    x_TD = torch.randn(400, 6, generator=rng)
    x_TD[:, 4] = -1
    x_TD[:, 5] = torch.where(torch.arange(400) < 3, x_TD[:, 5].abs(), -1)
    kept_T = torch.rand(400, generator=rng) < 0.7
    kept_T[:3] = True
    found_DK = at_quantiles(x_TD, kept_T, 8)
    for neuron in range(4):
        x_T = x_TD[:, neuron].numpy()
        positive = np.sort(x_T[(x_T > 0) & kept_T.numpy()])
        shares = (np.arange(8) + 0.5) / 8
        np.testing.assert_array_equal(
            x_T[found_DK[neuron]], np.quantile(positive, shares, method="inverted_cdf")
        )
        assert kept_T[found_DK[neuron]].all()
    assert (found_DK[4] == -1).all()
    assert sorted(found_DK[5].tolist()) == [-1] * 5 + [0, 1, 2]


def test_tokens_at_random_are_of_those_that_may_be_and_all_alike():
    among_TD = torch.zeros(50, 3, dtype=torch.bool)
    among_TD[10:14, 0] = True
    among_TD[:, 1] = True
    found_DK = drawn(among_TD, 4000, torch.Generator().manual_seed(0))
    assert (found_DK[2] == -1).all()
    assert set(found_DK[0].tolist()) == {10, 11, 12, 13}
    counts = torch.bincount(found_DK[1], minlength=50)
    assert len(counts) == 50 and counts.min() > 40 and counts.max() < 130
    again_DK = drawn(among_TD, 4000, torch.Generator().manual_seed(0))
    assert torch.equal(found_DK, again_DK)


@pytest.mark.parametrize("sign", [1, -1])
def test_what_is_kept_does_not_change_with_what_it_was_read_from(sign):
    """Activations are the model's own: the next batch may lie where they lay."""
    x_BPD = torch.full((1, POSITIONS, 1), 2.0 * sign)
    peaks = Peaks.none(1, 1, WINDOW)
    peaks.update_(x_BPD, torch.ones(1, POSITIONS, dtype=torch.bool), 0)
    x_BPD.zero_()
    assert peaks.window_DKW.flatten().tolist() == [2.0 * sign] * WINDOW
