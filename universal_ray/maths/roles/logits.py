"""Prediction, suppression and partition neurons: what neurons write into the vocabulary.

Roles are told from the moments of cos(w_out, W_U[:, v]) over the vocabulary, which
`statistics.weights.vocabulary` makes; classes of tokens from the logit effect w_out W_U itself
(arXiv 2401.12181, section 5.1).

Shapes: N neurons of a model, layer by layer, R rows of them, L layers, C channels of the residual
stream, V vocabulary, F features of the id, T tokens, S seeds, Q percentiles.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from universal_ray.errors import ConfigurationError
from universal_ray.maths.statistics.variance_reduction import Scores, score


@dataclass(frozen=True)
class LogitOptions:
    """Where a role begins; the paper's figures."""

    kurtosis: float = 10.0  # vocab_kurt above it: prediction or suppression, by the sign of skew
    variance: float = 0.005  # vocab_var above it: partition
    minimum_ids: int = 5  # a class has at least as many ids, and leaves at least as many out


@dataclass(frozen=True)
class LogitRoles:
    """Which neurons have which role; a neuron may have two, as variance is apart from kurtosis."""

    prediction_N: Tensor
    suppression_N: Tensor
    partition_N: Tensor


def logit_roles(
    moments: dict[str, Float[Tensor, "N"]], options: LogitOptions = LogitOptions()
) -> LogitRoles:
    """Roles from `vocab_var`, `vocab_skew` and `vocab_kurt`; a neuron with NaN moments has none."""
    peaked_N = moments["vocab_kurt"] > options.kurtosis
    return LogitRoles(
        prediction_N=peaked_N & (moments["vocab_skew"] > 0),
        suppression_N=peaked_N & (moments["vocab_skew"] < 0),
        partition_N=moments["vocab_var"] > options.variance,
    )


@dataclass(frozen=True)
class Classes:
    """How far classes of tokens explain the logit effects of neurons."""

    scores: Scores
    """variance reduction and mean difference [F, R]; a positive difference promotes"""
    welch_t_FR: Tensor
    """t of the class against all other ids, variances unequal; NaN where there is no score"""

    def best(self) -> tuple[Int[Tensor, "R"], Float[Tensor, "R"]]:
        """The class of largest variance reduction by neuron, the first of ties, and that
        reduction; -1 and NaN for a neuron without any score."""
        reduction_FR = self.scores.variance_reduction_FN.nan_to_num(-1)
        value_R, feature_R = reduction_FR.max(0)
        none_R = value_R < 0
        return feature_R.masked_fill(none_R, -1), value_R.masked_fill(none_R, torch.nan)


def token_classes(
    w_out_RC: Float[Tensor, "R C"],
    unembed_CV: Float[Tensor, "C V"],
    membership_VF: Bool[Tensor, "ids F"],
    *,
    options: LogitOptions = LogitOptions(),
    block: int = 256,
) -> Classes:
    """Explain the logit effect of R neurons by features of the id, `block` neurons at a time.

    Columns of the unembedding beyond the ids of the membership are padding and left out. Raises
    ConfigurationError where the membership has more ids than the model.
    """
    ids = len(membership_VF)
    if ids > unembed_CV.shape[1]:
        raise ConfigurationError(
            f"The features know {ids} ids where the model embeds {unembed_CV.shape[1]}: make them "
            "from the tokenizer of this model."
        )
    member_VF = membership_VF.to(unembed_CV.device, torch.float64)
    unembed_CV = unembed_CV[:, :ids].double()
    sums: dict[str, list[Tensor]] = {name: [] for name in ("x", "xx", "fx", "fxx")}
    for rows_RC in w_out_RC.double().split(block):
        effect_RV = rows_RC @ unembed_CV
        # Taken from its mean, which changes no score, so that powers do not cancel.
        effect_RV -= effect_RV.mean(1, keepdim=True)
        square_RV = effect_RV**2
        sums["x"].append(effect_RV.sum(1))
        sums["xx"].append(square_RV.sum(1))
        sums["fx"].append((effect_RV @ member_VF).T)
        sums["fxx"].append((square_RV @ member_VF).T)
    x_R, xx_R, fx_FR, fxx_FR = (torch.cat(parts, dim=-1).cpu() for parts in sums.values())
    size_F = member_VF.sum(0).cpu()
    scores = score(
        float(ids), f_F=size_F, x_N=x_R, xx_N=xx_R, fx_FN=fx_FR, minimum_support=options.minimum_ids
    )
    error_FR = _squared_error(size_F, fx_FR, fxx_FR) + _squared_error(
        ids - size_F, x_R - fx_FR, xx_R - fxx_FR
    )
    return Classes(scores, scores.mean_difference_FN / error_FR.sqrt())


