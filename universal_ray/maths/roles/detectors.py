"""Simple detectors: dead neurons, token and n-gram detectors, neurons of position.

After Voita et al., arXiv 2309.04827, whose models have ReLU. Here a neuron is active on a token
when its pre-activation is above zero, and dead when its activation never exceeds a small number.

Shapes: B rows, P positions, T tokens, D neurons, U distinct n-grams, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from universal_ray.errors import ConfigurationError
from universal_ray.maths.statistics.position import mutual_information

NO_NGRAM = -1
POSITION_KINDS = NONE, ONE_END, BOTH_ENDS, OSCILLATORY, OTHER = (
    "none",
    "one end",
    "both ends",
    "oscillatory",
    "other",
)
"""How the rate of activity goes with the position."""


@dataclass(frozen=True)
class DetectorOptions:
    """Where a detector begins; the paper's figures, but for `dead`, `strong` and `swing`."""

    dead: float = 1e-3  # largest activation of a dead neuron
    ngrams: int = 5  # a detector has at most as many n-grams
    fires: float = 0.95  # an n-gram counts where the neuron is active on this share of it
    covers: float = 0.95  # those n-grams make up this share of all its activity
    information: float = 0.05  # nats of position that its activity tells
    strong: float = 0.9  # difference of the largest and the least rate
    swing: float = 0.25  # a rate turns where it goes so far, as a share of that difference


def ngrams(tokens_BP: Int[Tensor, "B P"], length: int, vocabulary: int) -> Int[Tensor, "B*P"]:
    """The n-gram that ends at each token, as one number; -1 where the row has too few before it.

    Raises ConfigurationError where n-grams of the vocabulary are more than an int64 tells apart.
    """
    if vocabulary**length > 2**63:
        raise ConfigurationError(
            f"N-grams of {length} ids of {vocabulary} exceed a 64-bit number: choose shorter ones."
        )
    ngram_BP = torch.zeros_like(tokens_BP)
    for back in range(length):
        ngram_BP += tokens_BP.roll(back, dims=1) * vocabulary**back
    ngram_BP[:, : length - 1] = NO_NGRAM
    return ngram_BP.flatten()


@dataclass(frozen=True, kw_only=True)
class NgramSums:
    """How often each n-gram occurs, and how often each of D neurons is active at its end; those of
    disjoint tokens merge. Token ids are n-grams of one. A neuron is active on few n-grams, so that
    only pairs that occur are held.
    """

    neurons: int
    ngram_U: Tensor
    """ascending"""
    count_U: Tensor
    place_E: Tensor
    """of each pair: its n-gram, as a place in `ngram_U`; by n-gram, then by neuron"""
    neuron_E: Tensor
    fired_E: Tensor

    @classmethod
    def of(cls, ngram_T: Int[Tensor, "T"], active_TD: Bool[Tensor, "T D"]) -> "NgramSums":
        """Of some tokens; those without an n-gram do not count."""
        some_T = ngram_T != NO_NGRAM
        ngram_U, place_T, count_U = ngram_T[some_T].unique(return_inverse=True, return_counts=True)
        token_X, neuron_X = torch.nonzero(active_TD[some_T], as_tuple=True)
        neurons = active_TD.shape[1]
        pair_E, fired_E = (place_T[token_X] * neurons + neuron_X).unique(return_counts=True)
        return cls(
            neurons=neurons,
            ngram_U=ngram_U,
            count_U=count_U,
            place_E=pair_E // neurons,
            neuron_E=pair_E % neurons,
            fired_E=fired_E,
        )

    @classmethod
    def of_ids(cls, count_V: Int[Tensor, "V"], fired_VD: Int[Tensor, "V D"]) -> "NgramSums":
        """Of all ids, from how often each occurs and how often each neuron is active on it."""
        seen_U = torch.nonzero(count_V).flatten()
        place_E, neuron_E = torch.nonzero(fired_VD[seen_U], as_tuple=True)
        fired_E = fired_VD[seen_U[place_E], neuron_E]
        return cls(
            neurons=fired_VD.shape[1],
            ngram_U=seen_U,
            count_U=count_V[seen_U],
            place_E=place_E,
            neuron_E=neuron_E,
            fired_E=fired_E,
        )

    @classmethod
    def merged(cls, parts: Sequence["NgramSums"]) -> "NgramSums":
        """Sums of disjoint tokens together."""
        neurons = parts[0].neurons
        ngram_U = torch.cat([part.ngram_U for part in parts]).unique()
        count_U = torch.zeros_like(ngram_U)
        pairs = []
        for part in parts:
            place_P = torch.searchsorted(ngram_U, part.ngram_U)
            count_U[place_P] += part.count_U
            pairs.append(place_P[part.place_E] * neurons + part.neuron_E)
        pair_E, place_X = torch.cat(pairs).unique(return_inverse=True)
        fired_E = torch.zeros_like(pair_E)
        fired_E.index_add_(0, place_X, torch.cat([part.fired_E for part in parts]))
        return cls(
            neurons=neurons,
            ngram_U=ngram_U,
            count_U=count_U,
            place_E=pair_E // neurons,
            neuron_E=pair_E % neurons,
            fired_E=fired_E,
        )


