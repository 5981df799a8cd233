"""The GELU of GPT-2 against its formula in float64."""

import math

import pytest
import torch

from universal_ray.models.gelu import PIECE, Gelu


def exact(x: torch.Tensor) -> torch.Tensor:
    x = x.double()
    return x / 2 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def test_is_the_formula_within_its_bound():
    x = torch.cat([torch.linspace(-12, 12, 100_001), 3 * torch.randn(100_000)])
    found = Gelu()(x)
    assert found.dtype == torch.float32
    assert (found - exact(x)).abs().max() < 6e-7
    relative = (found - exact(x)).abs() / exact(x).abs()
    assert relative[(x > -2) & (x != 0)].max() < 1e-6
    torch.testing.assert_close(Gelu()(x.double()), exact(x), rtol=0, atol=1e-14)


def test_ends_are_those_of_the_formula():
    x = torch.tensor([0.0, 1e-30, -1e-30, 40.0, -40.0, 1e25, -1e25, 3e38, -3e38, math.inf])
    expected = [0.0, 5e-31, -5e-31, 40.0, 0.0, 1e25, 0.0, 3e38, 0.0, math.inf]
    torch.testing.assert_close(Gelu()(x), torch.tensor(expected))
    assert Gelu()(torch.tensor([math.nan])).isnan().all()


def test_any_shape_and_stride_has_the_same_values():
    x = torch.randn(3, 2 * PIECE // 5, 5)
    whole = Gelu()(x)
    assert whole.shape == x.shape and x.numel() > 5 * PIECE
    for part, found in ((x[1, 7:9], whole[1, 7:9]), (x.transpose(1, 2), whole.transpose(1, 2)),
                        (x[0, :7, 0], whole[0, :7, 0])):
        torch.testing.assert_close(Gelu()(part), found, rtol=5e-7, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_rounds_once(dtype):
    x = (4 * torch.randn(5_000)).to(dtype)
    x = x[x > -2]
    error = (Gelu()(x).double() - exact(x)).abs()
    assert (error <= 0.501 * torch.finfo(dtype).eps * exact(x).abs() + 1e-7).all()
