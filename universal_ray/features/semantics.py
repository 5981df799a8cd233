"""What a text is about: the subset it comes from, and topics found in the tokens themselves.

The paper's topics are hand-labelled and lost. Ours are a non-negative factorisation (NMF) of how
often each word occurs in each passage, weighted by how few passages have it (tf-idf): deterministic
from its start by singular vectors, and a passage's topic depends on that passage alone.

Shapes: V ids, G words (groups of ids spelt alike), S passages, K topics, T tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int64

from universal_ray.errors import ConfigurationError
from universal_ray.features.features import IdFeature, RowFeature, TokenRows, by_ids
from universal_ray.features.lexical import ROLES, occurrence_roles
from universal_ray.features.rules import Lexicon
from universal_ray.features.vocabulary import Vocabulary

LETTERS = 3
"""A shorter token tells no topic."""
ITERATIONS = 200
NAMED_BY = 3
WORDS_OF_TOPIC = 30
"""Words that make the topic's feature of the token."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Topics:
    """Topics as weights over words; small, made once for a study and kept with it."""

    group_V: Int64[np.ndarray, "V"]
    """The word of each id, -1 for one that tells nothing."""
    words: tuple[str, ...]
    rarity_G: Float[np.ndarray, "G"]
    weights_KG: Float[np.ndarray, "K G"]

    @property
    def names(self) -> tuple[str, ...]:
        """The number of each topic and the words of most weight."""
        order_KG = np.argsort(-self.weights_KG, axis=1, kind="stable")[:, :NAMED_BY]
        return tuple(
            "_".join([f"topic_{topic:02}", *(self.words[group] for group in order)])
            for topic, order in enumerate(order_KG)
        )

    def label(self, rows: TokenRows) -> Int64[np.ndarray, "T"]:
        """The topic of most weight in each token's passage, -1 where no word tells one."""
        from sklearn.decomposition import non_negative_factorization

        passage_T = _passages(rows)
        counts_SG = _counts(self.group_V, len(self.words), rows, passage_T)
        if not counts_SG.nnz:
            return np.full(passage_T.shape, -1)
        # No tolerance: the number of steps, and so a passage's weights, depend on no other passage.
        weight_SK, *_ = non_negative_factorization(
            _weighted(counts_SG, self.rarity_G),
            n_components=len(self.weights_KG),
            H=self.weights_KG,
            update_H=False,
            tol=0.0,
            max_iter=ITERATIONS // 4,
        )
        topic_S = np.where(weight_SK.max(1) > 0, weight_SK.argmax(1), -1)
        return np.where(passage_T >= 0, topic_S[passage_T], -1)


def find_topics(rows: TokenRows, count: int, *, seed: int = 0) -> Topics:
    """Topics of the passages of some rows; none where none are asked for.

    Raises ConfigurationError where there are too few.
    """
    from sklearn.decomposition import non_negative_factorization

    group_V, words = _groups(rows.vocabulary)
    if not count:
        none_KG = np.zeros((0, len(words)))
        return Topics(group_V=group_V, words=words, rarity_G=none_KG.sum(0), weights_KG=none_KG)
    passage_T = _passages(rows)
    _check_enough(count, passage_T, words)
    counts_SG = _counts(group_V, len(words), rows, passage_T)
    passages = counts_SG.shape[0]
    rarity_G = np.log((1 + passages) / (1 + (counts_SG > 0).sum(0).A1)) + 1
    # `NMF` does this too, and then takes a root of what is left, which rounding makes negative.
    _, weights_KG, _ = non_negative_factorization(
        _weighted(counts_SG, rarity_G),
        n_components=count,
        init="nndsvd",
        tol=0.0,
        max_iter=ITERATIONS,
        random_state=seed,
    )
    return Topics(group_V=group_V, words=words, rarity_G=rarity_G, weights_KG=weights_KG)


def check_topics(rows: TokenRows, count: int) -> None:
    """Raise ConfigurationError, in seconds, where rows have too few passages for so many topics."""
    _check_enough(count, _passages(rows), _groups(rows.vocabulary)[1])


