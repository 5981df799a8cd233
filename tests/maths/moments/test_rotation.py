"""The rotation baseline from sums, against rotating raw activations explicitly in float64.

Shapes: T tokens, R row neurons, D neurons of the rotated layer, K draws.
"""

import itertools

import numpy as np
import pytest
import torch

from universal_ray.maths.moments.rotation import (
    KINDS,
    best_rotated,
    rotated_squares,
    rotation,
    scaled,
)

TOKENS, ROWS, WIDTH = 700, 9, 12


@pytest.fixture
def raw():
    """Raw float64 activations whose scales are spread over a factor of 100, means far from 0."""
    rng = np.random.default_rng(0)
    cause_TD = rng.standard_normal((TOKENS, WIDTH))
    scale_D = 10 ** np.linspace(-1, 1, WIDTH)
    z_TD = (cause_TD + 0.3 * rng.standard_normal((TOKENS, WIDTH))) * scale_D + 5 * scale_D
    x_TR = np.abs(cause_TD[:, :ROWS] + 0.5 * rng.standard_normal((TOKENS, ROWS))) * 3 - 40
    return x_TR, z_TD


def sums_of(x_TR, z_TD):
    """Centred cross sums and Gram of u = (z - shift) / scale, Σ(x - mean)², and the scale."""
    scale_D = 2.0 ** np.ceil(np.log2(np.maximum(z_TD.std(0), 1e-3)))
    u_TD = (z_TD - z_TD[:50].mean(0)) / scale_D
    u_TD, x_TR = u_TD - u_TD.mean(0), x_TR - x_TR.mean(0)
    arrays = x_TR.T @ u_TD, u_TD.T @ u_TD, (x_TR * x_TR).sum(0), scale_D
    return (torch.from_numpy(array) for array in arrays)


def closed_form(matrix_DD, x_TR, z_TD, forget_scale=False):
    centred_RD, gram_DD, squares_R, scale_D = sums_of(x_TR, z_TD)
    weights_DD = matrix_DD if forget_scale else scaled(matrix_DD, scale_D)
    squares_D = rotated_squares(weights_DD, gram_DD)
    return best_rotated(
        centred_RD, weights_DD, rotated_squares_D=squares_D, squares_R=squares_R
    ).numpy()


