"""Families of neurons: planted scores, ties, thresholds; agreement against permutations.

Shapes: F features, N neurons, P pairs, M neurons of the other model.
"""

from typing import Any

import numpy as np
import pytest
import torch

from universal_ray.errors import NumericalError
from universal_ray.features.bank import BankOptions, Column, feature_bank
from universal_ray.features.families import (
    NONE,
    FamilyOptions,
    duplicates,
    family_agreement,
    membership,
    neuron_family,
    top_features,
)
from universal_ray.features.features import CURRENT, PREVIOUS
from universal_ray.features.vocabulary import Vocabulary

COLUMNS = [
    Column(name, family, name, looks_at)
    for name, family, looks_at in [
        ("the_unigram", "unigram", CURRENT),
        ("contains_comma", "symbol", CURRENT),
        ("letter_a", "letter", CURRENT),
        ("previous:the_unigram", "unigram", PREVIOUS),
        ("dep_neg", "dependency", CURRENT),
        ("previous:dep_neg", "dependency", PREVIOUS),
        ("subset_law", "subset", CURRENT),
        ("row_first", "position", CURRENT),
    ]
]
STARTS_WITH_S = Column("start_w_s", "first letter", "", CURRENT)
NAN = float("nan")
SCORES = torch.tensor(
    [  # neurons: unigram, near miss, alphabet, previous, syntax, poor, dead, tie, no rival
        [0.90, 0.50, 0.10, 0.20, 0.01, 0.02, NAN, 0.60, 0.55],
        [0.80, 0.10, 0.20, 0.10, 0.01, 0.01, NAN, 0.60, NAN],
        [0.10, 0.10, 0.38, 0.10, 0.01, 0.01, NAN, 0.60, NAN],
        [0.10, 0.10, 0.10, 0.70, 0.25, 0.01, NAN, 0.10, NAN],
        [0.20, 0.10, 0.10, 0.30, 0.31, 0.049, NAN, 0.10, NAN],
        [0.10, 0.10, 0.10, 0.10, 0.20, 0.01, NAN, 0.10, NAN],
        [0.10, 0.10, 0.10, 0.10, 0.01, 0.01, NAN, 0.10, NAN],
        [NAN, 0.10, 0.10, 0.10, 0.01, 0.01, NAN, 0.10, NAN],
    ],
    dtype=torch.float64,
)


def table(**options: Any) -> list[dict[str, Any]]:
    columns = membership(SCORES, COLUMNS, FamilyOptions(**options)).table(COLUMNS)
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def test_neurons_go_to_the_family_of_their_best_feature():
    rows = table()
    told = [(row["family"], row["feature"], row["status"]) for row in rows]
    assert told == [
        ("unigram", "the_unigram", "member"),
        ("unigram", "the_unigram", "partly"),  # 0.5 is not above 0.5
        ("alphabet", "letter_a", "member"),
        ("previous token", "previous:the_unigram", "member"),
        ("syntax", "dep_neg", "member"),
        ("syntax", "dep_neg", "unexplained"),
        (None, None, None),
        ("unigram", "the_unigram", "member"),  # ties go to what comes first
        ("unigram", "the_unigram", "member"),
    ]
    assert [row["variance_reduction"] for row in rows[:3]] == [0.9, 0.5, 0.38]
    assert [row["threshold"] for row in rows[:5]] == [0.5, 0.5, 0.37, 0.3, 0.3]
    assert rows[6] == dict.fromkeys(rows[6])


def test_the_runner_up_is_of_another_family():
    rows = table()
    told = [(row["runner_up_family"], row["runner_up_feature"]) for row in rows]
    assert told[0] == ("syntax", "dep_neg")  # not the comma, which is of the same family
    assert told[2] == ("unigram", "contains_comma")
    assert told[3] == ("syntax", "dep_neg") and told[4] == ("previous token", COLUMNS[3].name)
    assert told[7] == ("alphabet", "letter_a")
    assert told[6] == told[8] == (None, None)
    assert rows[0]["runner_up_variance_reduction"] == 0.2
    assert rows[8]["runner_up_variance_reduction"] is None


def test_thresholds_are_the_users():
    strict = table(unigram=0.95, alphabet=0.9, other=0.9, unexplained=0.6)
    assert [row["status"] for row in strict[:5]] == ["partly", *["unexplained"] * 2, "partly",
                                                     "unexplained"]  # fmt: skip
    assert all(row["status"] == "member" for row in table(unigram=0.0, alphabet=0.0, other=0.0)[:6])


def test_words_that_begin_with_a_letter_are_no_alphabet():
    """The paper's alphabet neurons are of single letters; these are among its vocabulary's."""
    scores = torch.tensor([[0.1, 0.38, 0.3], [0.51, 0.2, 0.45]], dtype=torch.float64)
    columns = [COLUMNS[2], STARTS_WITH_S]
    found = membership(scores, columns).table(columns)
    assert found["family"] == ["first letter", "alphabet", "first letter"]
    assert found["status"] == ["member", "member", "partly"]  # above 0.5 there, above 0.37 here
    assert found["runner_up_family"] == ["alphabet", "first letter", "alphabet"]


