"""The text of token rows, and which word each model token lies in, by character offsets.

Shapes: B rows, P positions, T = B·P tokens, C characters, W words, F labels of a word.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int64

from universal_ray.features.vocabulary import Vocabulary

NONE, MULTI = -1, -2
"""A token that lies in no word, and one that reaches into several."""
SEPARATOR = "\0"
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
WHITE_SPACE = np.array([code for code in range(0x3001) if chr(code).isspace()])
ESCAPED = (0xDC80, 0xDCFF)
"""Code points by which Python's `surrogateescape` keeps bytes that are no character, one each."""


@dataclass(frozen=True, kw_only=True)
class AlignedText:
    """Passages of text, one after another, and the characters that each token covers.

    A passage is what stands in a row between special tokens: text that belongs together. A token
    that is part of a character covers all of it; a token without text covers nothing.
    """

    text: str
    passages: tuple[tuple[int, int], ...]
    """Start and stop of every passage in the text, none of them empty."""
    start_T: Int64[np.ndarray, "T"]
    stop_T: Int64[np.ndarray, "T"]
    white_C: Bool[np.ndarray, "C"]


def lay_out(tokens_BP: Int64[np.ndarray, "B P"], vocabulary: Vocabulary) -> AlignedText:
    """Decode rows of tokens into passages, keeping track of where each token went."""
    gap = SEPARATOR.encode()
    pieces = [gap if key in vocabulary.special else p for key, p in enumerate(vocabulary.pieces)]
    length_V = np.array([len(piece) for piece in pieces])
    length_BP = length_V[tokens_BP]
    # Each row is closed by a separator of its own: no character reaches from one row to the next.
    stop_BP = length_BP.cumsum().reshape(tokens_BP.shape) + np.arange(len(tokens_BP))[:, None]
    raw = b"".join(
        part for row in tokens_BP.tolist() for part in (*[pieces[key] for key in row], gap)
    )
    text = raw.decode("utf-8", "surrogateescape")
    code_C = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4").copy()
    escaped_C = (code_C >= ESCAPED[0]) & (code_C <= ESCAPED[1])
    bytes_C = 1 + (code_C >= 0x80) + (code_C >= 0x800).astype(int) + (code_C >= 0x10000)
    bytes_C[escaped_C] = 1
    character_of_byte = np.repeat(np.arange(len(code_C)), bytes_C)
    code_C[escaped_C] = ord(REPLACEMENT)

    stop_T, length_T = stop_BP.ravel(), length_BP.ravel()
    special_T = vocabulary.special_V[tokens_BP].ravel()
    first_T = character_of_byte[stop_T - length_T]
    last_T = character_of_byte[np.maximum(stop_T - 1, 0)]
    covers_T = (length_T > 0) & ~special_T
    row_ends = character_of_byte[stop_BP[:, -1]]
    return AlignedText(
        text=code_C.tobytes().decode("utf-32-le"),
        passages=_between(np.union1d(first_T[special_T], row_ends)),
        start_T=first_T,
        stop_T=np.where(covers_T, last_T + 1, first_T),
        white_C=np.isin(code_C, WHITE_SPACE),
    )


def align(
    text: AlignedText, start_W: Int64[np.ndarray, "W"], stop_W: Int64[np.ndarray, "W"]
) -> Int64[np.ndarray, "T"]:
    """The word that each token lies in, or NONE or MULTI; words in order and apart.

    White space around a token's text does not count: ` the` lies in `the`, whatever precedes. A
    token of nothing but white space lies in a word of white space, where the pipeline has those.
    """
    dark_C = ~text.white_C
    place_C = np.arange(len(dark_C))
    next_dark_C = np.minimum.accumulate(np.where(dark_C, place_C, len(dark_C))[::-1])[::-1]
    last_dark_C = np.maximum.accumulate(np.where(dark_C, place_C, -1))
    first_T = next_dark_C[text.start_T]
    dark_T = first_T < text.stop_T
    start_T = np.where(dark_T, first_T, text.start_T)
    stop_T = np.where(dark_T, last_dark_C[np.maximum(text.stop_T - 1, 0)] + 1, text.stop_T)
    first_word_T = np.searchsorted(stop_W, start_T, side="right")
    words_T = np.searchsorted(start_W, stop_T, side="left") - first_word_T
    words_T[stop_T == start_T] = 0
    return np.where(words_T == 1, first_word_T, np.where(words_T > 1, MULTI, NONE))


def spread(
    labels_WF: Bool[np.ndarray, "W F"], word_T: Int64[np.ndarray, "T"]
) -> Bool[np.ndarray, "T F"]:
    """Labels of words as labels of the tokens in them; none for NONE and MULTI."""
    padded = np.vstack([labels_WF, np.zeros((1, labels_WF.shape[1]), bool)])
    label_TF: np.ndarray = padded[np.maximum(word_T, -1)]
    return label_TF


def _between(gaps: np.ndarray) -> tuple[tuple[int, int], ...]:
    """The stretches between characters that divide, empty ones left out."""
    starts, stops = [0, *(gaps + 1).tolist()], gaps.tolist()
    return tuple((a, b) for a, b in zip(starts, stops, strict=False) if a < b)
