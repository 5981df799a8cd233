"""Top lists, histograms and distribution moments against numpy and scipy, with and without ties.

Shapes: R rows, M columns, K entries of a top list.
"""

from dataclasses import fields
from itertools import pairwise

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import scipy.stats  # type: ignore[import-untyped]
import torch

from universal_ray.maths.moments.row_summary import (
    BINS,
    EDGES,
    RowSummary,
    distribution_moments,
    largest,
    merge_summaries,
    summarise,
)

quickly = hypothesis.settings(
    max_examples=30, deadline=None, database=None, derandomize=True
)

KINDS = {
    "continuous": lambda rng, shape: rng.uniform(-1, 1, shape),
    "tied": lambda rng, shape: rng.choice([-1, -0.5, 0.0, 0.25, 1], shape),
    "equal": lambda rng, shape: np.full(shape, 0.25),
    "tied at the top": lambda rng, shape: np.minimum(rng.uniform(-1, 1, shape), 0.1),
    "tied at the bottom": lambda rng, shape: np.maximum(rng.uniform(-1, 1, shape), -0.1),
}


def correlations(kind: str, rows: int, columns: int, seed: int = 0) -> np.ndarray:
    return KINDS[kind](np.random.default_rng(seed), (rows, columns))


def live_columns(columns: int, share: float, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed + 1).random(columns) < share


def of(r_RM, live_M=None, first=0, count=5) -> RowSummary:
    """The summary, with dead columns NaN as `correlation` leaves them."""
    live_M = np.ones(r_RM.shape[1], bool) if live_M is None else live_M
    r_RM = np.where(live_M, r_RM, np.nan)
    return summarise(torch.from_numpy(r_RM), torch.from_numpy(live_M), first=first, count=count)


def assert_same(one: RowSummary, other: RowSummary) -> None:
    for field in fields(RowSummary):
        if field.name == "powers_R5":
            torch.testing.assert_close(one.powers_R5, other.powers_R5, rtol=1e-12, atol=1e-12)
        else:
            assert torch.equal(getattr(one, field.name), getattr(other, field.name)), field.name


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [1.0, 0.6])
@pytest.mark.parametrize("count", [1, 7, 50])
def test_lists_are_numpys_stable_order(kind, share, count):
    r_RM = correlations(kind, 6, 90)
    live_M = live_columns(90, share)
    found = of(r_RM, live_M, first=1_000, count=count)
    columns = np.flatnonzero(live_M)
    kept = min(count, len(columns))
    for row, r_M in enumerate(r_RM):
        top = columns[np.argsort(-r_M[columns], kind="stable")[:kept]]
        bottom = columns[np.argsort(r_M[columns], kind="stable")[:kept]]
        np.testing.assert_array_equal(found.top_index_RK[row, :kept], top + 1_000)
        np.testing.assert_array_equal(found.top_RK[row, :kept], r_M[top])
        np.testing.assert_array_equal(found.bottom_index_RK[row, :kept], bottom + 1_000)
        np.testing.assert_array_equal(found.bottom_RK[row, :kept], r_M[bottom])


@quickly
@hypothesis.given(data=st.data())
def test_largest_is_a_stable_sort(data):
    rows, columns = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 12))
    count = data.draw(st.integers(1, 14))
    flat = data.draw(
        st.lists(st.sampled_from([-1.0, -0.0, 0.0, 0.5, 1.0, -np.inf]), min_size=rows * columns,
                 max_size=rows * columns)
    )
    values_RM = np.array(flat).reshape(rows, columns)
    top_RK, index_RK = largest(torch.from_numpy(values_RM), None, count)
    order_RK = np.argsort(-values_RM, axis=1, kind="stable")[:, :count]
    np.testing.assert_array_equal(index_RK, order_RK)
    np.testing.assert_array_equal(top_RK, np.take_along_axis(values_RM, order_RK, 1))


@quickly
@hypothesis.given(
    kind=st.sampled_from(list(KINDS)),
    seed=st.integers(0, 10**6),
    cuts=st.sets(st.integers(1, 29), max_size=4),
    share=st.sampled_from([1.0, 0.5, 0.1]),
    count=st.sampled_from([1, 3, 10, 40]),
)
def test_merging_column_blocks_is_summarising_the_whole(kind, seed, cuts, share, count):
    r_RM, live_M = correlations(kind, 4, 30, seed), live_columns(30, share, seed)
    edges = [0, *sorted(cuts), 30]
    parts = [
        of(r_RM[:, a:b], live_M[a:b], first=a, count=count)
        for a, b in pairwise(edges)
    ]
    whole, merged = of(r_RM, live_M, count=count), merge_summaries(parts, count)
    kept = min(count, int(live_M.sum()))  # what follows are the dead columns, in any order
    for name in ("top_RK", "top_index_RK", "bottom_RK", "bottom_index_RK"):
        assert torch.equal(getattr(merged, name)[:, :kept], getattr(whole, name)[:, :kept])
    assert torch.equal(merged.histogram_RB, whole.histogram_RB)
    torch.testing.assert_close(merged.powers_R5, whole.powers_R5, rtol=1e-12, atol=1e-12)
    assert merged.top_RK.shape == whole.top_RK.shape


