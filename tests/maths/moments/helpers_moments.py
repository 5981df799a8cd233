"""Sums as a worker makes them, activations of every correlation, and numpy's truth about them.

Shapes: T tokens, N neurons of the first model, M of the second.
"""

from dataclasses import dataclass

import numpy as np
import torch

from universal_ray.maths.moments.accumulate import (
    LayerSums,
    ModelMoments,
    accumulate_,
    merge,
)
from universal_ray.maths.moments.calibration import calibrate, normalise
from universal_ray.maths.moments.correlation import (
    centred_cross,
    correlation,
    neuron_moments,
)

BOUNDS = {"fp32": 1e-6, "split": 1e-6, "fp16": 1e-3}
"""Largest error of r that each precision policy may make."""

@dataclass
class Sums:
    """What a run holds of a pair of models before it correlates."""

    left: list[LayerSums]
    right: list[LayerSums]
    cross_NM: torch.Tensor
    policy: str

    def r(self) -> np.ndarray:
        rows, columns = (neuron_moments(side, self.policy) for side in (self.left, self.right))
        centred_NM = centred_cross(self.cross_NM, rows, columns, first=0)
        return correlation(centred_NM, rows, columns, first=0, policy=self.policy).numpy()

    def null(self) -> list[int]:
        """Why neurons of the first model have no correlation."""
        return neuron_moments(self.left, self.policy).null_N.tolist()


def sum_up(
    x_TN, y_TM, kept_T=None, policy="fp32", layers=(1, 1), batch=500, unit=10**9, first=500
) -> Sums:
    """Calibrate on the `first` tokens, sum in batches, store by unit, merge: as a worker does."""
    x_TN, y_TM = (torch.as_tensor(v, dtype=torch.float32) for v in (x_TN, y_TM))
    kept_T = torch.ones(len(x_TN), dtype=torch.bool) if kept_T is None else torch.as_tensor(kept_T)
    fits = [
        calibrate(v[:first], kept_T[:first], depth)
        for v, depth in zip((x_TN, y_TM), layers, strict=True)
    ]
    sums: list[list[list[LayerSums]]] = [[], []]
    crosses = []
    for begin in range(0, len(x_TN), unit):
        end = min(begin + unit, len(x_TN))
        models = [
            ModelMoments(depth, v.shape[1] // depth, "cpu")
            for v, depth in zip((x_TN, y_TM), layers, strict=True)
        ]
        cross_NM = torch.zeros(x_TN.shape[1], y_TM.shape[1])
        for start in range(begin, end, batch):
            rows = slice(start, min(start + batch, end))
            factors = [
                model.update(normalise(v[rows], fit), kept_T[rows], policy)
                for model, v, fit in zip(models, (x_TN, y_TM), fits, strict=True)
            ]
            accumulate_(cross_NM, factors[0], factors[1], x_TN.shape[1] // layers[0])
        for model in models:
            model.check_range(policy)
        crosses.append({"cross": cross_NM})
        for held, model in zip(sums, models, strict=True):
            held.append([model.layer_sums(layer) for layer in range(model.layers)])
    left, right = ([merge(parts) for parts in zip(*held, strict=True)] for held in sums)
    return Sums(left, right, merge(crosses)["cross"], policy)


def oracle(x_TN, y_TM) -> np.ndarray:
    """numpy's Pearson correlations in float64."""
    x_TN, y_TM = np.asarray(x_TN, np.float64), np.asarray(y_TM, np.float64)
    return np.corrcoef(x_TN, y_TM, rowvar=False)[: x_TN.shape[1], x_TN.shape[1] :]


def gelu(x):
    return x * 0.5 * (1 + np.tanh(0.79788456 * (x + 0.044715 * x**3)))


def activations(tokens: int, neurons: int = 24, seed: int = 0):
    """Two models of GELU-like neurons that share causes; scales over 100, large means.

    Partners have correlations from 0 up to 1 - 1e-9; the last two are equal and opposite.
    """
    rng = np.random.default_rng(seed)
    cause_TN = rng.standard_normal((tokens, neurons))
    noise_N = 10 ** np.linspace(1, -4.5, neurons)
    own_TM = rng.standard_normal((tokens, neurons)) * noise_N
    x_TN = gelu(cause_TN - 0.5)
    y_TM = gelu(cause_TN - 0.5) + own_TM * x_TN.std()
    y_TM[:, -2], y_TM[:, -1] = x_TN[:, -2], -x_TN[:, -1]
    scale_N = 10 ** rng.uniform(-1, 1, neurons)
    mean_N = rng.uniform(-30, 30, neurons) * scale_N
    x_TN, y_TM = x_TN * scale_N + mean_N, y_TM * scale_N[::-1] + mean_N
    return x_TN.astype(np.float32), y_TM.astype(np.float32)
