"""From scores of all features on all neurons to families: what explains each neuron best.

A family is a kind of neuron as arXiv 2401.12181 (section 4.3) tells them apart, coarser than the
families of features. Thresholds are those of the authors' code where it has one. Alphabet neurons
are those of a single letter, as there; a neuron of tokens that begin with a letter, which their
code scores among features of the token, has a family of its own.

Shapes: F features, N neurons, K features of a list, G families, P pairs of neurons, M neurons of
another model.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from universal_ray.errors import NumericalError
from universal_ray.features.bank import LETTER, Column
from universal_ray.features.features import PREVIOUS
from universal_ray.maths.moments.row_summary import largest
from universal_ray.maths.statistics.comparison import bootstrap_interval

UNIGRAM, ALPHABET, PREVIOUS_TOKEN = "unigram", "alphabet", "previous token"
FIRST_LETTER = "first letter"
SYNTAX, SEMANTIC = "syntax", "semantic"
FAMILY_OF_FEATURES = {
    LETTER: ALPHABET,
    **dict.fromkeys(
        ("type", "starts", "symbol", "numeric", "pronoun", "word group", "prefix", "suffix"),
        UNIGRAM,
    ),
    **dict.fromkeys(("special", "embedding", "occurrence"), UNIGRAM),
    **dict.fromkeys(("part of speech", "morphology", "dependency", "entity"), SYNTAX),
    **dict.fromkeys(("stop word", "sentence", "alignment"), SYNTAX),
    **dict.fromkeys(("topic", "subset"), SEMANTIC),
}
"""Families of features that have another name as families of neurons."""
NONE = -1
MEMBER, PARTLY, UNEXPLAINED = "member", "partly", "unexplained"
"""A neuron is a member above its family's threshold, unexplained below another, else partly so."""


@dataclass(frozen=True)
class FamilyOptions:
    """Variance reduction above which a neuron belongs to the family of its best feature."""

    unigram: float = 0.5  # the authors' for features of the token
    alphabet: float = 0.37  # theirs for single letters
    other: float = 0.3  # they have none; the syntax neurons they list end at 0.33
    unexplained: float = 0.05  # below it nothing explains a neuron

    def threshold(self, family: str) -> float:
        """The threshold of one family."""
        known = {
            UNIGRAM: self.unigram, FIRST_LETTER: self.unigram, ALPHABET: self.alphabet,
        }  # fmt: skip
        return known.get(family, self.other)


def neuron_family(column: Column) -> str:
    """The family of the neurons that a feature explains."""
    if column.looks_at == PREVIOUS:
        return PREVIOUS_TOKEN
    return FAMILY_OF_FEATURES.get(column.family, column.family)


def top_features(
    reduction_FN: Float[Tensor, "F N"], count: int
) -> tuple[Float[Tensor, "N K"], Int[Tensor, "N K"]]:
    """The best features of each neuron with their scores, ties to the first; for none NaN, -1."""
    score_NK, feature_NK = largest(reduction_FN.T.nan_to_num(nan=-torch.inf), None, count)
    none_NK = score_NK == -torch.inf
    return score_NK.masked_fill(none_NK, torch.nan), feature_NK.masked_fill(none_NK, NONE)


@dataclass(frozen=True, kw_only=True)
class Membership:
    """What explains each neuron best; NaN and -1 where it has no score at all."""

    families: tuple[str, ...]
    """in the order in which the features name them"""
    family_N: Tensor
    """of the best feature"""
    feature_N: Tensor
    score_N: Tensor
    """variance reduction by the best feature"""
    runner_up_family_N: Tensor
    """of the best feature of any other family"""
    runner_up_feature_N: Tensor
    runner_up_score_N: Tensor
    threshold_N: Tensor
    """of the family of the best feature"""
    unexplained_N: Tensor

    @property
    def member_N(self) -> Bool[Tensor, "N"]:
        """Which neurons belong to their family."""
        return self.score_N > self.threshold_N

    @property
    def member_family_N(self) -> Int[Tensor, "N"]:
        """The family of each member, -1 for the other neurons."""
        return self.family_N.masked_fill(~self.member_N, NONE)

    def table(self, columns: Sequence[Column]) -> dict[str, list[Any]]:
        """One row per neuron, None where there is no score; `columns`: what there are scores of."""
        names = [column.name for column in columns]

        def named(index_N: Tensor, values: Sequence[str]) -> list[str | None]:
            return [None if index == NONE else values[index] for index in index_N.tolist()]

        def numbers(value_N: Tensor) -> list[float | None]:
            return [None if value != value else value for value in value_N.tolist()]

        states = zip(
            self.family_N.tolist(), self.member_N.tolist(), self.unexplained_N.tolist(), strict=True
        )
        return {
            "family": named(self.family_N, self.families),
            "feature": named(self.feature_N, names),
            "variance_reduction": numbers(self.score_N),
            "threshold": numbers(self.threshold_N),
            "status": [
                None if family == NONE else MEMBER if member else UNEXPLAINED if poor else PARTLY
                for family, member, poor in states
            ],
            "runner_up_family": named(self.runner_up_family_N, self.families),
            "runner_up_feature": named(self.runner_up_feature_N, names),
            "runner_up_variance_reduction": numbers(self.runner_up_score_N),
        }


