"""Sums of features of the row over the tokens that count: what their scores need beside LayerSums.

A product of at most `TOKENS_AT_ONCE` tokens is made in float32 and added in float64. Rounding in
it is at most 2⁻²⁴ · TOKENS_AT_ONCE of Σ|x| in theory, some 1e-7 of it in practice: scores move by
less than 1e-6 (tested, neurons far from zero among them).

Shapes: T tokens, E features of the row, F features of the id, D neurons of a layer, V ids.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from universal_ray.errors import NumericalError
from universal_ray.maths.statistics.activations import LayerSums, Places, rows_at
from universal_ray.maths.statistics.variance_reduction import MINIMUM_SUPPORT, Scores, score

TOKENS_AT_ONCE = 1024


@dataclass(frozen=True)
class FeatureSums:
    """Sums over the tokens that count, for the neurons of one layer."""

    n: Tensor
    """tokens"""
    f_E: Tensor
    """tokens with the feature"""
    fx_ED: Tensor
    """Σ of the post-activation over them"""

    @classmethod
    def zeros(cls, features: int, width: int, device: str = "cpu") -> "FeatureSums":
        """No tokens yet."""

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.float64, device=device)

        return cls(zeros(), zeros(features), zeros(features, width))

    def update_(
        self, label_TE: Bool[Tensor, "T E"], post_TD: Float[Tensor, "T D"], where: Places
    ) -> None:
        """Add the tokens of a batch that count, in place; labels come from `FeatureBank.labels`."""
        self.n.add_(len(where.place_T))
        for start in range(0, len(where.place_T), TOKENS_AT_ONCE):
            place_C = where.place_T[start : start + TOKENS_AT_ONCE]
            label_CE = rows_at(label_TE, place_C).float()
            self.f_E.add_(label_CE.sum(0))
            self.fx_ED.add_(label_CE.T @ rows_at(post_TD, place_C).float())

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor by its name, as they are stored."""
        return dict(vars(self))

    @classmethod
    def of(cls, tensors: dict[str, Tensor]) -> "FeatureSums":
        """The sums that `tensors` gave."""
        return cls(**tensors)


def merge_features(parts: list[FeatureSums]) -> FeatureSums:
    """Sums of disjoint tokens together, added in the order given; the parts stay as they are."""
    totals = {name: tensor.clone() for name, tensor in parts[0].tensors().items()}
    for part in parts[1:]:
        for name, tensor in part.tensors().items():
            totals[name].add_(tensor)
    return FeatureSums.of(totals)


def id_sums(layer: LayerSums, membership_VF: Bool[Tensor, "V F"], looks_at: str) -> FeatureSums:
    """Sums of features of the `current` or `previous` id, which follow from sums by id.

    A token without a previous one counts among those without the feature.
    """
    member_FV = membership_VF.T.double()
    return FeatureSums(
        n=layer.powers_5D[0, 0].clone(),
        f_E=member_FV @ layer.count[looks_at],
        fx_ED=member_FV @ layer.total[looks_at],
    )


def score_layer(
    layer: LayerSums, parts: Sequence[FeatureSums], minimum_support: int = MINIMUM_SUPPORT
) -> Scores:
    """Scores of the features of all parts, in their order, on the neurons of a layer.

    Raises NumericalError where they are not sums over the same tokens.
    """
    n = float(layer.powers_5D[0, 0])
    for part in parts:
        if float(part.n) != n:
            raise NumericalError(
                f"features are summed over {int(part.n)} tokens and neurons over {int(n)}: "
                "sum both over the same tokens"
            )
    return score(
        n,
        f_F=torch.cat([part.f_E for part in parts]),
        x_N=layer.total["position"].sum(0),
        xx_N=layer.squares_D,
        fx_FN=torch.cat([part.fx_ED for part in parts]),
        minimum_support=minimum_support,
    )
