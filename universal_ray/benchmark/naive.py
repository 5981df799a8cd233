"""The streaming scheme of the paper's code, written afresh as a reference to measure against.

Per batch: activations in half precision, one float32 product per pair of layers, each copied to
the host and added in float64; and the whole of it again for the rotation baseline. One pair of
models at a time, whole models with their logits, as transformers has them.

Shapes as in `moments`; R rotations [D, D], one per layer of the second model.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from universal_ray.models.source import ModelSource, load_model

Activations = Callable[[Tensor], Tensor]
"""Tokens [B, P] to raw activations [T, N], float32."""


@dataclass(frozen=True)
class Shape:
    """Layers and neurons per layer of a model."""

    layers: int
    width: int

    @property
    def neurons(self) -> int:
        return self.layers * self.width

    def layer(self, index: int) -> slice:
        return slice(index * self.width, (index + 1) * self.width)


ROWS = 24
"""Rows of tokens in one batch, as the paper's code has."""


def activations(source: ModelSource, device: str) -> Activations:
    """A GPT-2 of transformers, hooked where its neurons are read.

    Attention is computed step by step, as the library that the paper's code builds on does.
    """
    model: Any = load_model(source, device, attention="eager")
    seen: list[Tensor] = []
    for block in model.transformer.h:
        block.mlp.c_proj.register_forward_pre_hook(
            lambda _, inputs: seen.append(inputs[0].flatten(0, 1))
        )

    def read(tokens_BP: Tensor) -> Tensor:
        seen.clear()
        with torch.inference_mode():
            model(tokens_BP.to(device))
        return torch.cat(seen, dim=1)

    return read


@dataclass
class Sums:
    """What the scheme adds up on the host, float64."""

    n: int
    cross_NM: Tensor
    moments: tuple[Tensor, Tensor]
    """Σx and Σx² of either model: [2, N] and [2, M]"""


def stream(
    first: tuple[Activations, Shape],
    second: tuple[Activations, Shape],
    batches: Iterable[tuple[Tensor, Tensor]],
    rotations: Sequence[Tensor] | None = None,
) -> Sums:
    """Sums of every neuron of the first model with every (rotated) one of the second.

    `batches` gives tokens [B, P] and which of them count [T].
    """
    (left, left_shape), (right, right_shape) = first, second
    cross_NM = torch.zeros(left_shape.neurons, right_shape.neurons, dtype=torch.float64)
    moments = (
        torch.zeros(2, left_shape.neurons, dtype=torch.float64),
        torch.zeros(2, right_shape.neurons, dtype=torch.float64),
    )
    n = 0
    for tokens_BP, kept_T in batches:
        x_TN = left(tokens_BP).half()[kept_T]
        y_TM = right(tokens_BP).half()[kept_T]
        if rotations is not None:
            for layer, rotation_DD in enumerate(rotations):
                columns = right_shape.layer(layer)
                y_TM[:, columns] = (y_TM[:, columns].float() @ rotation_DD.T).half()
        n += len(x_TN)
        for total, part_TN in zip(moments, (x_TN, y_TM), strict=True):
            total[0] += part_TN.float().sum(0).cpu()
            total[1] += part_TN.float().square().sum(0).cpu()
        for i in range(left_shape.layers):
            x_TD = x_TN[:, left_shape.layer(i)].float()
            for j in range(right_shape.layers):
                y_TD = y_TM[:, right_shape.layer(j)].float()
                product_DD = (x_TD.T @ y_TD).cpu()
                cross_NM[left_shape.layer(i), right_shape.layer(j)] += product_DD
    return Sums(n, cross_NM, moments)


def best_correlations(sums: Sums) -> Tensor:
    """Largest r of every neuron of the first model with any of the second, float64 [N]."""
    (sum_N, raw_N), (sum_M, raw_M) = sums.moments
    covariance_NM = sums.cross_NM - torch.outer(sum_N, sum_M) / sums.n
    deviation_N, deviation_M = ((raw - s * s / sums.n).clamp_min(0).sqrt()
                                for s, raw in ((sum_N, raw_N), (sum_M, raw_M)))
    r_NM = covariance_NM / torch.outer(deviation_N, deviation_M)
    return r_NM.nan_to_num(-torch.inf).amax(1)