def explicit(matrix_DD, x_TR, z_TD):
    """Largest r of each row neuron with the units of the rotated raw activations."""
    y_TD = z_TD @ matrix_DD.numpy().T
    return np.corrcoef(x_TR, y_TD, rowvar=False)[: x_TR.shape[1], x_TR.shape[1] :].max(1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("draw", range(3))
def test_closed_form_is_the_rotation_of_raw_activations(raw, kind, draw):
    matrix_DD = rotation(kind, seed=0, identity="model", layer=1, draw=draw, width=WIDTH)
    np.testing.assert_allclose(
        closed_form(matrix_DD, *raw), explicit(matrix_DD, *raw), rtol=0, atol=1e-10
    )


@pytest.mark.parametrize("kind", KINDS)
def test_forgetting_the_scale_gives_another_baseline(raw, kind):
    """The trap: sums hold scaled activations, the paper rotates raw ones."""
    matrix_DD = rotation(kind, seed=0, identity="model", layer=1, draw=0, width=WIDTH)
    wrong_R = closed_form(matrix_DD, *raw, forget_scale=True)
    assert np.abs(wrong_R - explicit(matrix_DD, *raw)).max() > 0.01


def test_dead_columns_add_nothing(raw):
    x_TR, z_TD = raw
    z_TD[:, [2, 7]] = 4.25
    matrix_DD = rotation("gaussian", seed=0, identity="model", layer=0, draw=0, width=WIDTH)
    best_R = closed_form(matrix_DD, x_TR, z_TD)
    np.testing.assert_allclose(best_R, explicit(matrix_DD, x_TR, z_TD), rtol=0, atol=1e-10)
    without = np.delete(np.arange(WIDTH), [2, 7])
    y_TD = z_TD[:, without] @ matrix_DD.numpy()[:, without].T
    r_RD = np.corrcoef(x_TR, y_TD, rowvar=False)[:ROWS, ROWS:]
    np.testing.assert_allclose(best_R, r_RD.max(1), rtol=0, atol=1e-10)


def test_a_dead_row_is_nan_and_a_dead_layer_never_the_best(raw):
    x_TR, z_TD = raw
    x_TR[:, 4] = -1.5
    matrix_DD = rotation("gaussian", seed=0, identity="model", layer=0, draw=0, width=WIDTH)
    best_R = closed_form(matrix_DD, x_TR, z_TD)
    assert np.isnan(best_R).tolist() == [row == 4 for row in range(ROWS)]
    live = np.delete(np.arange(ROWS), 4)
    np.testing.assert_allclose(
        best_R[live], explicit(matrix_DD, x_TR[:, live], z_TD), rtol=0, atol=1e-10
    )
    assert (closed_form(matrix_DD, x_TR[:, live], np.ones((TOKENS, WIDTH))) == -np.inf).all()


def test_a_rotated_unit_itself_has_correlation_one(raw):
    _, z_TD = raw
    matrix_DD = rotation("orthogonal", seed=0, identity="model", layer=0, draw=0, width=WIDTH)
    best_R = closed_form(matrix_DD, z_TD @ matrix_DD.numpy().T, z_TD)
    np.testing.assert_allclose(best_R, 1, rtol=0, atol=1e-12)
    assert best_R.max() <= 1


@pytest.mark.parametrize("kind", KINDS)
def test_rows_have_unit_length(kind):
    matrix_DD = rotation(kind, seed=3, identity="model", layer=2, draw=1, width=50)
    assert matrix_DD.dtype == torch.float64
    torch.testing.assert_close(matrix_DD.norm(dim=1), torch.ones(50, dtype=torch.float64))


def test_orthogonal_is_orthogonal_and_gaussian_is_not():
    unit_DD = torch.eye(50, dtype=torch.float64)
    orthogonal_DD = rotation("orthogonal", seed=0, identity="model", layer=0, draw=0, width=50)
    torch.testing.assert_close(orthogonal_DD @ orthogonal_DD.T, unit_DD, rtol=0, atol=1e-12)
    gaussian_DD = rotation("gaussian", seed=0, identity="model", layer=0, draw=0, width=50)
    assert (gaussian_DD @ gaussian_DD.T - unit_DD).abs().max() > 0.1


@pytest.mark.parametrize("kind", KINDS)
def test_entries_are_without_direction(kind):
    # A plain QR decomposition has a first entry of one sign: not uniform over the group.
    draws_KDD = torch.stack(
        [
            rotation(kind, seed=0, identity="model", layer=0, draw=draw, width=4)
            for draw in range(400)
        ]
    )
    mean_DD, spread_DD = draws_KDD.mean(0), draws_KDD.std(0)
    assert mean_DD.abs().max() < 4 * 0.5 / 20  # an entry deviates by 1/sqrt(4)
    torch.testing.assert_close(spread_DD, torch.full_like(spread_DD, 0.5), rtol=0.12, atol=0)
    assert 120 < (torch.linalg.det(draws_KDD) > 0).sum() < 280


@pytest.mark.parametrize("kind", KINDS)
def test_a_draw_is_seeded_by_what_it_rotates_and_nothing_else(kind):
    keys = list(itertools.product((0, 1), ("model-a", "model-b"), (0, 11), (0, 1)))

    def made(seed, identity, layer, draw):
        return rotation(kind, seed=seed, identity=identity, layer=layer, draw=draw, width=6)

    forth = {key: made(*key) for key in keys}
    torch.manual_seed(1)
    np.random.default_rng(1).random(5)
    back = {key: made(*key) for key in reversed(keys)}
    for key in keys:
        assert torch.equal(forth[key], back[key])
    for one, other in itertools.combinations(keys, 2):
        assert (forth[one] - forth[other]).abs().max() > 0.1


def test_kinds_and_widths_do_not_share_numbers():
    gaussian_DD = rotation("gaussian", seed=0, identity="model", layer=0, draw=0, width=6)
    assert (
        gaussian_DD - rotation("orthogonal", seed=0, identity="model", layer=0, draw=0, width=6)
    ).abs().max() > 0.1
    assert (
        gaussian_DD
        - rotation("gaussian", seed=0, identity="model", layer=0, draw=0, width=7)[:6, :6]
    ).abs().max() > 0.1


def test_draws_are_those_of_earlier_versions():
    """Published baselines can be made again: these numbers must not change."""
    torch.testing.assert_close(
        rotation("gaussian", seed=0, identity="model", layer=0, draw=0, width=2).flatten(),
        torch.tensor(
            [0.039988494575947, 0.999200140262975, -0.482224101398989, -0.876047895967987],
            dtype=torch.float64,
        ),
        rtol=0,
        atol=1e-12,
    )
