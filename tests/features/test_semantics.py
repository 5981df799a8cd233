"""Subsets and topics: planted topics are found, by the same labels however the rows are batched.

Shapes: B rows, T tokens.
"""

import numpy as np
import pytest
from helpers_taxonomy import embedded_rows, make_rows

from universal_ray.errors import ConfigurationError
from universal_ray.features.features import TokenRows
from universal_ray.features.semantics import find_topics, subset_features, topic_features

THEMES = (
    ("bread", "butter", "flour", "oven", "sugar"),
    ("sail", "anchor", "harbour", "mast", "tide"),
    ("violin", "chord", "melody", "rhythm", "tempo"),
)


def planted(count: int = 90) -> tuple[TokenRows, list[int]]:
    """Rows of two passages, each of one theme among words that every passage has."""
    rng = np.random.default_rng(0)
    rows, themes = [], []
    for _ in range(count):
        row: list[str | bytes | None] = []
        for _ in range(2):
            themes.append(int(rng.integers(3)))
            theme = rng.choice(THEMES[themes[-1]], 12)
            common = rng.choice(["thing", "people", "place"], 12)
            passage = [f" {word}" for pair in zip(theme, common, strict=True) for word in pair]
            row += [None, *passage, " the"]
        rows.append(row)
    return make_rows(*rows), themes


def test_planted_topics_are_found_and_named_by_their_words():
    rows, themes = planted()
    topics = find_topics(rows, 3)
    of_theme = {}
    for theme, words in enumerate(THEMES):
        (of_theme[theme],) = [
            number
            for number, name in enumerate(topics.names)
            if set(name.split("_")[2:]) <= set(words)
        ]
    found_BP = topics.label(rows).reshape(rows.tokens_BP.shape)
    for row in range(len(found_BP)):
        expected = [of_theme[theme] for theme in themes[2 * row : 2 * row + 2]]
        assert found_BP[row].tolist() == [x for topic in expected for x in [-1, *[topic] * 25]]


def test_features_of_topics_are_their_words_and_their_passages():
    rows, _ = planted()
    topics = find_topics(rows, 3)
    ids, passages = topic_features(topics)
    assert [feature.name for feature in passages] == list(topics.names)
    assert [feature.name for feature in ids] == [f"words_{name}" for name in topics.names]
    label_T = topics.label(rows)
    for topic, feature in enumerate(passages):
        np.testing.assert_array_equal(feature.labels(rows), label_T == topic)
    words = np.array(rows.vocabulary.words)
    for feature in ids:
        own = next(theme for theme in THEMES if theme[0] in words[feature.members(rows.vocabulary)])
        assert set(own) <= set(words[feature.members(rows.vocabulary)])
        assert "the" not in words[feature.members(rows.vocabulary)]


def test_topics_are_the_same_each_time_and_for_each_batch():
    rows = embedded_rows()
    some = TokenRows(rows.tokens_BP[:400], rows.vocabulary)
    topics, again = find_topics(some, 8), find_topics(some, 8)
    assert topics.names == again.names
    np.testing.assert_array_equal(topics.weights_KG, again.weights_KG)
    label_T = topics.label(some)
    batches = [TokenRows(some.tokens_BP[a : a + 150], some.vocabulary) for a in (0, 150, 300)]
    np.testing.assert_array_equal(label_T, np.concatenate([topics.label(b) for b in batches]))
    assert set(np.unique(label_T)) >= set(range(8))
    assert (label_T[rows.tokens_BP[:400].ravel() == 0] == -1).all()


def test_passages_without_words_have_no_topic():
    rows, _ = planted()
    topics = find_topics(rows, 3)
    empty = TokenRows(np.zeros((2, 5), dtype=np.int64), rows.vocabulary)
    assert (topics.label(empty) == -1).all()
    the = rows.vocabulary.words.index("the")
    assert (topics.label(TokenRows(np.full((2, 5), the), rows.vocabulary)) == -1).all()


def test_more_topics_than_passages_are_refused():
    with pytest.raises(ConfigurationError, match="only 1 passages of 3 words: ask for fewer"):
        find_topics(make_rows([" bread", " butter", " flour"]), 3)


def test_subsets_label_whole_rows():
    rows = make_rows(["a", "b"], ["c", "d"], ["e", "f"])
    labelled = TokenRows(rows.tokens_BP, rows.vocabulary, ("law", "code", "law"))
    code, law = subset_features(["law", "code", "law"])
    assert (code.name, law.name, law.family) == ("subset_code", "subset_law", "subset")
    assert law.labels(labelled).astype(int).tolist() == [1, 1, 0, 0, 1, 1]
    assert code.labels(labelled).astype(int).tolist() == [0, 0, 1, 1, 0, 0]
    with pytest.raises(ConfigurationError, match="come without subsets"):
        law.labels(rows)