def _check_enough(count: int, passage_T: Int64[np.ndarray, "T"], words: tuple[str, ...]) -> None:
    passages = int(passage_T.max(initial=-1)) + 1
    if count > min(passages, len(words)):
        raise ConfigurationError(
            f"taxonomy.topics is {count}, but the corpus has only {passages} passages "
            f"of {len(words)} words: ask for fewer topics, 0 leaves them out"
        )


def topic_features(topics: Topics) -> tuple[tuple[IdFeature, ...], tuple[RowFeature, ...]]:
    """For each topic its words as a feature of the token, and the topic of the passage."""
    ids: list[IdFeature] = []
    for name, weight_G in zip(topics.names, topics.weights_KG, strict=True):
        chosen_G = np.argsort(-weight_G, kind="stable")[:WORDS_OF_TOPIC]
        members = np.flatnonzero(np.isin(topics.group_V, chosen_G[weight_G[chosen_G] > 0]))
        ids.append(IdFeature(f"words_{name}", "topic", f"word of {name}", by_ids(members.tolist())))
    rows = (
        RowFeature(name, "topic", f"in a passage of {name}", partial(_about, topics.label, topic))
        for topic, name in enumerate(topics.names)
    )
    return tuple(ids), tuple(rows)


def subset_features(subsets: Sequence[str]) -> tuple[RowFeature, ...]:
    """One feature per subset of the corpus."""
    return tuple(
        RowFeature(f"subset_{name}", "subset", f"in the subset {name}", partial(_in_subset, name))
        for name in sorted(set(subsets))
    )


def _in_subset(name: str, rows: TokenRows) -> Bool[np.ndarray, "T"]:
    if rows.subsets is None:
        raise ConfigurationError(f"subset_{name} is asked for rows that come without subsets")
    return np.repeat(np.array(rows.subsets) == name, rows.tokens_BP.shape[1])


def _about(label: Any, topic: int, rows: TokenRows) -> Bool[np.ndarray, "T"]:
    about_T: np.ndarray = rows.once(label) == topic
    return about_T


def _groups(vocabulary: Vocabulary) -> tuple[Int64[np.ndarray, "V"], tuple[str, ...]]:
    """Ids spelt alike share a group; only words of some letters and no closed class have one."""
    closed = Lexicon().classes
    numbers: dict[str, int] = {}
    group_V = np.full(len(vocabulary), -1)
    for key, word in enumerate(vocabulary.words):
        if word.isalpha() and len(word) >= LETTERS and word not in closed:
            group_V[key] = numbers.setdefault(word, len(numbers))
    return group_V, tuple(numbers)


def _passages(rows: TokenRows) -> Int64[np.ndarray, "T"]:
    """The passage of each token, numbered in order; -1 for special tokens."""
    special_BP = rows.vocabulary.special_V[rows.tokens_BP]
    begins_BP = ~special_BP
    begins_BP[:, 1:] &= special_BP[:, :-1]
    return np.where(special_BP, -1, begins_BP.cumsum().reshape(special_BP.shape) - 1).ravel()


def _counts(group_V: Any, groups: int, rows: TokenRows, passage_T: Any) -> Any:
    """How often each word occurs, as a whole word, in each passage: S × G, sparse."""
    from scipy.sparse import csr_matrix

    group_T = group_V[rows.tokens_BP].ravel()
    # A part of a word tells no topic, though it may be spelt like a word.
    whole_T = rows.once(occurrence_roles) == ROLES.index("word")
    counted_T = (group_T >= 0) & (passage_T >= 0) & whole_T
    ones = np.ones(int(counted_T.sum()))
    place = (passage_T[counted_T], group_T[counted_T])
    return csr_matrix((ones, place), shape=(int(passage_T.max(initial=-1)) + 1, groups))


def _weighted(counts_SG: Any, rarity_G: Float[np.ndarray, "G"]) -> Any:
    """tf-idf, each passage scaled to length one; words repeated count by their logarithm."""
    from sklearn.preprocessing import normalize

    weighted_SG = counts_SG.copy()
    weighted_SG.data = 1 + np.log(weighted_SG.data)
    return normalize(weighted_SG.multiply(rarity_G).tocsr())
