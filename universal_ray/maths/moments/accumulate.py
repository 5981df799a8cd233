"""Streaming moment sums of activations, and the exact Pearson correlations they hold.

Everything published is a function of these sums; all of them add, so a study may be cut into
units of tokens anywhere and put together again. Pure: tensors in, tensors out.

Shapes: T tokens of a batch, L layers, D neurons per layer, N = L·D neurons of one model,
M neurons of another, R rows of a block, G groups of tokens (blocks of units).
"""

from collections.abc import Iterable, Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from universal_ray.errors import NumericalError
from universal_ray.maths.moments.calibration import not_finite

LayerSums = dict[str, Tensor]
"""Sums of one layer by name: `n`, `sum`, `minimum`, `maximum`, `gram`, `cross`."""

EXTREMES = {"minimum": torch.minimum, "maximum": torch.maximum}
POLICIES = ("fp32", "fp16", "split")

LARGEST = {"fp32": 1e15, "fp16": 65504.0, "split": 65504.0}
"""Largest |u| per policy: halves end there, and float32 sums of squares must stay finite."""

CPU_ROWS = 1024
"""Rows of one product on a CPU, at most: a layer is cut into equal blocks."""
GRAM_ROWS = {"cpu": 256, "cuda": 1024}
"""The same for a Gram matrix, of which only the upper triangle of blocks is multiplied."""
SUMMED = 256
"""Tokens that add up in float32 before they go to a float64 sum."""


def operands(u_TN: Float[Tensor, "T N"], policy: str) -> tuple[Tensor, ...]:
    """The factors a precision policy multiplies, made once per batch and model.

    `fp32`: u itself. `fp16`: u rounded to half. `split`: u as the sum of two halves.
    Without tensor cores the halves are held in float32, where their products are exact.
    """
    if policy == "fp32":
        return (u_TN,)
    held = torch.float16 if u_TN.is_cuda else torch.float32
    high_TN = u_TN.half()
    if policy == "fp16":
        return (high_TN.to(held),)
    low_TN = (u_TN - high_TN).half()  # in float32, without a copy of the high part
    return (high_TN.to(held), low_TN.to(held))


