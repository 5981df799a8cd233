"""Encoders against a plain computation in float64."""

import numpy as np
import pytest
import torch

from universal_ray.maths.latents import (
    GATED,
    GROUPS,
    JUMP,
    LENGTH,
    RELU,
    STANDARD,
    TOPK,
    Encoder,
    encode,
)

TOKENS, CHANNELS, LATENTS = 50, 12, 24


def draws(seed: int, *size: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(size))


def encoder(activation: str, **more) -> Encoder:
    return Encoder(
        activation=activation, weight_CD=draws(1, CHANNELS, LATENTS), bias_D=draws(2, LATENTS),
        **more,
    )  # fmt: skip


def truth(x, given: Encoder) -> np.ndarray:
    """Token by token and latent by latent."""
    found = np.zeros((len(x), LATENTS))
    for token, x_C in enumerate(x):
        if given.before == STANDARD:
            x_C = (x_C - x_C.mean()) / (x_C.std(ddof=1) + 1e-5)
        if given.before == LENGTH:
            x_C = x_C / np.sqrt((x_C**2).mean())
        if given.centre_C is not None:
            x_C = x_C - given.centre_C.numpy()
        read_D = x_C @ given.weight_CD.numpy()
        pre_D = read_D + given.bias_D.numpy()
        for latent in range(LATENTS):
            value = max(pre_D[latent], 0)
            if given.threshold_D is not None and pre_D[latent] <= float(given.threshold_D[latent]):
                value = 0
            if given.gate_D is not None and given.gain_D is not None:
                shown = read_D[latent] * float(given.gain_D[latent]) + float(given.bias_D[latent])
                value = max(shown, 0) if read_D[latent] + float(given.gate_D[latent]) > 0 else 0
            scale = 1 if given.scale_D is None else float(given.scale_D[latent])
            found[token, latent] = value * scale
        if given.k is not None:
            parts = [np.arange(LATENTS)]
            if given.activation == GROUPS:
                parts = np.array_split(np.arange(LATENTS), given.k)
            keep = 1 if given.activation == GROUPS else given.k
            ranked = [sorted(part, key=lambda i: -found[token, i]) for part in parts]
            kept = [i for part in ranked for i in part[:keep]]
            found[token, [i for i in range(LATENTS) if i not in kept]] = 0
    return found


KINDS = {
    "relu": encoder(RELU),
    "centred": encoder(RELU, centre_C=draws(3, CHANNELS)),
    "standard": encoder(RELU, before=STANDARD, centre_C=draws(3, CHANNELS)),
    "length": encoder(RELU, before=LENGTH),
    "jump": encoder(JUMP, threshold_D=draws(4, LATENTS).abs() * 3),
    "gated": encoder(GATED, gate_D=draws(5, LATENTS), gain_D=draws(6, LATENTS).exp()),
    "topk": encoder(TOPK, k=3),
    "scaled": encoder(TOPK, k=3, scale_D=draws(7, LATENTS).exp()),
    "groups": encoder(GROUPS, k=4),
}


@pytest.mark.parametrize("kind", KINDS)
def test_latents_are_those_of_a_plain_computation(kind):
    x_TC = draws(0, TOKENS, CHANNELS) * 2 + 0.5
    before = x_TC.clone()
    given = KINDS[kind]
    expected = truth(x_TC.numpy(), given)
    assert 0.05 < (expected > 0).mean() < 0.95
    np.testing.assert_allclose(encode(x_TC, given).numpy(), expected, atol=1e-12)
    assert torch.equal(x_TC, before), "what the model goes on with is left as it is"
    single = encode(x_TC.float(), given.to(torch.device("cpu"), torch.float32))
    assert single.dtype == torch.float32
    np.testing.assert_allclose(single.numpy(), expected, atol=1e-4)


def test_latents_that_can_never_fire_are_counted():
    weight_CD = draws(1, CHANNELS, LATENTS)
    weight_CD[:, [3, 5, 8]] = 0
    bias_D = torch.full((LATENTS,), -1.0).double()
    bias_D[5] = 0.5  # always fires
    shared = {"weight_CD": weight_CD, "bias_D": bias_D}
    assert Encoder(activation=RELU, **shared).silent == 2
    threshold_D = torch.ones(LATENTS).double()
    assert Encoder(activation=JUMP, threshold_D=threshold_D, **shared).silent == 3
    closed = {"gate_D": -threshold_D, "gain_D": threshold_D}
    assert Encoder(activation=GATED, **closed, **shared).silent == 3
