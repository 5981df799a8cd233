"""The kernel on a GPU against float64: every policy, long chunks, pairs with r near 1."""

import numpy as np
import pytest
import torch

from universal_ray.capacity import Part
from universal_ray.items import Model, make_items
from universal_ray.moments import (
    Calibration,
    calibrate,
    centred_cross,
    correlation,
    neuron_moments,
    normalise_,
)
from universal_ray.study import Pairs
from universal_ray.sums import Sums, to_host

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")

BOUNDS = {"fp32": 1e-6, "split": 1e-6, "fp16": 1e-5}
LAYERS, WIDTH = 2, 512


def activations(tokens: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Two models of GELU-like neurons on the GPU; partners have r from 0 up to 1 - 1e-9."""
    generator = torch.Generator("cuda").manual_seed(seed)

    def normal() -> torch.Tensor:
        return torch.randn(tokens, LAYERS * WIDTH, device="cuda", generator=generator)

    cause_TN = normal()
    noise_N = 10 ** torch.linspace(1, -4.5, LAYERS * WIDTH, device="cuda")
    x_TN = torch.nn.functional.gelu(cause_TN - 0.5)
    return x_TN, x_TN + noise_N * normal()


def correlations(x_TN: torch.Tensor, y_TM: torch.Tensor, policy: str, chunk: int) -> np.ndarray:
    """As a worker makes them on one unit of tokens."""
    first, second = Model("x", "a" * 12, LAYERS, WIDTH), Model("y", "b" * 12, LAYERS, WIDTH)
    items = make_items([[first, second]], Pairs.reference)
    held = tuple(Part(item, 0, item.layers) for item in items)
    sums = Sums(held, "cuda")
    fits: dict[str, Calibration] = {}
    kept_T = torch.ones(chunk, dtype=torch.bool)
    for start in range(0, len(x_TN), chunk):
        factors = {}
        for model, v_TN in ((first, x_TN), (second, y_TM)):
            part_TN = v_TN[start : start + chunk].clone()
            if model.identity not in fits:
                fits[model.identity] = calibrate(part_TN, kept_T, LAYERS)
            u_TN = normalise_(part_TN, fits[model.identity])
            factors[model.identity] = sums.add_model(
                model, u_TN, kept_T[: len(u_TN)], policy
            )
        sums.add_products(factors)
    layers = [
        [{k: to_host(v) for k, v in sums.of(part, k_).items()} for k_ in range(LAYERS)]
        for part in held
    ]
    torch.cuda.synchronize()
    rows, columns = (neuron_moments([{k: v.double() for k, v in one.items()} for one in each])
                     for each in layers[:2])
    cross_NM = torch.cat([one["cross"] for one in layers[2]]).double()
    return correlation(centred_cross(cross_NM, rows, columns, 0), rows, columns, 0, policy).numpy()


@pytest.mark.parametrize("chunk", [4096, 16384, 65536])
@pytest.mark.parametrize("policy", BOUNDS)
def test_every_policy_keeps_its_bound_at_every_r(policy, chunk):
    x_TN, y_TM = activations(262_144)
    neurons = LAYERS * WIDTH
    exact_NN = torch.corrcoef(torch.cat([x_TN, y_TM], 1).T.double())[:neurons, neurons:].cpu()
    error_NN = np.abs(correlations(x_TN, y_TM, policy, chunk) - exact_NN.numpy())
    assert exact_NN.abs().max() > 1 - 1e-6
    assert error_NN.max() < BOUNDS[policy]


def test_what_is_computed_twice_has_the_same_bits():
    x_TN, y_TM = activations(32_768)
    first, second = (correlations(x_TN, y_TM, "fp16", 16_384) for _ in range(2))
    np.testing.assert_array_equal(first, second)
