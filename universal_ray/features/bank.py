"""The feature bank of a study: every feature that its vocabulary and corpus have.

Shapes: V ids, F features of the id, E features of the row, T tokens.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from universal_ray.errors import ConfigurationError
from universal_ray.features.features import (
    CURRENT,
    Feature,
    IdFeature,
    RowFeature,
    TokenRows,
    previous,
)
from universal_ray.features.lexical import (
    NUMERIC,
    ROLE,
    SPECIAL,
    STARTS,
    TYPE,
    small_norm,
    unigrams,
)
from universal_ray.features.position import POSITION
from universal_ray.features.semantics import Topics, subset_features, topic_features
from universal_ray.features.syntax import RULES, syntax_features
from universal_ray.features.vocabulary import Vocabulary
from universal_ray.features.words import own_words, read_words

LETTER = "letter"
"""Family of the word list of single letters: the paper's alphabet neurons."""


@dataclass(frozen=True)
class BankOptions:
    """What a user may choose of the bank."""

    syntax: str | None = RULES  # `rules`, a pipeline of spaCy, or none
    unigram_ids: int = 3  # a unigram has more ids than this
    unigram_occurrences: int = 3000  # and more occurrences in 10M tokens
    small_norm: float = 0.52  # embeddings shorter than this
    words: tuple[str, ...] = ()  # further word lists, YAML files


@dataclass(frozen=True)
class Column:
    """One feature on one token: what a score is about."""

    name: str
    family: str
    description: str
    looks_at: str


@dataclass(frozen=True, kw_only=True)
class FeatureBank:
    """Features of the id with their members, features of the row with how to label them."""

    id_features: tuple[IdFeature, ...]
    membership_VF: Tensor
    """bool; a column of no member or equal to an earlier one is left out"""
    row_features: tuple[RowFeature, ...]
    left_out: dict[str, str | None]
    """Features of the id without a column: the feature with the same tokens, None for no token."""

    def id_index(self, name: str) -> int | None:
        """The column with the tokens of a declared feature, None where no token has it."""
        kept = self.left_out.get(name, name)
        return None if kept is None else [f.name for f in self.id_features].index(kept)

    def id_columns(self, looks_at: str) -> tuple[Column, ...]:
        """What the columns of `membership_VF` are about, on the current or previous token's id."""
        return tuple(_column(feature, looks_at) for feature in self.id_features)

    def row_columns(self) -> tuple[Column, ...]:
        """What the columns of `labels` are about."""
        return tuple(_column(feature, place) for feature, place in _tries(self.row_features))

    def labels(self, rows: TokenRows) -> Bool[Tensor, "T E"]:
        """Labels of rows by the features of the row, in the order of `row_columns`."""
        return row_labels(self.row_features, rows)


@dataclass(frozen=True)
class Chosen:
    """Features that a user names: word lists and a pipeline, which need not be on every machine."""

    words: tuple[IdFeature, ...]
    syntax: tuple[RowFeature, ...]


def choose(options: BankOptions) -> Chosen:
    """Read what is named. Raises ConfigurationError for what cannot be."""
    return Chosen(
        words=tuple(feature for path in options.words for feature in read_words(Path(path))),
        syntax=syntax_features(options.syntax) if options.syntax else (),
    )


def row_features(
    syntax: Sequence[RowFeature], subsets: Sequence[str], topics: Topics | None
) -> tuple[RowFeature, ...]:
    """All features of the row, in the order of their labels."""
    _, passages = topic_features(topics) if topics else ((), ())
    return (*POSITION, *ROLE, *syntax, *subset_features(subsets), *passages)


def row_labels(features: Sequence[RowFeature], rows: TokenRows) -> Bool[Tensor, "T E"]:
    """Labels of rows by features, each on every token that it looks at."""
    tries, (count, positions) = _tries(features), rows.tokens_BP.shape
    labels_TE = np.empty((count * positions, len(tries)), bool)
    for column, (feature, place) in enumerate(tries):
        label_T = feature.labels(rows)
        labels_TE[:, column] = label_T if place == CURRENT else previous(label_T, positions)
    return torch.from_numpy(labels_TE)


def _tries(features: Sequence[RowFeature]) -> list[tuple[RowFeature, str]]:
    return [(feature, place) for feature in features for place in feature.looks_at]


def feature_bank(
    vocabulary: Vocabulary,
    counts_V: Int64[np.ndarray, "V"],
    options: BankOptions,
    *,
    chosen: Chosen | None = None,
    subsets: Sequence[str] = (),
    topics: Topics | None = None,
    norm_V: Float[np.ndarray, "V"] | None = None,
    more: Iterable[Feature] = (),
) -> FeatureBank:
    """All features of a study, and `more` of the caller's own.

    `counts_V`: how often the corpus has each id; `chosen`: what `choose` has read of the options;
    `subsets`: the labels that it has; `norm_V`: lengths of a model's embeddings. Raises
    ConfigurationError for two features of one name.
    """
    chosen = chosen or choose(options)
    about, _ = topic_features(topics) if topics else ((), ())
    lists = own_words()
    # The more telling first: of features with the same tokens the first one stands.
    ids: list[IdFeature] = [
        SPECIAL,
        *(feature for feature in more if isinstance(feature, IdFeature)),
        *chosen.words,
        *(feature for feature in lists if feature.family == LETTER),
        *unigrams(
            vocabulary,
            counts_V,
            ids=options.unigram_ids,
            occurrences=options.unigram_occurrences,
        ),
        *TYPE,
        *NUMERIC,
        *STARTS,
        *(feature for feature in lists if feature.family != LETTER),
        *([] if norm_V is None else [small_norm(norm_V, options.small_norm)]),
        *about,
    ]
    rows: list[RowFeature] = [
        *row_features(chosen.syntax, subsets, topics),
        *(feature for feature in more if isinstance(feature, RowFeature)),
    ]
    _check_named_once([*ids, *rows])
    kept, columns, left_out = _columns(ids, vocabulary)
    membership_VF = np.stack(columns, axis=1) if columns else np.empty((len(vocabulary), 0), bool)
    return FeatureBank(
        id_features=tuple(kept),
        membership_VF=torch.from_numpy(membership_VF),
        row_features=tuple(rows),
        left_out=left_out,
    )


def _columns(
    features: list[IdFeature], vocabulary: Vocabulary
) -> tuple[list[IdFeature], list[np.ndarray], dict[str, str | None]]:
    """Features with members, the first of those with the same ones, and what is left out."""
    kept: dict[bytes, tuple[IdFeature, np.ndarray]] = {}
    left_out: dict[str, str | None] = {}
    for feature in features:
        members_V = feature.members(vocabulary)
        if not members_V.any():
            left_out[feature.name] = None
            continue
        first, _ = kept.setdefault(members_V.tobytes(), (feature, members_V))
        if first is not feature:
            left_out[feature.name] = first.name
    return [f for f, _ in kept.values()], [members_V for _, members_V in kept.values()], left_out


def _column(feature: Feature, looks_at: str) -> Column:
    name = feature.name if looks_at == CURRENT else f"{looks_at}:{feature.name}"
    return Column(name, feature.family, feature.description, looks_at)


def _check_named_once(features: list[Feature]) -> None:
    seen: set[str] = set()
    for feature in features:
        if feature.name in seen:
            raise ConfigurationError(
                f"two features have the name {feature.name}: give one of them another"
            )
        seen.add(feature.name)