def membership(
    reduction_FN: Float[Tensor, "F N"],
    columns: Sequence[Column],
    options: FamilyOptions | None = None,
) -> Membership:
    """The family of every neuron: that of its best feature.

    Ties go to the family, and within it to the feature, that comes first. A score that is no
    feature's of the bank, such as `position_variance_explained`, may have a row and a column too.
    Raises NumericalError where rows and columns differ in number.
    """
    options = options or FamilyOptions()
    if len(columns) != len(reduction_FN):
        raise NumericalError(
            f"there are scores of {len(reduction_FN)} features and names of {len(columns)}: "
            "give the columns that the scores were made with"
        )
    family_F = [neuron_family(column) for column in columns]
    families = tuple(dict.fromkeys(family_F))
    scored_FN = reduction_FN.double().nan_to_num(nan=-torch.inf)
    neurons = scored_FN.shape[1]
    best_GN = scored_FN.new_full((max(2, len(families)), neurons), -torch.inf)
    feature_GN = torch.full(best_GN.shape, NONE, device=best_GN.device)
    for index, family in enumerate(families):
        own = torch.tensor([place for place, name in enumerate(family_F) if name == family])
        value_N, place_N = _first_largest(scored_FN[own.to(scored_FN.device)])
        best_GN[index], feature_GN[index] = value_N, own.to(place_N.device)[place_N]
    score_N, family_N = _first_largest(best_GN)
    others_GN = best_GN.scatter(0, family_N[None], -torch.inf)
    other_score_N, other_family_N = _first_largest(others_GN)

    def picked(family_N: Tensor, score_N: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        none_N = score_N == -torch.inf
        feature_N = feature_GN.gather(0, family_N[None])[0]
        found = (family_N.masked_fill(none_N, NONE), feature_N.masked_fill(none_N, NONE))
        return *found, score_N.masked_fill(none_N, torch.nan)

    family_N, feature_N, score_N = picked(family_N, score_N)
    runner_up_family_N, runner_up_feature_N, runner_up_score_N = picked(
        other_family_N, other_score_N
    )
    # The last one is for neurons without a family, whose index is -1.
    threshold_G = score_N.new_tensor([*(options.threshold(name) for name in families), torch.nan])
    return Membership(
        families=families,
        family_N=family_N,
        feature_N=feature_N,
        score_N=score_N,
        runner_up_family_N=runner_up_family_N,
        runner_up_feature_N=runner_up_feature_N,
        runner_up_score_N=runner_up_score_N,
        threshold_N=threshold_G[family_N],
        unexplained_N=score_N < options.unexplained,
    )


def _first_largest(value_XN: Tensor) -> tuple[Tensor, Tensor]:
    """Largest of each column and the first place where it is."""
    value_N = value_XN.amax(0)
    return value_N, (value_XN == value_N).int().argmax(0)


def duplicates(neurons: Membership, minimum: int = 3) -> dict[int, list[int]]:
    """Features that are the best of several members, with those neurons, the best first.

    As the paper's figure 15, where three neurons make a group; the largest groups come first.
    """
    members = torch.nonzero(neurons.member_N).flatten()
    order = torch.sort(neurons.score_N[members], descending=True, stable=True).indices
    groups: dict[int, list[int]] = {}
    for neuron in members[order].tolist():
        groups.setdefault(int(neurons.feature_N[neuron]), []).append(neuron)
    kept = [(feature, found) for feature, found in groups.items() if len(found) >= minimum]
    return dict(sorted(kept, key=lambda group: (-len(group[1]), group[0])))


@dataclass(frozen=True)
class FamilyAgreement:
    """How often matched neurons of two models belong to the same family."""

    pairs: int
    """whose first neuron has a family"""
    same: float
    """share of them whose second neuron has that family"""
    same_low: float
    """ends of a bootstrap interval over pairs; NaN for fewer than two"""
    same_high: float
    chance: float
    """the share expected of a random neuron of the second neuron's layer: exact, nothing drawn"""
    gain: float
    """same minus chance"""
    gain_low: float
    gain_high: float


def family_agreement(
    family_P: Int[np.ndarray, "P"],
    partner_P: Int[np.ndarray, "P"],
    other_family_M: Int[np.ndarray, "M"],
    other_layer_M: Int[np.ndarray, "M"],
    *,
    seed: int = 0,
) -> FamilyAgreement:
    """Agreement of neurons with their partners in another model, against its layers at random.

    `family_P`: families of some neurons of the first model; `partner_P`: the neuron of the other
    that matches each. -1 is no family; families are numbered alike in both models. Features may
    stand in the place of families.
    """
    has_P = family_P != NONE
    family_P, partner_P = family_P[has_P], partner_P[has_P]
    same_P = (other_family_M[partner_P] == family_P).astype(np.float64)
    layer_P = other_layer_M[partner_P]
    chance_P = np.empty(len(family_P))
    for layer in np.unique(layer_P):
        here_P = layer_P == layer
        values, counts = np.unique(other_family_M[other_layer_M == layer], return_counts=True)
        share = dict(zip(values.tolist(), (counts / counts.sum()).tolist(), strict=True))
        chance_P[here_P] = [share.get(family, 0.0) for family in family_P[here_P].tolist()]
    same_low, same_high = bootstrap_interval(same_P, seed=seed)
    gain_low, gain_high = bootstrap_interval(same_P - chance_P, seed=seed)
    same, chance = (float(x.mean()) if len(x) else np.nan for x in (same_P, chance_P))
    return FamilyAgreement(
        pairs=len(family_P),
        same=same,
        same_low=same_low,
        same_high=same_high,
        chance=chance,
        gain=same - chance,
        gain_low=gain_low,
        gain_high=gain_high,
    )
