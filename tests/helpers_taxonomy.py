"""Vocabularies made on the spot, and the embedded corpus."""

from functools import cache
from typing import Any

import numpy as np
from transformers import AutoTokenizer

from universal_ray import testbed
from universal_ray.corpus.rows import open_corpus
from universal_ray.features.features import TokenRows
from universal_ray.features.vocabulary import Vocabulary, read_vocabulary

SPECIAL = 0
"""Id of the special token in every vocabulary made here."""


def make_rows(*rows: list[str | bytes | None]) -> TokenRows:
    """Rows spelt token by token, None for the special one; short rows are filled with it."""
    length = max(map(len, rows))
    ids: dict[bytes, int] = {}
    tokens_BP = np.full((len(rows), length), SPECIAL)
    for row, tokens in enumerate(rows):
        for position, token in enumerate(tokens):
            if token is not None:
                piece = token.encode() if isinstance(token, str) else token
                tokens_BP[row, position] = ids.setdefault(piece, len(ids) + 1)
    return TokenRows(tokens_BP, Vocabulary((b"", *ids), {SPECIAL: "<end>"}))


def vocabulary_of(*texts: str) -> Vocabulary:
    """A vocabulary of these tokens and no special one."""
    return Vocabulary(tuple(text.encode() for text in texts), {})


@cache
def embedded_tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(testbed.resolve("a"))


@cache
def embedded_rows(count: int = 1600) -> TokenRows:
    """Rows of the embedded corpus, 204,800 tokens by default, with their subsets."""
    corpus = open_corpus(testbed.resolve("tokens"))
    subsets = corpus.subsets(0, count)
    assert subsets is not None
    vocabulary = read_vocabulary(embedded_tokenizer(), len(embedded_tokenizer()))
    return TokenRows(corpus.read(0, count), vocabulary, tuple(subsets))