def _squared_error(size_F: Tensor, sum_FR: Tensor, square_FR: Tensor) -> Tensor:
    """Squared standard error of the mean of a class, by its sample variance."""
    size_F1 = size_F[:, None]
    variance_FR = (square_FR - sum_FR**2 / size_F1).clamp_min(0) / (size_F1 - 1)
    return variance_FR / size_F1


class NextTokenSums:
    """Σx and Σx² of R neurons by the id of the true next token; float64, sums of batches add."""

    def __init__(self, vocabulary: int, neurons: int, device: str = "cpu") -> None:
        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.float64, device=device)

        self.count_V = zeros(vocabulary)
        self.total_VR = zeros(vocabulary, neurons)
        self.squares_R = zeros(neurons)

    def update_(self, x_TR: Float[Tensor, "T R"], next_T: Int[Tensor, "T"]) -> None:
        """Add tokens with their next ones, in place."""
        x_TR = x_TR.double()
        self.count_V.index_put_((next_T,), x_TR.new_ones(len(next_T)), accumulate=True)
        self.total_VR.index_put_((next_T,), x_TR, accumulate=True)
        self.squares_R += x_TR.square().sum(0)


@dataclass(frozen=True)
class Response:
    """What R neurons do where the true next token is in a class of each one's own; float64."""

    inside_R: Tensor
    """mean activation where it is; NaN where that never happens"""
    outside_R: Tensor
    correlation_R: Tensor
    """of activation and being in the class; NaN for a neuron or a class that does not vary"""


def next_token_response(
    *,
    count_V: Float[Tensor, "V"],
    total_VR: Float[Tensor, "V R"],
    squares_R: Float[Tensor, "R"],
    members_VR: Bool[Tensor, "V R"],
) -> Response:
    """From sums by the id of the true next token: does a neuron fire when it is in its class?"""
    inside_VR = members_VR.double()
    n, size_R = count_V.sum(), count_V @ inside_VR
    fx_R, x_R = (inside_VR * total_VR).sum(0), total_VR.sum(0)
    covariance_R = fx_R - size_R * x_R / n
    spread_R = (squares_R - x_R**2 / n).clamp_min(0) * size_R * (n - size_R) / n
    return Response(
        inside_R=fx_R / size_R,
        outside_R=(x_R - fx_R) / (n - size_R),
        correlation_R=(covariance_R / spread_R.sqrt()).masked_fill(spread_R <= 0, torch.nan),
    )


def counts_by_layer(flag_N: Bool[Tensor, "N"], layers: int) -> Float[Tensor, "L"]:
    """Neurons of each layer that have a role."""
    return flag_N.view(layers, -1).sum(1).double()


def spread_over_seeds(counts_SL: Float[Tensor, "S L"]) -> dict[str, Float[Tensor, "L"]]:
    """Mean, least, largest and sample standard deviation (NaN for one seed) over seeds."""
    return {
        "mean": counts_SL.mean(0),
        "minimum": counts_SL.amin(0),
        "maximum": counts_SL.amax(0),
        "deviation": counts_SL.std(0) if len(counts_SL) > 1 else counts_SL[0] * torch.nan,
    }


def percentiles_by_layer(
    values_N: Float[Tensor, "N"],
    layers: int,
    percentiles: Sequence[float] = (5.0, 10.0, 50.0, 90.0, 95.0),
) -> Float[Tensor, "L Q"]:
    """Percentiles of a statistic within each layer, NaN left out, as in the paper's figure 6."""
    share_Q = torch.tensor(percentiles, dtype=torch.float64, device=values_N.device) / 100
    return values_N.double().view(layers, -1).nanquantile(share_Q, dim=1).T
