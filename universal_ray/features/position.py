"""Where a token stands: features of position, and two measures from sums by position.

Shapes: B rows, P positions, T = B·P tokens, N neurons.
"""

from functools import partial

import numpy as np
from jaxtyping import Bool, Int64

from universal_ray.features.features import RowFeature, TokenRows

SENTENCE_PLACES = {
    "sentence_token_1": range(1),
    "sentence_tokens_2_to_4": range(1, 4),
    "sentence_tokens_5_to_16": range(4, 16),
    "sentence_tokens_from_17": range(16, 1 << 30),
}
"""How many tokens of its sentence stand before a token."""


def tokens_since(
    begins_T: Bool[np.ndarray, "T"], ends_T: Bool[np.ndarray, "T"]
) -> Int64[np.ndarray, "T"]:
    """Tokens since the last begin (0 there), -1 where an end or nothing came last."""
    place_T = np.arange(len(begins_T))
    last_begin_T = np.maximum.accumulate(np.where(begins_T, place_T, -1))
    last_end_T = np.maximum.accumulate(np.where(ends_T, place_T, 0))
    return np.where(last_begin_T < last_end_T, -1, place_T - last_begin_T)


def _in_places(rows: TokenRows, first: float, stop: float) -> Bool[np.ndarray, "T"]:
    """Whether the position lies in a part of the row, given as shares of its length."""
    count, length = rows.tokens_BP.shape
    place_P = np.arange(length)
    return np.tile((place_P >= first * length) & (place_P < stop * length), count)


def _row_first(rows: TokenRows) -> Bool[np.ndarray, "T"]:
    return _in_places(rows, 0.0, 1 / rows.tokens_BP.shape[1])


def _passage_first(rows: TokenRows) -> Bool[np.ndarray, "T"]:
    special_BP = rows.vocabulary.special_V[rows.tokens_BP]
    first_BP: np.ndarray = ~special_BP
    first_BP[:, 1:] &= special_BP[:, :-1]
    return first_BP.ravel()


POSITION = (
    RowFeature("row_first", "position", "first position of the row", _row_first),
    *(
        RowFeature(
            f"row_third_{third}",
            "position",
            f"third {third} of the row",
            partial(_in_places, first=(third - 1) / 3, stop=third / 3),
        )
        for third in (1, 2, 3)
    ),
    RowFeature("passage_first", "position", "first token of a text in the row", _passage_first),
)