@dataclass(frozen=True)
class Detectors:
    """Which neurons respond to a few n-grams and to nothing else."""

    detector_D: Tensor
    share_D: Tensor
    """of its activity that its n-grams make up; NaN for a neuron that is never active"""
    ngrams: tuple[tuple[int, ...], ...]
    """of each neuron, by how much of its activity each makes up; empty where it is no detector"""


def detectors(sums: NgramSums, options: DetectorOptions = DetectorOptions()) -> Detectors:
    """Neurons active on nearly every occurrence of a few n-grams, which make up nearly all of
    their activity.

    Only n-grams that the neuron is active on `fires` of count, and of those the `ngrams` that make
    up most; the neuron is a detector where these make up `covers`. Where BOS or other ids are not
    to count, leave their tokens out of the sums.
    """
    zeros_D = torch.zeros(sums.neurons, dtype=torch.float64, device=sums.fired_E.device)
    total_D = zeros_D.index_add(0, sums.neuron_E, sums.fired_E.double())
    kept_E = sums.fired_E >= options.fires * sums.count_U[sums.place_E]
    place_K, neuron_K, fired_K = (
        each[kept_E] for each in (sums.place_E, sums.neuron_E, sums.fired_E)
    )
    order_K = fired_K.argsort(descending=True, stable=True)
    order_K = order_K[neuron_K[order_K].argsort(stable=True)]
    place_K, neuron_K, fired_K = place_K[order_K], neuron_K[order_K], fired_K[order_K]
    first_D = torch.searchsorted(neuron_K, torch.arange(sums.neurons, device=neuron_K.device))
    among_K = torch.arange(len(neuron_K), device=neuron_K.device) - first_D[neuron_K]
    top_K = among_K < options.ngrams
    place_K, neuron_K, fired_K = place_K[top_K], neuron_K[top_K], fired_K[top_K]
    share_D = zeros_D.index_add(0, neuron_K, fired_K.double()) / total_D
    detector_D = share_D >= options.covers
    found: list[tuple[int, ...]] = [()] * sums.neurons
    its_K = detector_D[neuron_K]
    neurons, ngrams = neuron_K[its_K].tolist(), sums.ngram_U[place_K[its_K]].tolist()
    for neuron, ngram in zip(neurons, ngrams, strict=True):
        found[neuron] += (ngram,)
    return Detectors(detector_D, share_D, tuple(found))


def most_active(count_U: Int[Tensor, "U"], options: DetectorOptions = DetectorOptions()) -> float:
    """Tokens that a detector of such n-grams is active on at most: others need no sums of pairs."""
    return float(count_U.topk(min(options.ngrams, len(count_U))).values.sum()) / options.covers


def suppresses_its_token(
    token_D: Int[Tensor, "D"], w_out_DC: Float[Tensor, "D C"], unembed_CV: Float[Tensor, "C V"]
) -> Bool[Tensor, "D"]:
    """Whether a token detector writes against the token it detects: its logit below the mean."""
    effect_D = (w_out_DC.double() * unembed_CV.double().T[token_D]).sum(1)
    return effect_D < w_out_DC.double() @ unembed_CV.double().mean(1)


@dataclass(frozen=True)
class Positional:
    """What position tells of activity."""

    information_D: Tensor
    """mutual information of position and being active, nats"""
    kind: tuple[str, ...]
    """`none` below the threshold, else how the rate goes with the position"""
    strong_D: Tensor
    """whether the rate goes nearly all the way between 0 and 1"""


def positional(
    fired_PD: Float[Tensor, "P D"],
    count_P: Float[Tensor, "P"],
    options: DetectorOptions = DetectorOptions(),
) -> Positional:
    """Neurons of position, from how often each is active at each position.

    The paper tells kinds by eye; here they are told by the turns of the rate, swings below a
    quarter of its range left out. No turn: `one end`; one turn: `both ends` where the ends are
    alike, that is on one side of the middle of the range, else `one end`; three turns or more:
    `oscillatory`; two turns: `other`. Positions without tokens are left out.
    """
    information_D = mutual_information(fired_PD, count_P)
    seen_P = count_P > 0
    rate_PD = (fired_PD[seen_P] / count_P[seen_P, None]).double().cpu()
    range_D = rate_PD.amax(0) - rate_PD.amin(0)
    kinds = [
        _kind(rate_P, options.swing * range_P) if told > options.information else NONE
        for rate_P, range_P, told in zip(
            rate_PD.T.tolist(), range_D.tolist(), information_D.tolist(), strict=True
        )
    ]
    positional_D = information_D > options.information
    strong_D = positional_D & (range_D.to(positional_D.device) >= options.strong)
    return Positional(information_D, tuple(kinds), strong_D)


def _kind(rate_P: list[float], swing: float) -> str:
    turns = _turns(rate_P, swing)
    middle = (max(rate_P) + min(rate_P)) / 2
    if turns == 0:
        return ONE_END
    if turns == 1:
        return BOTH_ENDS if (rate_P[0] > middle) == (rate_P[-1] > middle) else ONE_END
    return OSCILLATORY if turns >= 3 else OTHER


def _turns(rate_P: list[float], swing: float) -> int:
    """How often a curve changes direction, changes smaller than `swing` left out."""
    turns, direction, extreme = 0, 0, rate_P[0]
    for rate in rate_P[1:]:
        if direction * (rate - extreme) > 0:
            extreme = rate
        elif abs(rate - extreme) >= swing and rate != extreme:
            turns += direction != 0
            direction, extreme = (1 if rate > extreme else -1), rate
    return turns
