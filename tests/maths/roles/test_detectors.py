"""Dead neurons, detectors and neurons of position: planted ones are found, others are not.

Shapes: B rows, P positions, T tokens, D neurons, V vocabulary.
"""

import collections

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from universal_ray.errors import ConfigurationError
from universal_ray.maths.roles import responses
from universal_ray.maths.roles.detectors import (
    BOTH_ENDS,
    NONE,
    ONE_END,
    OSCILLATORY,
    OTHER,
    DetectorOptions,
    NgramSums,
    detectors,
    most_active,
    ngrams,
    positional,
    suppresses_its_token,
)

VOCABULARY = 12


def tokens() -> torch.Tensor:
    return torch.randint(VOCABULARY, (60, 40), generator=torch.Generator().manual_seed(0))


def planted() -> torch.Tensor:
    """Activity of: a detector of 3; of 3 and 7, once elsewhere; of 3 but half the time; of six
    ids; of 3 and, as often, anywhere; of the pair 5 2; of nothing; at random."""
    generator = torch.Generator().manual_seed(1)
    token_BP = tokens()
    token_T = token_BP.flatten()
    pair_BP = (token_BP == 2) & (token_BP.roll(1, 1) == 5)
    pair_BP[:, 0] = False
    two = (token_T == 3) | (token_T == 7)
    two[torch.nonzero(~two)[0]] = True
    chance_T = torch.rand(len(token_T), generator=generator)
    return torch.stack(
        [
            token_T == 3, two, (token_T == 3) & (chance_T < 0.5), token_T < 6,
            (token_T == 3) | (chance_T < 1 / VOCABULARY), pair_BP.flatten(),
            torch.zeros_like(two), chance_T < 0.3,
        ],
        dim=1,
    )  # fmt: skip


def test_of_n_grams_that_detect_the_same_the_shortest_are_told():
    """A neuron of the id 3, before which there is a 5 always, and one of the pair 5 2."""
    token_BP = tokens()
    token_BP[:, 1:][token_BP[:, :-1] == 5] = 2
    token_BP[:, ::8], token_BP[:, 1::8] = 5, 3
    token_BP[:, 2::8] = 0
    token_BP[:, :-1][(token_BP[:, 1:] == 3) & (token_BP[:, :-1] != 5)] = 5
    pair_BP = (token_BP == 2) & (token_BP.roll(1, 1) == 5)
    pair_BP[:, 0] = False
    active_TD = torch.stack([(token_BP == 3).flatten(), pair_BP.flatten()], dim=1)
    both = torch.arange(2)
    rows, places = token_BP.shape
    layer = responses.LayerResponses(
        context=places, width=2, candidates=dict.fromkeys(responses.LENGTHS, both),
        role_R=torch.arange(0), member_VR=torch.zeros(VOCABULARY, 0, dtype=torch.bool),
    )  # fmt: skip
    x_TD = active_TD.double() - 0.5
    layer.update_(x_TD, x_TD, responses.Where(
        position_T=torch.arange(places).repeat(rows),
        next_T=torch.full((rows * places,), responses.NO_NEXT),
        grams={each: ngrams(token_BP, each, VOCABULARY) for each in responses.LENGTHS},
    ))  # fmt: skip
    found = layer.found()
    assert found.detector_length_D.tolist() == [1, 2]
    assert found.detector_ngram_DG[:, 0].tolist() == [3, 5 * VOCABULARY + 2]


def test_token_detectors_are_found_and_the_rest_is_not():
    found = detectors(NgramSums.of(tokens().flatten(), planted()))
    assert found.detector_D.tolist() == [True, True] + [False] * 6
    assert found.ngrams[0] == (3,) and set(found.ngrams[1]) == {3, 7}
    assert found.ngrams[2:] == ((),) * 6
    assert float(found.share_D[0]) == 1 > float(found.share_D[1]) > 0.95
    assert bool(found.share_D[6].isnan())  # never active


def test_limits_are_options():
    sums = NgramSums.of(tokens().flatten(), planted())
    six = detectors(sums, DetectorOptions(ngrams=6))
    assert six.detector_D.tolist() == [True, True, False, True] + [False] * 4
    half = detectors(sums, DetectorOptions(fires=0.3))
    assert bool(half.detector_D[2])


def test_a_bigram_detector_is_one_of_bigrams_alone():
    bigram_T = ngrams(tokens(), 2, VOCABULARY)
    found = detectors(NgramSums.of(bigram_T, planted()))
    assert found.detector_D.nonzero().flatten().tolist() == [5]
    assert found.ngrams[5] == (5 * VOCABULARY + 2,)


