"""The jackknife's standard error of r against brute force, the textbook and the truth.

Shapes: T tokens, G groups of tokens, R pairs.
"""

from itertools import pairwise

import numpy as np
import pytest
import torch

from universal_ray.maths.moments.jackknife import GroupedSums, jackknife_error


def jackknife(x_TR, y_TR, edges):
    """jackknife_error of raw float64 data cut into groups."""
    spans = [slice(a, b) for a, b in pairwise(edges)]

    def by_group(v_TR):
        return torch.from_numpy(np.stack([v_TR[span].sum(0) for span in spans]))

    n_G = torch.tensor([float(s.stop - s.start) for s in spans], dtype=torch.float64)
    left, right = (GroupedSums(by_group(v), by_group(v * v)) for v in (x_TR, y_TR))
    return jackknife_error(n_G, by_group(x_TR * y_TR), left=left, right=right)


def r_of(x_TR, y_TR):
    return np.array([np.corrcoef(x, y)[0, 1] for x, y in zip(x_TR.T, y_TR.T, strict=True)])


def series(tokens, pairs, memory, seed=0, shared=0.5):
    """Pairs of autoregressive series with `memory` from one token to the next."""
    rng = np.random.default_rng(seed)

    def one():
        noise_TR = rng.standard_normal((tokens, pairs))
        for t in range(1, tokens):
            noise_TR[t] = memory * noise_TR[t - 1] + (1 - memory**2) ** 0.5 * noise_TR[t]
        return noise_TR

    common, a, b = one(), one(), one()
    return (shared**0.5 * common + (1 - shared) ** 0.5 * v for v in (a, b))


def test_jackknife_of_unequal_groups_is_brute_force_leave_one_out():
    x_TR, y_TR = series(900, 5, 0.5)
    edges = [0, 40, 300, 310, 650, 900]
    error_R = jackknife(x_TR, y_TR, edges)
    n, g = 900, len(edges) - 1
    whole_R = r_of(x_TR, y_TR)
    left_out, h = [], []
    for a, b in pairwise(edges):
        keep_T = np.r_[0:a, b:n]
        left_out.append(r_of(x_TR[keep_T], y_TR[keep_T]))
        h.append(n / (b - a))
    estimate_R = g * whole_R - sum((1 - 1 / k) * r for k, r in zip(h, left_out, strict=True))
    variance_R = sum(
        (k * whole_R - (k - 1) * r - estimate_R) ** 2 / (k - 1)
        for k, r in zip(h, left_out, strict=True)
    )
    np.testing.assert_allclose(error_R, np.sqrt(variance_R / g), rtol=1e-9)


def test_jackknife_of_equal_groups_is_the_textbooks():
    x_TR, y_TR = series(800, 5, 0.5)
    error_R = jackknife(x_TR, y_TR, range(0, 801, 100))
    left_out_GR = np.stack(
        [
            r_of(np.delete(x_TR, span, 0), np.delete(y_TR, span, 0))
            for span in (slice(a, a + 100) for a in range(0, 800, 100))
        ]
    )
    textbook_R = np.sqrt(7 / 8 * ((left_out_GR - left_out_GR.mean(0)) ** 2).sum(0))
    np.testing.assert_allclose(error_R, textbook_R, rtol=1e-9)


@pytest.mark.parametrize(("memory", "ratio"), [(0.0, 1.0), (0.8, 2.13)])
def test_jackknife_sees_that_tokens_are_not_independent(memory, ratio):
    # For two such series var(r) grows by (1 + memory²) / (1 - memory²).
    tokens, pairs = 4_000, 300
    x_TR, y_TR = series(tokens, pairs, memory, shared=0.3)
    error_R = jackknife(x_TR, y_TR, range(0, tokens + 1, 100)).numpy()
    textbook_R = (1 - r_of(x_TR, y_TR) ** 2) / tokens**0.5
    assert np.median(error_R / textbook_R) == pytest.approx(ratio, rel=0.1)
    spread = r_of(x_TR, y_TR).std()  # the truth, over independent repetitions
    assert np.sqrt((error_R**2).mean()) == pytest.approx(spread, rel=0.15)


def test_jackknife_ignores_groups_without_tokens_and_needs_two():
    x_TR, y_TR = series(600, 3, 0.5)
    whole = jackknife(x_TR, y_TR, [0, 200, 400, 600])
    with_empty = jackknife(x_TR, y_TR, [0, 200, 200, 400, 600, 600])
    torch.testing.assert_close(with_empty, whole, rtol=1e-12, atol=0)
    assert jackknife(x_TR, y_TR, [0, 600]).isnan().all()
    assert jackknife(x_TR, y_TR, [0, 600, 600]).isnan().all()
