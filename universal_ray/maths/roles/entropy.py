"""Entropy neurons from weights: long, yet nearly blind to the vocabulary.

Such a neuron writes where the unembedding reads next to nothing, so that it moves the scale of the
final LayerNorm and with it the entropy of the prediction, hardly its order (arXiv 2401.12181,
section 5.2; arXiv 2406.16254).

Shapes: N neurons of a model, layer by layer, C channels of the residual stream, V vocabulary,
R neurons chosen.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from universal_ray.errors import ConfigurationError
from universal_ray.maths.statistics.weights import Resemblance

SWEEP = (-0.17, 0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0)
"""Activations that the paper holds neurons at; -0.17 is the least that GELU gives."""
CHANNELS_PER_DIRECTION = 64
"""By default the bottom 12 of 768 singular directions count, where those of GPT-2 small fall off
sharply, and as large a share of other widths."""
ZERO = 1e-5
"""A singular value below this share of their root mean square is zero but for rounding; so is what
neurons write along a direction below this share of its length, in the root mean square of them."""


@dataclass(frozen=True)
class EntropyOptions:
    """Which neurons are candidates, and which are compared with them."""

    last_layers: int = 2
    # Of the length of w_out in the bottom directions, at least; of this project's choosing. Half of
    # the length, a quarter of its square, is 17 times what a random direction has there.
    null_share: float = 0.5
    norm_percentile: float = 50.0  # w_out at least as long as this percentile of those layers
    kurtosis: float = 10.0  # vocab_kurt at most
    candidates: int = 6  # the least vocab_var of those
    controls: int = 20  # random neurons of the same layers
    control_norm: float = 90.0  # w_out no longer than this percentile
    control_variance: float = 10.0  # vocab_var at least this percentile
    seed: int = 0


def null_space_share(
    w_out_NC: Float[Tensor, "N C"], unembed_CV: Float[Tensor, "C V"], directions: int | None = None
) -> Float[Tensor, "N"]:
    """|V₀ᵀ w_out| / |w_out| for the bottom left singular vectors V₀ of the unembedding; float64.

    Of the bottom `directions` those that the unembedding does not read and no neuron writes along
    either are left out: with absorbed LayerNorms the one of equal channels, so that k - 1 count. A
    random direction of the S others then has √((k - 1) / S) in the root mean square. NaN for a
    neuron that writes nothing.

    Raises ConfigurationError where there are not so many directions, or none that counts.
    """
    w_out_NC = w_out_NC.double()
    length_N = w_out_NC.norm(dim=1)
    # R of W_Uᵀ = QR has its singular values and left vectors, and is no larger than C × C.
    r_XC = torch.linalg.qr(unembed_CV.double().T, mode="r").R
    left_CC, found_X, _ = torch.linalg.svd(r_XC.T)
    channels = len(left_CC)
    singular_C = left_CC.new_zeros(channels)
    singular_C[: len(found_X)] = found_X
    zero_C = singular_C <= ZERO * singular_C.square().mean().sqrt()
    idle = 0
    if bool(zero_C.any()):
        share_NZ = (w_out_NC[length_N > 0] / length_N[length_N > 0, None]) @ left_CC[:, zero_C]
        square_Z, turn_ZZ = torch.linalg.eigh(share_NZ.T @ share_NZ / max(1, len(share_NZ)))
        written_CX = left_CC[:, zero_C] @ turn_ZZ[:, square_Z > ZERO**2]
        left_CC = torch.cat([left_CC[:, ~zero_C], written_CX], dim=1)
        idle = channels - left_CC.shape[1]
    if directions is None:
        directions = max(1 + idle, round(channels / CHANNELS_PER_DIRECTION))
    if not idle < directions < channels:
        raise ConfigurationError(
            f"The unembedding has {channels} singular directions, {idle} of which nothing reads or "
            f"writes: the bottom {directions} tell nothing, choose more than {idle} and fewer than "
            f"{channels}."
        )
    share_N: Tensor = (w_out_NC @ left_CC[:, idle - directions :]).norm(dim=1) / length_N
    return share_N


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """Flat indices of neurons to intervene on, and the orders that the papers' rules make."""

    candidates_R: Tensor
    """by ascending vocab_var"""
    controls_R: Tensor
    entropy_rank_N: Tensor
    """place by ascending vocab_var among long neurons of the last layers whose vocab_kurt is not
    high, whatever their null_share, as in arXiv 2401.12181; -1 for all others"""
    null_share_rank_N: Tensor
    """place by descending null_share among neurons of the last layers, as in arXiv 2406.16254; -1
    for all others"""