def test_against_a_search_neuron_by_neuron():
    random = torch.Generator().manual_seed(0)
    scores = torch.rand(len(COLUMNS), 300, generator=random, dtype=torch.float64).round(decimals=1)
    scores[torch.rand(scores.shape, generator=random) < 0.3] = NAN
    found = membership(scores, COLUMNS)
    families = [neuron_family(column) for column in COLUMNS]
    order = list(dict.fromkeys(families))
    assert found.families == tuple(order)
    for neuron in range(300):
        options = [
            (-score, order.index(families[f]), f)
            for f, score in enumerate(scores[:, neuron].tolist())
            if score == score
        ]
        expected = min(options, default=None)
        others = [each for each in options if expected and each[1] != expected[1]]
        for best, index_N, feature_N, score_N in [
            (expected, found.family_N, found.feature_N, found.score_N),
            (min(others, default=None), found.runner_up_family_N, found.runner_up_feature_N,
             found.runner_up_score_N),
        ]:  # fmt: skip
            if best is None:
                assert index_N[neuron] == feature_N[neuron] == NONE and score_N[neuron].isnan()
            else:
                assert (-score_N[neuron], index_N[neuron], feature_N[neuron]) == best


def test_one_family_alone_has_no_runner_up():
    found = membership(SCORES[:2], COLUMNS[:2])
    assert found.families == ("unigram",) and (found.runner_up_family_N == NONE).all()


def test_scores_and_columns_belong_together():
    with pytest.raises(NumericalError, match="scores of 8 features and names of 7"):
        membership(SCORES, COLUMNS[:-1])


def test_every_family_of_the_bank_is_one_of_the_papers():
    pieces = (b"", b" a", b"A", b" the", b".", b"12", b" running")
    bank = feature_bank(
        Vocabulary(pieces, {0: "<end>"}), np.ones(7, dtype=np.int64), BankOptions(), subsets=["x"]
    )
    columns = [*bank.id_columns(CURRENT), *bank.id_columns(PREVIOUS), *bank.row_columns()]
    assert {neuron_family(column) for column in columns} == {
        "unigram", "alphabet", "first letter", "previous token", "syntax", "semantic", "position",
    }  # fmt: skip
    assert neuron_family(Column("own", "colour", "", CURRENT)) == "colour"


def test_top_features_are_the_largest_in_order():
    score_NK, feature_NK = top_features(SCORES, 3)
    assert feature_NK[0].tolist() == [0, 1, 4] and score_NK[0].tolist() == [0.9, 0.8, 0.2]
    assert feature_NK[7].tolist() == [0, 1, 2]  # ties to the first
    assert feature_NK[8].tolist() == [0, NONE, NONE] and score_NK[8, 1:].isnan().all()
    assert (feature_NK[6] == NONE).all()
    assert top_features(SCORES, 20)[1].shape == (9, 8)


def test_three_members_of_one_feature_are_duplicates():
    scores = torch.full((8, 7), 0.01, dtype=torch.float64)
    scores[0, [0, 2, 3, 6]] = torch.tensor([0.6, 0.9, 0.7, 0.4], dtype=torch.float64)
    scores[3, [1, 4, 5]] = 0.8
    found = membership(scores, COLUMNS)
    assert duplicates(found) == {0: [2, 3, 0], 3: [1, 4, 5]}  # the one at 0.4 is no member
    assert list(duplicates(membership(scores[:, 1:], COLUMNS))) == [3]
    assert duplicates(found, minimum=4) == {}


def pairs(same: float, seed: int = 0) -> tuple[np.ndarray, ...]:
    """Pairs of which about `same` agree beyond chance; families differ in share by layer."""
    random = np.random.default_rng(seed)
    layer_M = np.repeat(np.arange(3), 200)
    family_M = np.where(
        random.random(600) < 0.2 + 0.3 * layer_M, layer_M % 2, random.integers(-1, 4, 600)
    )
    partner_P = random.integers(600, size=400)
    alike_P = random.random(400) < same
    at_random_P = (layer_M[partner_P] * 200) + random.integers(200, size=400)
    return family_M[np.where(alike_P, partner_P, at_random_P)], partner_P, family_M, layer_M


def test_chance_is_what_partners_of_the_same_layer_drawn_at_random_give():
    family_P, partner_P, family_M, layer_M = pairs(same=0.5)
    found = family_agreement(family_P, partner_P, family_M, layer_M)
    has_P = family_P != NONE
    assert found.pairs == int(has_P.sum()) < 400
    assert found.same == np.mean(family_M[partner_P][has_P] == family_P[has_P])
    random = np.random.default_rng(1)
    draws = []
    for _ in range(400):
        drawn_P = layer_M[partner_P] * 200 + random.integers(200, size=400)
        draws.append(np.mean(family_M[drawn_P][has_P] == family_P[has_P]))
    assert found.chance == pytest.approx(np.mean(draws), abs=4 * np.std(draws) / 20)
    assert found.gain == pytest.approx(found.same - found.chance)


def test_agreement_beyond_chance_is_told_from_chance():
    planted = family_agreement(*pairs(same=0.5))
    assert planted.gain_low > 0.2 and planted.gain_low < planted.gain < planted.gain_high
    assert planted.same_low < planted.same < planted.same_high
    none = family_agreement(*pairs(same=0.0))
    assert none.gain_low < 0 < none.gain_high
    assert none.same > 0.2  # families that are common in a layer agree often by chance
    every = family_agreement(*pairs(same=1.0))
    assert every.same == every.same_low == 1


def test_without_families_there_is_nothing_to_agree():
    none_P = np.full(4, NONE)
    found = family_agreement(none_P, np.arange(4), np.zeros(4, dtype=int), np.zeros(4, dtype=int))
    assert found.pairs == 0 and np.isnan([found.same, found.chance, found.gain_low]).all()


def test_members_of_an_assignment_are_what_agreement_takes():
    family_N = membership(SCORES, COLUMNS).member_family_N
    families = membership(SCORES, COLUMNS).families
    named = [None if index == NONE else families[index] for index in family_N.tolist()]
    assert named == [
        "unigram", None, "alphabet", "previous token", "syntax", None, None, "unigram", "unigram",
    ]  # fmt: skip
