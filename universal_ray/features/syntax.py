"""Syntax features: a pipeline labels the words of a text, and tokens take the label of their word.

Two pipelines give the same names where they mean the same: `rules` (a few rules of English, nothing
to install) and any installed pipeline of spaCy by its name, such as the paper's `en_core_web_trf`.

Shapes: W words, F labels of a word, T tokens.
"""

from dataclasses import dataclass
from functools import partial
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool

from universal_ray.features.align import MULTI, NONE, AlignedText, align, spread
from universal_ray.features.features import CURRENT, PREVIOUS, RowFeature, TokenRows
from universal_ray.features.labels import Words
from universal_ray.features.position import SENTENCE_PLACES, tokens_since

RULES = "rules"
BOTH = (CURRENT, PREVIOUS)
FAMILY = {
    "pos": "part of speech",
    "dep": "dependency",
    "morph": "morphology",
    "ent": "entity",
    "is": "stop word",
    "sent": "sentence",
}


@runtime_checkable
class Pipeline(Protocol):
    """Splits text into words and labels them; `labels` names each column and tells its meaning."""

    labels: dict[str, str]

    def __call__(self, text: AlignedText) -> Words: ...


def pipeline(name: str) -> Pipeline:
    """`rules`, or an installed pipeline of spaCy; ConfigurationError says what to install."""
    if name == RULES:
        from universal_ray.features.rules import Rules  # which takes its labels from here

        return Rules()
    from universal_ray.features.spacy import load

    return load(name)


def check_pipeline(name: str) -> None:
    """Raise ConfigurationError where `pipeline` would find none of that name."""
    if name != RULES:
        from universal_ray.features.spacy import check_installed

        check_installed(name)


def syntax_features(name: str) -> tuple[RowFeature, ...]:
    """The features of one pipeline: the word a token lies in, and its place in the sentence."""
    label = TokenLabels(pipeline(name))
    words = label.pipeline.labels
    return (
        *(_feature(label, key, FAMILY[key.split("_")[0]], words[key]) for key in words),
        _feature(label, "word_none", "alignment", "the token lies in no word"),
        _feature(label, "word_multi", "alignment", "the token reaches into several words"),
        *(_feature(label, key, "position", f"{key} of its sentence") for key in SENTENCE_PLACES),
    )


@dataclass(frozen=True, eq=False)
class TokenLabels:
    """All labels of a pipeline for the tokens of some rows, by name."""

    pipeline: Pipeline

    def __call__(self, rows: TokenRows) -> dict[str, Bool[np.ndarray, "T"]]:
        text = rows.text
        words = self.pipeline(text)
        word_T = align(text, words.start_W, words.stop_W)
        labels_FT = np.ascontiguousarray(spread(words.labels_WF, word_T).T)
        # The token in which a sentence begins is the first that reaches beyond its first character.
        begins = np.searchsorted(text.stop_T, words.start_W[words.begins_W], side="right")
        begins_T = np.zeros(len(word_T), bool)
        begins_T[begins] = True
        gaps_BP = rows.vocabulary.special_V[rows.tokens_BP]
        gaps_BP[:, 0] = True
        since_T = tokens_since(begins_T, gaps_BP.ravel())
        return {
            **dict(zip(self.pipeline.labels, labels_FT, strict=True)),
            "word_none": word_T == NONE,
            "word_multi": word_T == MULTI,
            **{
                key: (since_T >= places.start) & (since_T < places.stop)
                for key, places in SENTENCE_PLACES.items()
            },
        }


def _feature(label: TokenLabels, name: str, family: str, description: str) -> RowFeature:
    return RowFeature(name, family, description, partial(_column, label, name), BOTH)


def _column(label: TokenLabels, name: str, rows: TokenRows) -> Bool[np.ndarray, "T"]:
    labels: dict[str, np.ndarray] = rows.once(label)
    return labels[name]