def choose(
    statistics: dict[str, Float[Tensor, "N"]],
    layers: int,
    options: EntropyOptions = EntropyOptions(),
) -> Chosen:
    """Candidates and their random controls, of the last layers.

    From `w_out_norm`, `vocab_var`, `vocab_kurt` and `null_share`. The paper filters by figures of
    each model's own; percentiles and the share of the null space serve any. Raises
    ConfigurationError where a model has fewer layers.
    """
    if not 1 <= options.last_layers <= layers:
        raise ConfigurationError(
            f"Entropy neurons are looked for in the last {options.last_layers} layers of a model "
            f"of {layers}: choose as many or fewer, and one at least."
        )
    norm_N, variance_N = statistics["w_out_norm"], statistics["vocab_var"]
    late_N = torch.zeros_like(norm_N, dtype=torch.bool)
    late_N.view(layers, -1)[-options.last_layers :] = True
    fits_N = (
        late_N
        & (norm_N >= _percentile(norm_N[late_N], options.norm_percentile))
        & ~(statistics["vocab_kurt"] > options.kurtosis)  # none where all cosines are alike
    )
    share_N = statistics["null_share"]
    ordered_R = _ascending(variance_N, fits_N)
    candidates_R = ordered_R[share_N[ordered_R] >= options.null_share][: options.candidates]
    plain_N = (
        late_N
        & (norm_N <= _percentile(norm_N[late_N], options.control_norm))
        & (variance_N >= _percentile(variance_N[late_N], options.control_variance))
    )
    plain_N[candidates_R] = False
    plain_R = torch.nonzero(plain_N).flatten()
    generator = torch.Generator().manual_seed(options.seed)
    drawn_R = torch.randperm(len(plain_R), generator=generator)[: options.controls]
    return Chosen(
        candidates_R=candidates_R,
        controls_R=plain_R[drawn_R.to(plain_R.device)],
        entropy_rank_N=_places(ordered_R, len(norm_N)),
        null_share_rank_N=_places(_ascending(-share_N, late_N), len(norm_N)),
    )


def _ascending(value_N: Tensor, some_N: Tensor) -> Tensor:
    """Indices of some neurons in the order of a value that they have; ties to the lowest."""
    index_R = torch.nonzero(some_N & ~value_N.isnan()).flatten()
    return index_R[torch.sort(value_N[index_R], stable=True).indices]


def _places(ordered_R: Tensor, count: int) -> Tensor:
    place_N = torch.full((count,), -1, device=ordered_R.device)
    place_N[ordered_R] = torch.arange(len(ordered_R), device=ordered_R.device)
    return place_N


def _percentile(values_R: Tensor, percentile: float) -> Tensor:
    return values_R.nanquantile(percentile / 100)


def antipodal_pairs(out: Resemblance, cosine: float = -0.5) -> Int[Tensor, "pairs 2"]:
    """Neurons that write against each other, each the other's most opposite, lower index first.

    From the resemblance of w_out; in arwen-gpt2-medium 22.2882 and 23.945 have a cosine of -0.886.
    """
    index_N = torch.arange(len(out.min_N), device=out.min_N.device)
    other_N = out.min_index_N
    some_N = (out.min_N <= cosine) & (other_N > index_N)
    mutual_N = some_N & (other_N[other_N.clamp_min(0)] == index_N)
    return torch.stack([index_N[mutual_N], other_N[mutual_N]], dim=1)