@pytest.mark.parametrize("length", [1, 2, 3])
def test_ngram_sums_are_counts_and_parts_merge(length):
    token_BP, active_TD = tokens(), planted()
    ngram_T = ngrams(token_BP, length, VOCABULARY)
    counted: collections.Counter = collections.Counter()
    fired: collections.Counter = collections.Counter()
    for row, row_tokens in enumerate(token_BP.tolist()):
        for place in range(length - 1, len(row_tokens)):
            gram = tuple(row_tokens[place - length + 1 : place + 1])
            counted[gram] += 1
            fired[gram] += int(active_TD[row * len(row_tokens) + place, 4])
    parts = [
        NgramSums.of(ngram_T[part], active_TD[part]) for part in (slice(0, 700), slice(700, None))
    ]
    for sums in (NgramSums.of(ngram_T, active_TD), NgramSums.merged(parts)):
        assert bool((sums.ngram_U.diff() > 0).all())
        assert len(sums.ngram_U) == len(counted)
        fired_UD = torch.zeros(len(counted), sums.neurons, dtype=torch.int64)
        fired_UD[sums.place_E, sums.neuron_E] = sums.fired_E
        for ngram, count, active in zip(
            sums.ngram_U.tolist(), sums.count_U.tolist(), fired_UD[:, 4].tolist(), strict=True
        ):
            gram = tuple(ngram // VOCABULARY**k % VOCABULARY for k in reversed(range(length)))
            assert (count, active) == (counted[gram], fired[gram])


def test_ngrams_that_no_number_tells_apart_are_refused():
    with pytest.raises(ConfigurationError, match="64-bit"):
        ngrams(tokens(), 5, 50_257)


def test_a_detector_that_writes_against_its_token_is_told():
    unembed_CV = torch.eye(4)
    w_out_DC = torch.tensor([[-1.0, 0, 0, 0], [1.0, 0, 0, 0], [1.0, 0.5, 0, 0]])
    assert suppresses_its_token(torch.tensor([0, 0, 2]), w_out_DC, unembed_CV).tolist() == [
        True, False, True,
    ]  # fmt: skip


def test_kinds_of_position():
    place_P = torch.arange(200) / 199
    rates = {
        "rises": (place_P > 0.5).double(),
        "early alone": (place_P < 0.02).double(),
        "ends": (2 * place_P - 1).abs() ** 2,
        "hump": 1 - (2 * place_P - 1).abs() ** 2,
        "waves": (torch.sin(place_P * 40) + 1) / 2,
        "twice": (torch.cos(place_P * 9.42) + 1) / 2,
        "weak": 0.2 + 0.35 * place_P,
        "flat": torch.full((200,), 0.4),
    }
    noise_PD = torch.rand(200, len(rates), generator=torch.Generator().manual_seed(3)) * 0.05
    rate_PD = (torch.stack(list(rates.values()), dim=1) + noise_PD.double()).clamp(0, 1)
    count_P = torch.full((200,), 1000.0, dtype=torch.float64)
    count_P[50] = 0  # no tokens there
    found = positional(rate_PD * count_P[:, None], count_P, DetectorOptions(information=0.004))
    assert found.kind == (
        ONE_END, ONE_END, BOTH_ENDS, BOTH_ENDS, OSCILLATORY, OTHER, ONE_END, NONE,
    )  # fmt: skip
    assert found.strong_D.tolist() == [True] * 6 + [False, False]


def test_sums_by_id_are_ngrams_of_one():
    token_T, active_TD = tokens().flatten(), planted()
    count_V = torch.bincount(token_T, minlength=VOCABULARY)
    fired_VD = torch.zeros(VOCABULARY, active_TD.shape[1], dtype=torch.int64)
    fired_VD.index_add_(0, token_T, active_TD.long())
    given, counted = NgramSums.of_ids(count_V, fired_VD), NgramSums.of(token_T, active_TD)
    for name, value in vars(counted).items():
        assert torch.equal(torch.as_tensor(getattr(given, name)), torch.as_tensor(value)), name


@pytest.mark.parametrize("length", [1, 2])
def test_a_neuron_that_is_active_too_often_cannot_be_a_detector(length):
    sums = NgramSums.of(ngrams(tokens(), length, VOCABULARY), planted())
    total_D = torch.zeros(sums.neurons).index_add(0, sums.neuron_E, sums.fired_E.float())
    found = detectors(sums)
    assert bool(found.detector_D.any()) and bool((total_D > most_active(sums.count_U)).any())
    assert not bool(found.detector_D[total_D > most_active(sums.count_U)].any())


class Readings(TorchDispatchMode):
    """Counts values that Python reads out of tensors: on a GPU each one waits for it."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def test_no_value_is_read_for_every_neuron_by_itself():
    sums = NgramSums.of(tokens().flatten(), planted().repeat(1, 25))
    rate_PD = torch.rand(40, 200, dtype=torch.float64)
    with Readings() as readings:
        assert detectors(sums).detector_D.sum() == 50
        positional(rate_PD * 100, torch.full((40,), 100.0, dtype=torch.float64))
    assert readings.count < 10