def test_merging_is_left_to_right_or_all_at_once():
    r_RM = correlations("tied", 5, 60)
    parts = [of(r_RM[:, a : a + 20], first=a) for a in (0, 20, 40)]
    assert_same(merge_summaries([merge_summaries(parts[:2], 5), parts[2]], 5),
                merge_summaries(parts, 5))


@pytest.mark.parametrize("share", [0.4, 0.0])
def test_dead_columns_count_nowhere(share):
    r_RM, live_M = correlations("continuous", 3, 40), live_columns(40, share)
    found, alone = of(r_RM, live_M, count=40), of(r_RM[:, live_M], count=40)
    live = int(live_M.sum())
    assert torch.equal(found.top_RK[:, :live], alone.top_RK)
    assert (found.top_RK[:, live:] == -torch.inf).all()
    assert (found.bottom_RK[:, live:] == torch.inf).all()
    assert live_M[found.top_index_RK[:, :live]].all()
    assert torch.equal(found.histogram_RB, alone.histogram_RB)
    assert torch.equal(found.powers_R5, alone.powers_R5)
    assert (found.powers_R5[:, 0] == live).all()


def test_fewer_columns_than_the_list_is_long():
    found = of(correlations("continuous", 3, 4), count=50)
    assert found.top_RK.shape == found.bottom_index_RK.shape == (3, 4)


def test_a_dead_row_harms_no_other():
    r_RM = correlations("continuous", 4, 30)
    clean = of(r_RM)
    r_RM[2] = np.nan
    found, others = of(r_RM), [0, 1, 3]
    for field in fields(RowSummary):
        one, other = getattr(found, field.name), getattr(clean, field.name)
        assert torch.equal(one[others], other[others])


@pytest.mark.parametrize("kind", KINDS)
def test_histogram_is_numpys(kind):
    r_RM = correlations(kind, 4, 500)
    # numpy's bins hold their lower edge, ours the upper one: the mirror image of each other.
    expected_RB = np.stack([np.histogram(-r_M, -EDGES.numpy()[::-1])[0][::-1] for r_M in r_RM])
    at_lowest_R = (r_RM == -1).sum(1)
    expected_RB[:, 0] -= at_lowest_R  # numpy's last bin alone is closed at both ends
    histogram_RB = of(r_RM).histogram_RB
    assert histogram_RB.shape == (4, BINS) and histogram_RB.dtype == torch.int32
    np.testing.assert_array_equal(histogram_RB[:, 1:-1], expected_RB)
    np.testing.assert_array_equal(histogram_RB[:, 0], at_lowest_R)
    assert (histogram_RB[:, -1] == 0).all()


def test_bins_of_the_two_ends_and_of_the_edges():
    def bin_of(r: float) -> int:
        (place,) = torch.nonzero(of(np.array([[r]])).histogram_RB[0])
        return int(place)

    assert bin_of(-1.0) == 0
    assert bin_of(np.nextafter(-1, 0)) == 1
    assert bin_of(1.0) == BINS - 2
    assert bin_of(0.0) == 50
    for b in (1, 37, 98):
        edge = EDGES[b].item()
        assert bin_of(edge) == b
        assert bin_of(np.nextafter(edge, 2)) == b + 1


@pytest.mark.parametrize("kind", ["continuous", "tied", "tied at the top"])
def test_distribution_moments_are_scipys_of_the_population(kind):
    r_RM = correlations(kind, 5, 400) * 0.3 + 0.1
    live_M = live_columns(400, 0.8)
    found = distribution_moments(of(r_RM, live_M).powers_R5)
    live_RM = r_RM[:, live_M]
    np.testing.assert_allclose(found["mean"], live_RM.mean(1), rtol=1e-10)
    np.testing.assert_allclose(found["var"], live_RM.var(1), rtol=1e-9)
    np.testing.assert_allclose(found["skew"], scipy.stats.skew(live_RM, axis=1), atol=1e-8)
    kurtosis = scipy.stats.kurtosis(live_RM, axis=1, fisher=False)
    np.testing.assert_allclose(found["kurt"], kurtosis, rtol=1e-8)


def test_kurtosis_of_a_gaussian_is_three():
    r_RM = np.clip(np.random.default_rng(0).standard_normal((1, 200_000)) * 0.05, -1, 1)
    found = distribution_moments(of(r_RM).powers_R5)
    assert found["kurt"].item() == pytest.approx(3, abs=0.05)
    assert found["skew"].item() == pytest.approx(0, abs=0.03)
