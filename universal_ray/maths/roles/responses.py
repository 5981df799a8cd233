"""What the neurons of one layer do: by token id, by n-gram, by position, by the true next token.

Sums over tokens in one reading of them. Shapes: T tokens of a batch that count, D neurons of a
layer, R of them with a class of tokens, V vocabulary, P positions, H bins of
pre-activations.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from universal_ray.maths.roles.detectors import (
    NO_NGRAM,
    POSITION_KINDS,
    DetectorOptions,
    NgramSums,
    detectors,
    positional,
)
from universal_ray.maths.roles.logits import NextTokenSums, next_token_response
from universal_ray.maths.statistics.activations import BINS, ZERO_BIN, bins_from_zero

LENGTHS = (1, 2, 3)
"""N-grams that detectors are looked for of."""
NO_NEXT = -1


@dataclass(frozen=True)
class Where:
    """What is around tokens."""

    position_T: Tensor
    next_T: Tensor
    """id of the true next token, -1 for none"""
    grams: dict[int, Tensor]
    """n-gram that ends at the token, by length, each as one number, -1 for none"""


@dataclass(frozen=True, kw_only=True)
class Responses:
    """What D neurons do; R of them have a class of tokens."""

    detector_length_D: Tensor
    """length of the n-grams that it detects, 0 for no detector"""
    detector_ngram_DG: Tensor
    """these n-grams as numbers, -1 beyond"""
    detector_share_D: Tensor
    detector_position_information_D: Tensor
    position_kind_D: Tensor
    """place in `POSITION_KINDS`"""
    position_strong_D: Tensor
    role_R: Tensor
    """the neurons that have a class"""
    next_inside_R: Tensor
    next_outside_R: Tensor
    next_correlation_R: Tensor
    next_histogram_R2H: Tensor
    """of pre-activations, the next token outside and inside of the class"""


class LayerResponses:
    """Sums of one layer; batches add.

    `candidates`: by length of n-gram, the neurons that may be detectors of it;
    `role_R`: neurons with a class, whose ids `member_VR` has.
    """

    def __init__(
        self,
        *,
        context: int,
        width: int,
        candidates: dict[int, Int[Tensor, "C"]],
        role_R: Int[Tensor, "R"],
        member_VR: Bool[Tensor, "V R"],
    ) -> None:
        device = role_R.device
        vocabulary, roles = member_VR.shape
        self._candidates, self._role_R, self._member_VR = candidates, role_R, member_VR
        self._count_V = torch.zeros(vocabulary, dtype=torch.int64, device=device)
        self._fired_VC = torch.zeros(
            vocabulary, len(candidates[1]), dtype=torch.int32, device=device
        )
        self._count_P = torch.zeros(context, dtype=torch.float64, device=device)
        self._fired_PD = torch.zeros(context, width, dtype=torch.int32, device=device)
        self._pairs: dict[int, list[NgramSums]] = {length: [] for length in LENGTHS[1:]}
        self._next = NextTokenSums(vocabulary, roles, str(device))
        self._histogram_R2H = torch.zeros(roles, 2, BINS, dtype=torch.int64, device=device)

    def update_(
        self,
        pre_TD: Float[Tensor, "T D"],
        post_TD: Float[Tensor, "T D"],
        where: Where,
    ) -> None:
        """Add tokens, in place."""
        position_T, next_T, grams = where.position_T, where.next_T, where.grams
        active_TD = pre_TD > 0
        ones_T = torch.ones_like(position_T)
        self._count_V.index_add_(0, grams[1], ones_T)
        self._count_P.index_add_(0, position_T, ones_T.double())
        # By way of float32, which adds twice as fast and is exact to 2^24 tokens of a batch.
        fired_PD = torch.zeros(self._fired_PD.shape, device=active_TD.device)
        self._fired_PD += fired_PD.index_add_(0, position_T, active_TD.float()).int()
        self._fired_VC.index_add_(0, grams[1], active_TD[:, self._candidates[1]].int())
        for length, pairs in self._pairs.items():
            active_TC = active_TD[:, self._candidates[length]]
            pairs.append(NgramSums.of(grams[length], active_TC))
        some_U = torch.nonzero(next_T != NO_NEXT).flatten()
        next_T = next_T[some_U]
        # Columns first: they are few.
        pre_TR, post_TR = (
            x_TD.index_select(1, self._role_R).index_select(0, some_U) for x_TD in (pre_TD, post_TD)
        )
        self._next.update_(post_TR, next_T)
        bin_TR = bins_from_zero(pre_TR).long() + ZERO_BIN
        inside_TR = self._member_VR[next_T].long()
        row_R = torch.arange(len(self._role_R), device=bin_TR.device) * 2
        place_TR = (row_R + inside_TR) * BINS + bin_TR
        flat = self._histogram_R2H.view(-1)
        flat += torch.bincount(place_TR.flatten(), minlength=len(flat))

    def found(self) -> Responses:
        """Detectors, kinds of position and responses to the next token, on the CPU."""
        options, width = DetectorOptions(), self._fired_PD.shape[1]
        length_D = torch.zeros(width, dtype=torch.int64)
        ngram_DG = torch.full((width, options.ngrams), NO_NGRAM)
        share_D = torch.full((width,), torch.nan, dtype=torch.float64)
        for length in LENGTHS:
            for neuron, told in self._detectors(length, options):
                if length_D[neuron]:
                    continue
                length_D[neuron], share_D[neuron] = length, told[0]
                ngram_DG[neuron, : len(told[1])] = torch.tensor(told[1])
        place = positional(self._fired_PD.double(), self._count_P, options)
        response = next_token_response(
            count_V=self._next.count_V,
            total_VR=self._next.total_VR,
            squares_R=self._next.squares_R,
            members_VR=self._member_VR,
        )
        return Responses(
            detector_length_D=length_D,
            detector_ngram_DG=ngram_DG,
            detector_share_D=share_D,
            detector_position_information_D=place.information_D.cpu(),
            position_kind_D=torch.tensor([POSITION_KINDS.index(kind) for kind in place.kind]),
            position_strong_D=place.strong_D.cpu(),
            role_R=self._role_R.cpu(),
            next_inside_R=response.inside_R.cpu(),
            next_outside_R=response.outside_R.cpu(),
            next_correlation_R=response.correlation_R.cpu(),
            next_histogram_R2H=self._histogram_R2H.cpu(),
        )

    def _detectors(
        self, length: int, options: DetectorOptions
    ) -> list[tuple[int, tuple[float, tuple[int, ...]]]]:
        """(neuron, (share, n-grams)) of every detector of this length."""
        if length == 1:
            sums = NgramSums.of_ids(self._count_V, self._fired_VC.long())
        else:
            sums = NgramSums.merged(self._pairs[length])
        found, neurons = detectors(sums, options), self._candidates[length].tolist()
        shares = found.share_D.tolist()
        return [
            (neurons[place], (shares[place], found.ngrams[place]))
            for place in torch.nonzero(found.detector_D).flatten().tolist()
        ]
