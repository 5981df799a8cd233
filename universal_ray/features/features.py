"""What a feature is, and the rows of tokens it labels.

A feature is one declared object. An `IdFeature` depends on the token id alone: its sums follow from
sums by id, at no pass over the tokens. A `RowFeature` looks at the tokens around, too.

Shapes: V ids, B rows, P positions of a row, T = B·P tokens.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Bool, Int64

from universal_ray.features.align import AlignedText, lay_out
from universal_ray.features.vocabulary import Vocabulary

CURRENT, PREVIOUS = "current", "previous"


@dataclass(frozen=True)
class TokenRows:
    """Rows of tokens to label, the subset of each row where the corpus has them."""

    tokens_BP: Int64[np.ndarray, "B P"]
    vocabulary: Vocabulary
    subsets: tuple[str, ...] | None = None
    _made: dict[Any, Any] = field(default_factory=dict, repr=False, compare=False)

    @cached_property
    def text(self) -> AlignedText:
        """The text of the rows, with the place of every token in it."""
        return lay_out(self.tokens_BP, self.vocabulary)

    def once(self, make: Callable[["TokenRows"], Any]) -> Any:
        """`make(rows)`, made once for these rows however many features ask for it."""
        if make not in self._made:
            self._made[make] = make(self)
        return self._made[make]


@dataclass(frozen=True)
class Feature:
    """Name, family and meaning of a feature; subclasses say how it is computed."""

    name: str
    family: str
    description: str


@dataclass(frozen=True)
class IdFeature(Feature):
    """A feature of the token id; it is tried on the current and on the previous token."""

    members: Callable[[Vocabulary], Bool[np.ndarray, "V"]]
    looks_at: tuple[str, ...] = (CURRENT, PREVIOUS)


@dataclass(frozen=True)
class RowFeature(Feature):
    """A feature of a token in its row; `looks_at` says which token's label is tried."""

    labels: Callable[[TokenRows], Bool[np.ndarray, "T"]]
    looks_at: tuple[str, ...] = (CURRENT,)


def by_text(
    test: Callable[[str], bool],
) -> Callable[[Vocabulary], Bool[np.ndarray, "V"]]:
    """Members by a test of the token's text as it stands, spaces and all."""
    return lambda vocabulary: _each(test, vocabulary.texts)


def by_stripped(test: Callable[[str], bool]) -> Callable[[Vocabulary], Bool[np.ndarray, "V"]]:
    """Members by a test of the text without white space around it."""
    return lambda vocabulary: _each(test, vocabulary.stripped)


def by_word(test: Callable[[str], bool]) -> Callable[[Vocabulary], Bool[np.ndarray, "V"]]:
    """Members by a test of the text stripped and lower-cased."""
    return lambda vocabulary: _each(test, vocabulary.words)


def by_ids(ids: Collection[int]) -> Callable[[Vocabulary], Bool[np.ndarray, "V"]]:
    """Members named by their ids."""
    return lambda vocabulary: np.isin(np.arange(len(vocabulary)), list(ids))


def _each(test: Callable[[str], bool], texts: tuple[str, ...]) -> Bool[np.ndarray, "V"]:
    """Test of every text; a token without text is a member of nothing."""
    return np.fromiter((text != "" and test(text) for text in texts), bool, len(texts))


def previous(labels_T: Bool[np.ndarray, "T"], positions: int) -> Bool[np.ndarray, "T"]:
    """The label of the token before, row by row; False at the first position of a row."""
    shifted_BP = np.zeros((len(labels_T) // positions, positions), bool)
    shifted_BP[:, 1:] = labels_T.reshape(-1, positions)[:, :-1]
    return shifted_BP.ravel()
