"""Shift and scale of every neuron, from the first batch of a study: what the sums are in units of.

Pure. Shapes: T tokens of a batch, K of them that count, N neurons in layers of D.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from universal_ray.errors import NumericalError

STEPS = 8
"""Shifts are whole steps of the deviation's power of two, so many to one."""


@dataclass(frozen=True)
class Calibration:
    """Shift and power-of-two scale of every neuron: `u = (x - shift) / scale`, both float32 [N]."""

    shift_N: Tensor
    scale_N: Tensor

    def of(self, columns: slice) -> "Calibration":
        """Of some of the neurons."""
        return Calibration(self.shift_N[columns], self.scale_N[columns])


def calibrate(x_TN: Float[Tensor, "T N"], kept_T: Bool[Tensor, "T"], layers: int) -> Calibration:
    """Choose shift and scale from one batch.

    The shift is the mean, to an eighth of the deviation's power of two: the zeros of a ReLU become
    a number of few bits, whose products float32 adds up exactly. With all bits of a mean they would
    be rounded at every addition, each time to the same side.

    The scale is the power of two at or above the largest of the standard deviation, a thousandth
    of the largest distance from the mean, and a hundredth of the layer's median deviation (so that
    a neuron silent here which fires later does not overflow half precision).

    Raises NumericalError where an activation that counts is not finite or no token is kept.
    """
    if not bool(kept_T.any()):
        raise NumericalError("calibration found no token to keep: exclude fewer tokens")
    kept_K, excluded_X = (torch.nonzero(which_T).flatten().to(x_TN.device)
                          for which_T in (kept_T, ~kept_T))
    shifts, scales, wrong, wrong_excluded = [], [], [], []
    for x_TD in x_TN.chunk(layers, dim=1):  # float64 copies of one layer at a time
        x_KD = x_TD[kept_K].double()
        wrong.append(~x_KD.isfinite().all(0))
        wrong_excluded.append(~x_TD[excluded_X].isfinite().all(0))
        mean_D = x_KD.mean(0)
        deviation_D = x_KD.std(0, correction=0)
        reach_D = (x_KD - mean_D).abs().amax(0)
        floor_D = (deviation_D.median() / 100).expand_as(deviation_D)
        step_D = _power_of_two(deviation_D).double() / STEPS
        shift_D = torch.where(deviation_D > 0, (mean_D / step_D).round() * step_D, mean_D)
        shifts.append(shift_D.float())
        scales.append(_power_of_two(torch.stack([deviation_D, reach_D / 1000, floor_D]).amax(0)))
    if sentence := not_finite(torch.cat(wrong), torch.cat(wrong_excluded), layers):
        raise NumericalError(sentence)
    return Calibration(torch.cat(shifts), torch.cat(scales))


def not_finite(
    wrong_N: Bool[Tensor, "N"], wrong_excluded_N: Bool[Tensor, "N"], layers: int
) -> str | None:
    """A sentence where some neuron is not finite at a token that counts; else None.

    `wrong_excluded_N`: not finite at a token that does not count. Alone that does no harm, but in a
    layer as low as the first harm done it may be where that came from.
    """
    width = len(wrong_N) // layers
    kept, excluded = (
        int(torch.nonzero(which_N)[0]) if bool(which_N.any()) else None
        for which_N in (wrong_N, wrong_excluded_N)
    )
    if kept is None:
        return None
    if excluded is None or excluded // width > kept // width:
        return (
            f"layer {kept // width}, neuron {kept % width} has an activation that is not finite: "
            "check the model"
        )
    return (
        f"layer {excluded // width}, neuron {excluded % width} has an activation that is not "
        "finite at an excluded token; tokens that count, which may attend to it, have such too: "
        "check the model"
    )


def _power_of_two(least_D: Tensor) -> Tensor:
    """The power of two at or above each value, float32; one for zero."""
    mantissa_D, exponent_D = torch.frexp(least_D)
    exponent_D = torch.where(mantissa_D == 0.5, exponent_D - 1, exponent_D)
    exponent_D = exponent_D.clamp_min(-126)  # the inverse of a smaller scale overflows float32
    scale_D = torch.ldexp(torch.ones_like(least_D), exponent_D)
    return torch.where(least_D > 0, scale_D, torch.ones_like(scale_D)).float()


def normalise(
    x_TN: Float[Tensor, "T N"], calibration: Calibration, out: Tensor | None = None
) -> Float[Tensor, "T N"]:
    """Raw activations as `u`, in one pass over memory; in `out` where it is given.

    `x / scale - shift / scale` rounds once, as `(x - shift) / scale` does: dividing by a power of
    two is exact.
    """
    inverse_N = 1 / calibration.scale_N
    return torch.addcmul(-calibration.shift_N * inverse_N, x_TN, inverse_N, out=out)
