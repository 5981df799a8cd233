"""What every token id stands for, as bytes and as text.

Bytes, since a token may be part of a character: only the bytes of neighbours together are text.

Shapes: V ids of the vocabulary.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import numpy as np
from jaxtyping import Bool

from universal_ray.errors import ModelError

METASPACE = "▁"
"""Stands for a space in SentencePiece vocabularies."""
BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
SPACE = "␣"
BREAKS = str.maketrans({"\n": "⏎", "\t": "⇥"})
"""How white space is shown."""
ESCAPED = 0xDC00
"""What is added to a byte that is part of no character, as `surrogateescape` does."""


@dataclass(frozen=True)
class Vocabulary:
    """The bytes of every id: none for special ids, and for ids that the tokenizer does not know."""

    pieces: tuple[bytes, ...]
    special: dict[int, str]
    """Names by id of begin and end of text, padding and the like: they divide text and are no part
    of it."""

    def __len__(self) -> int:
        return len(self.pieces)

    @cached_property
    def texts(self) -> tuple[str, ...]:
        """Text of every id alone, with U+FFFD for bytes that are no character by themselves."""
        return tuple(piece.decode("utf-8", "replace") for piece in self.pieces)

    @cached_property
    def shown(self) -> tuple[str, ...]:
        """Every id alone as people read it: as in `show`, and spaces can be seen too."""
        return tuple(self.show([key], SPACE) for key in range(len(self)))

    def show(self, ids: Sequence[int], space: str = " ") -> str:
        """Some ids in a row as people read them, never nothing: special ids by their name, an id
        without bytes as <id 7>, breaks as ⏎ and ⇥, a byte that is part of no character as <0xE2>,
        and a character that cannot be seen as <U+200B>.
        """
        shown: list[str] = []
        text = b""
        for key in ids:
            if self.pieces[key]:
                text += self.pieces[key]
                continue
            shown += [_readable(text, space), self.special.get(key) or f"<id {key}>"]
            text = b""
        return "".join([*shown, _readable(text, space)])

    @cached_property
    def stripped(self) -> tuple[str, ...]:
        """Texts without white space at either end."""
        return tuple(text.strip() for text in self.texts)

    @cached_property
    def words(self) -> tuple[str, ...]:
        """Texts stripped and lower-cased: ids with the same one form a unigram group."""
        return tuple(text.lower() for text in self.stripped)

    @cached_property
    def special_V(self) -> Bool[np.ndarray, "V"]:
        """Which ids are special."""
        return np.isin(np.arange(len(self)), [*self.special])


def read_vocabulary(tokenizer: Any, size: int) -> Vocabulary:
    """The vocabulary of a Hugging Face tokenizer, padded to the model's `size` by empty ids.

    Raises ModelError where the tokenizer has more ids than that.
    """
    if len(tokenizer) > size:
        raise ModelError(
            f"the tokenizer has {len(tokenizer)} ids, the model only {size}: "
            "use the tokenizer that belongs to the model"
        )
    added = {int(key): token for key, token in tokenizer.added_tokens_decoder.items()}
    special_ids = set(tokenizer.all_special_ids) | {key for key in added if added[key].special}
    special = {}
    to_bytes = _reader(tokenizer)
    pieces = [b""] * size
    ids = range(max(tokenizer.get_vocab().values()) + 1)  # of which some may stand for nothing
    for key, token in enumerate(tokenizer.convert_ids_to_tokens(ids)):
        if key in special_ids:
            special[key] = str(token)
            continue
        if token is None:
            continue
        pieces[key] = str(added[key]).encode() if key in added else to_bytes(key, token)
    return Vocabulary(tuple(pieces), special)


def _readable(text: bytes, space: str) -> str:
    """Bytes as people read them."""
    characters = text.decode("utf-8", "surrogateescape").translate(BREAKS).replace(" ", space)
    if characters.isprintable() and REPLACEMENT not in characters:
        return characters
    return "".join(map(_visible, characters))


@cache
def _visible(character: str) -> str:
    code = ord(character)
    if 0x80 <= code - ESCAPED <= 0xFF:
        return f"<0x{code - ESCAPED:02X}>"
    seen = character.isprintable() and character != REPLACEMENT
    return character if seen else f"<U+{code:04X}>"


def _reader(tokenizer: Any) -> Any:
    """How this tokenizer spells bytes: a function of an id and its token."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    state = backend.decoder.__getstate__() if backend and backend.decoder else b"{}"
    decoder = json.dumps(json.loads(state))
    if "ByteLevel" in decoder:
        byte = {character: code for code, character in enumerate(_byte_alphabet())}
        return lambda key, token: bytes(byte[character] for character in token)
    if "Metaspace" in decoder or "ByteFallback" in decoder:
        return lambda key, token: _sentencepiece_bytes(token)
    return lambda key, token: tokenizer.decode([key]).encode()


def _sentencepiece_bytes(token: str) -> bytes:
    """A byte spelt out, or text in which a mark stands for the space."""
    spelt = BYTE_TOKEN.fullmatch(token)
    return bytes([int(spelt[1], 16)]) if spelt else token.replace(METASPACE, " ").encode()


def _byte_alphabet() -> list[str]:
    """The character by which byte-level tokenizers write each byte.

    Bytes that print as Latin-1 stand for themselves, the others take the code points from 256 on.
    """
    printing = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = iter(range(256, 512))
    return [chr(code if code in printing else next(others)) for code in range(256)]