def _blocks(width: int, most: int) -> list[slice]:
    """A layer's neurons in equal blocks of at most `most`; the last may be shorter."""
    step = -(-width // -(-width // most))
    return [slice(start, min(start + step, width)) for start in range(0, width, step)]


def _products(left: tuple[Tensor, ...], right: tuple[Tensor, ...]) -> list[tuple[Tensor, Tensor]]:
    """Which factors are multiplied with which: low times low is left out, high times high last.

    So on a CPU, which adds them up before they join the sums, the small products meet each other
    and then the large one, once.
    """
    found = [(a_TN, b_TM) for i, a_TN in enumerate(left) for b_TM in right[: len(right) - i]]
    return found[::-1]


def accumulate_(
    sums_RM: Float[Tensor, "R M"],
    left: tuple[Tensor, ...],
    right: tuple[Tensor, ...],
    width: int,
) -> None:
    """Add `leftᵀ · right` ([T, R], [T, M]) to float32 sums in place.

    R is one or more layers of `width` neurons. Every layer is multiplied on its own, in blocks that
    depend on the width alone, so that the bits do not depend on how many layers are held together.

    A CPU's kernel would add to the sums many times within one product and round each time, so
    there a block of rows is multiplied on its own and then added, all products of a policy at once
    (errors of r in a unit of a million tokens: 6e-7 instead of 2e-6).
    """
    products = _products(left, right)
    if sums_RM.is_cuda:
        blocks = [slice(0, width)]
    else:
        blocks = _blocks(width, CPU_ROWS)
        scratch_RM = sums_RM.new_empty(blocks[0].stop, sums_RM.shape[1])
    for start in range(0, len(sums_RM), width):
        for block in blocks:
            rows = slice(start + block.start, start + block.stop)
            factors = [(a_TN[:, rows].T, b_TM) for a_TN, b_TM in products]
            if sums_RM.is_cuda:
                _add_on_gpu(sums_RM[rows], factors)
                continue
            part_RM = torch.mm(*factors[0], out=scratch_RM[: block.stop - block.start])
            for a_RT, b_TM in factors[1:]:
                part_RM.addmm_(a_RT, b_TM)
            sums_RM[rows] += part_RM


def _add_on_gpu(sums_RM: Tensor, factors: list[tuple[Tensor, Tensor]]) -> None:
    for a_RT, b_TM in factors:
        if a_RT.dtype == torch.float32:
            sums_RM.addmm_(a_RT, b_TM)
        else:  # half precision products, accumulated in float32 by the tensor cores
            torch.addmm(sums_RM, a_RT, b_TM, out_dtype=torch.float32, out=sums_RM)


class ModelMoments:
    """The sums of one model over one unit: n, Σu, extremes, and the Gram matrix of every layer."""

    def __init__(self, layers: int, width: int, device: str, gram: bool = True):
        """`gram=False`: for a batch's operands alone, where the Grams are summed elsewhere."""
        self.layers, self.width = layers, width
        self.n = 0
        neurons = layers * width
        self.sum_N = torch.zeros(neurons, dtype=torch.float64, device=device)
        self.minimum_N = torch.full((neurons,), torch.inf, device=device)
        self.maximum_N = torch.full((neurons,), -torch.inf, device=device)
        self._excluded_N = torch.zeros(neurons, device=device)
        """NaN where a neuron was not finite at a token that does not count, else 0"""
        self.gram_LDD = torch.zeros(layers if gram else 0, width, width, device=device)
        self._blocks = _blocks(width, GRAM_ROWS[self.gram_LDD.device.type])

    def update(self, u_TN: Tensor, kept_T: Tensor, policy: str) -> tuple[Tensor, ...]:
        """Add one batch of `u`; returns its operands for the cross products.

        Rows of excluded tokens become zero in place. `kept_T` lies on the CPU, so that nothing here
        waits for a GPU; values out of range are therefore found later, by `check_range`.
        """
        kept = int(kept_T.sum())
        excluded_X = torch.nonzero(~kept_T).flatten()
        if u_TN.is_cuda:
            excluded_X = excluded_X.pin_memory().to(u_TN.device, non_blocking=True)
        for rows_X in excluded_X.split(SUMMED):
            self._excluded_N += u_TN[rows_X].mul_(0).sum(0)
        if kept:
            # Excluded rows first repeat a kept one, so that the extremes are those of kept tokens.
            u_TN[excluded_X] = u_TN[int(kept_T.to(torch.uint8).argmax())].clone()
            for u_SD, columns in self._steps(u_TN):
                least_D, largest_D = self.minimum_N[columns], self.maximum_N[columns]
                torch.minimum(least_D, u_SD.amin(0), out=least_D)
                torch.maximum(largest_D, u_SD.amax(0), out=largest_D)
        u_TN[excluded_X] = 0
        self.n += kept
        factors = operands(u_TN, policy)
        for factor in factors:  # the sum of what is multiplied: its rounding cancels in r
            for part_SD, columns in self._steps(factor):
                self.sum_N[columns] += part_SD.sum(0, dtype=torch.float32)
        if len(self.gram_LDD):
            self._add_grams(factors)
        return factors

    def _steps(self, u_TN: Tensor) -> Iterator[tuple[Tensor, slice]]:
        """Some tokens at a time, and on a CPU one layer's neurons, so that its cache holds them."""
        neurons = self.layers * self.width
        width = neurons if u_TN.is_cuda else self.width
        for start in range(0, neurons, width):
            columns = slice(start, start + width)
            for u_SD in u_TN[:, columns].split(SUMMED):
                yield u_SD, columns

    def _add_grams(self, factors: tuple[Tensor, ...]) -> None:
        """Add to the upper blocks of every layer's Gram; a CPU's cores take a layer each."""
        by_layer = [factor.unflatten(1, (self.layers, self.width)) for factor in factors]
        for block in self._blocks:
            onwards = slice(block.start, self.width)
            left = tuple(factor_TLD[:, :, block] for factor_TLD in by_layer)
            right = tuple(factor_TLD[:, :, onwards] for factor_TLD in by_layer)
            if not self.gram_LDD.is_cuda:
                first, *others = (
                    (a_TLD.permute(1, 2, 0), b_TLD.permute(1, 0, 2))
                    for a_TLD, b_TLD in _products(left, right)
                )
                product_LDD = torch.bmm(*first)
                for factors in others:
                    product_LDD.baddbmm_(*factors)
                self.gram_LDD[:, block, onwards] += product_LDD
                continue
            for layer in range(self.layers):
                accumulate_(
                    self.gram_LDD[layer, block, onwards],
                    tuple(a_TLD[:, layer] for a_TLD in left),
                    tuple(b_TLD[:, layer] for b_TLD in right),
                    block.stop - block.start,
                )

    def check_range(self, policy: str) -> None:
        """Raise NumericalError for values not finite or too large for the policy's halves."""
        if self.n == 0:
            return
        wrong_N = ~(self.minimum_N.isfinite() & self.maximum_N.isfinite())
        if sentence := not_finite(wrong_N, self._excluded_N.isnan(), self.layers):
            raise NumericalError(sentence)
        beyond_N = torch.maximum(-self.minimum_N, self.maximum_N) > LARGEST[policy]
        if bool(beyond_N.any()):
            neuron = int(torch.nonzero(beyond_N)[0])
            raise NumericalError(
                f"layer {neuron // self.width}, neuron {neuron % self.width} has an activation too "
                f"large for precision.moments={policy}: "
                f"{'check the model' if policy == 'fp32' else 'use fp32'}"
            )

    def layer_sums(self, layer: int) -> LayerSums:
        """The sums of one layer, where they are; the Gram matrix whole."""
        columns = slice(layer * self.width, (layer + 1) * self.width)
        gram_DD = self.gram_LDD[layer].clone()
        for block in self._blocks:
            gram_DD[block.stop :, block] = gram_DD[block, block.stop :].T
        return {
            "n": torch.tensor(self.n, dtype=torch.float64),
            "sum": self.sum_N[columns],
            "minimum": self.minimum_N[columns],
            "maximum": self.maximum_N[columns],
            "gram": gram_DD,
        }


def merge(sums: Iterable[LayerSums]) -> LayerSums:
    """Merge sums of disjoint tokens in the order given: float64, extremes by extreme.

    The inputs are left as they are.
    """
    merged: LayerSums = {}
    for part in sums:
        for name, value in part.items():
            if name not in merged:
                merged[name] = value.to(torch.float64, copy=True)
            elif name in EXTREMES:
                merged[name] = EXTREMES[name](merged[name], value.double())
            else:
                merged[name] += value  # exact in float64, whatever the part is held in
    return merged
