"""Rows of text in two tokenizers: which tokens end at the same byte.

The text of a row is what its tokens spell, and each other tokenizer encodes that text. A *shared
boundary* is a byte at which a token of each ends; between two of them lies a *segment*, which is
known by the last token of the first tokenizer in it. Tokens that begin, end or pad a text spell
nothing: they divide text, and are segments where both tokenizers have one.

Pure. Shapes: B rows, P positions of a row of the first tokenizer, Q of another's, K tokenizers, S
segments.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import reduce
from itertools import pairwise
from unicodedata import normalize

import numpy as np
from jaxtyping import Int64

from universal_ray.errors import CorpusError

OPEN, DIVIDES, PLACES = 0, 1, 2
"""What is said of a position of the first tokenizer: no shared boundary is at its end; one is, with
no token of the other; `PLACES + q`: one is, at the end of the other's token q."""
LONGEST_CHARACTER = 4
"""Bytes of UTF-8."""


@dataclass(frozen=True, kw_only=True)
class Spelling:
    """How a tokenizer spells bytes."""

    name: str
    """of a model that it belongs to, for people"""
    identity: str
    pieces: tuple[bytes, ...] = field(repr=False)
    """bytes of every id; none for those that stand for no text"""
    divide: frozenset[int]
    """ids that begin, end or pad a text"""
    pads: frozenset[int]
    """those that only pad"""
    begin: int | None
    """put before a row"""
    end: int | None
    """put between documents"""
    encode: Callable[[list[str]], list[list[int]]] = field(repr=False)
    decode: Callable[[list[list[int]]], list[str]] = field(repr=False)

    def spelled(self, ids: Sequence[int]) -> bytes:
        return b"".join(self.pieces[each] for each in ids)


def shared(ends: Sequence[Int64[np.ndarray, "_"]]) -> Int64[np.ndarray, "K S"]:
    """Of K tokenizers the last tokens of all segments of one text.

    `ends`: for each, the byte at which every token ends, never falling.
    """
    common_S = reduce(np.intersect1d, ends)
    common_S = common_S[common_S > 0]
    return np.stack([np.searchsorted(each, common_S, side="right") - 1 for each in ends])


@dataclass(frozen=True)
class Run:
    """Tokens [start, stop) of a row that spell a text, of whole characters."""

    start: int
    stop: int
    text: str


def groups(row_P: Int64[np.ndarray, "P"], first: Spelling) -> Iterator[tuple[int, int, bool]]:
    """A row in ranges [start, stop) of tokens that divide text, and of such that spell it (True).
    """
    spells_P = ~np.isin(row_P, [*first.divide])
    edges = [0, *(np.flatnonzero(np.diff(spells_P)) + 1).tolist(), len(row_P)]
    for start, stop in pairwise(edges):
        yield start, stop, bool(spells_P[start])


def runs(row_P: Int64[np.ndarray, "P"], first: Spelling, where: str) -> Iterator[Run]:
    """The texts of a row. Tokens at either end of it that hold parts of a character are left out:
    the rest of it stands in another row.

    Raises CorpusError, by `where` the row is, for tokens that spell no text.
    """
    for start, stop, spells in groups(row_P, first):
        if not spells:
            continue
        pieces = [first.pieces[token] for token in row_P[start:stop].tolist()]
        begin, end = 0, len(pieces)
        if start <= 1:  # after what begins a row, or where nothing does
            while begin < min(end, LONGEST_CHARACTER - 1) and _continues(pieces[begin]):
                begin += 1
        if stop == len(row_P):
            least = max(begin, end - LONGEST_CHARACTER + 1)
            while end > least and _unfinished(b"".join(pieces[begin:end][-LONGEST_CHARACTER:])):
                end -= 1
        try:
            text = b"".join(pieces[begin:end]).decode()
        except UnicodeDecodeError as error:
            raise CorpusError(
                f"{where} is no text in UTF-8 as the tokenizer of {first.name} spells it, so that "
                "no other tokenizer can encode it: give text, or models that share a tokenizer"
            ) from error
        yield Run(start + begin, start + end, text)


def _continues(piece: bytes) -> bool:
    """Whether it begins within a character."""
    return piece[:1] != b"" and piece[0] & 0xC0 == 0x80


def _unfinished(data: bytes) -> bool:
    """Whether it ends within a character."""
    for back, byte in enumerate(reversed(data[-LONGEST_CHARACTER:])):
        if byte & 0xC0 == 0xC0:
            return back + 1 < 2 + (byte >= 0xE0) + (byte >= 0xF0)
        if byte < 0x80:
            break
    return False


@dataclass(frozen=True)
class Beside:
    """A row in another tokenizer."""

    tokens: list[int]
    """Q of them"""
    codes_P: Int64[np.ndarray, "P"]
    """of every position of the first tokenizer's row: OPEN, DIVIDES, or PLACES and a position"""


def beside(
    rows_BP: Int64[np.ndarray, "B P"], first: Spelling, other: Spelling, *, where: str, start: int
) -> list[Beside]:
    """Rows of the first tokenizer's tokens in the other's: the same bytes.

    `where`: the corpus, for people, of which the first row is number `start`. Raises CorpusError
    where a row is no text, or a tokenizer does not give back its bytes.
    """
    names = [f"row {start + place} of {where}" for place in range(len(rows_BP))]
    found = [list(runs(row_P, first, name)) for row_P, name in zip(rows_BP, names, strict=True)]
    texts = [run.text for each in found for run in each]
    ids = [
        row_P[run.start : run.stop].tolist()
        for row_P, each in zip(rows_BP, found, strict=True) for run in each
    ]  # fmt: skip
    named = [name for name, each in zip(names, found, strict=True) for _ in each]
    for name, text, read in zip(named, texts, first.decode(ids), strict=True):
        if read.lstrip(" ") != text.lstrip(" "):
            raise _not_given_back(first, name, text.encode(), read.encode())
    encoded = other.encode(texts)
    for name, text, theirs in zip(named, texts, encoded, strict=True):
        check_given_back(other, text, theirs, where=name)
    left = iter(encoded)
    return [
        _beside(row_P, [(run, next(left)) for run in each], first, other)
        for row_P, each in zip(rows_BP, found, strict=True)
    ]


def _beside(
    row_P: Int64[np.ndarray, "P"], texts: list[tuple[Run, list[int]]], first: Spelling,
    other: Spelling,
) -> Beside:  # fmt: skip
    codes_P = np.full(len(row_P), DIVIDES, dtype=np.int64)
    tokens = [] if other.begin is None else [other.begin]
    left = iter(texts)
    for start, stop, spells in groups(row_P, first):
        if spells:
            run, theirs = next(left)
            text = run.text.encode()
            mine = row_P[run.start : run.stop].tolist()
            ends, others = (
                np.cumsum([len(spelling.pieces[token]) for token in each], dtype=np.int64)
                for spelling, each in ((first, mine), (other, theirs))
            )
            if len(others):
                others -= others[-1] - len(text)  # a space that was put before
            last_KS = shared([ends, others])
            codes_P[run.start : run.stop] = OPEN
            codes_P[run.start + last_KS[0]] = PLACES + len(tokens) + last_KS[1]
            tokens += theirs
            continue
        for position in range(start, stop):
            if position == 0:
                codes_P[0] = PLACES if tokens else DIVIDES
            elif other.end is not None and row_P[position] not in first.pads:
                codes_P[position] = PLACES + len(tokens)
                tokens.append(other.end)
    return Beside(tokens, codes_P)


def check_given_back(spelling: Spelling, text: str, ids: Sequence[int], *, where: str) -> None:
    """Raises CorpusError, by `where` it is, for text whose tokens do not spell it."""
    made = spelling.spelled(ids)
    if not _spells(made, text):
        raise _not_given_back(spelling, where, text.encode(), made)


def _spells(made: bytes, text: str) -> bool:
    return made in (text.encode(), b" " + text.encode())  # some put a space before all text


def _not_given_back(spelling: Spelling, where: str, text: bytes, made: bytes) -> CorpusError:
    composed = _spells(made, normalize("NFC", text.decode()))
    advice = "tokenise it with corpus.text.unicode=nfc" if composed else "leave it out"
    place = next((k for k, (a, b) in enumerate(zip(made, text, strict=False)) if a != b), 0)
    shown = text[max(place - 10, 0) : place + 20].decode("utf-8", "replace")
    return CorpusError(
        f"{where} has text (near {shown!r}) that the tokenizer of {spelling.name} does not give "
        f"back byte by byte, so that nothing can be aligned with it: {advice}, or compare models "
        "that share a tokenizer"
    )


def packed(made: Beside, longest: int) -> Int64[np.ndarray, "_"]:
    """A row as it is stored: the codes of P positions, then `longest` tokens, zeros after the last
    one at a shared boundary. What lies beyond `longest` tokens is not aligned.
    """
    codes_P = made.codes_P.copy()
    beyond = np.flatnonzero(codes_P >= PLACES + longest)
    if len(beyond):
        codes_P[beyond[0] :] = OPEN
    tokens_Q = np.zeros(longest, dtype=np.int64)
    used = max(int(codes_P.max()) - PLACES + 1, 0)
    tokens_Q[:used] = made.tokens[:used]
    return np.concatenate([codes_P, tokens_Q])
