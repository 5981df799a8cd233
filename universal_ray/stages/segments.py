"""Models of different tokenizers over the same text: what is told of it, and how it is read.

Shapes: B rows, P positions of the reference's tokens, Q of another tokenizer's, S = B·P segments,
one at each position of the reference, of which those count that end at a shared boundary.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int64

from universal_ray.config.hashing import fingerprint
from universal_ray.config.study import Segment
from universal_ray.corpus.aligned import align
from universal_ray.corpus.rows import TokenCorpus, excluded_ids
from universal_ray.corpus.segments import OPEN, PLACES, Spelling
from universal_ray.features.vocabulary import read_vocabulary
from universal_ray.maths.moments.segments import Pool, last_of, mean_of
from universal_ray.models.tokenizer import ids_of, tokenizer_identity
from universal_ray.stages.models import Models

ALIGNED = "rows beside rows 1"
"""Raised when the same text and tokenizers are aligned otherwise."""

@dataclass(frozen=True)
class Other:
    """Another tokenizer's tokens of the same rows."""

    corpus: TokenCorpus
    excluded: tuple[int, ...]
    """ids that do not count, sorted"""
    before: int
    """tokens before the text of a row: 1 where it has one that begins texts, else 0"""


@dataclass(frozen=True)
class Batch:
    """Some rows as models read them."""

    tokens_BP: torch.Tensor
    """the reference's"""
    kept_T: torch.Tensor
    """which of its tokens count, or end a segment that counts; on the CPU"""
    others: Mapping[str, tuple[torch.Tensor, Pool]] = field(default_factory=dict)
    """tokens [B, Q] and what makes segments of them, by the identity of models that have another
    tokenizer"""
    own: Pool | None = None
    """the same of the models that read the reference's, where these are not segments as they are"""

    def tokens(self, model: str) -> torch.Tensor:
        """What a model reads, by its identity."""
        return self.others[model][0] if model in self.others else self.tokens_BP

    def pool(self, model: str) -> Pool | None:
        """How its activations become those of segments; None where they are."""
        return self.others[model][1] if model in self.others else self.own


@dataclass(frozen=True)
class Segments:
    """What workers are told of a study whose models have different tokenizers."""

    pool: Segment
    context: int
    """tokens of a row of the reference's, P"""
    others: Mapping[str, Other]
    """by identity of the tokenizer"""
    tokenizer_of: Mapping[str, str]
    """of models that have another than the reference, by identity"""

    @property
    def record(self) -> dict[str, Any]:
        """What decides which segments there are, beside the rows."""
        return {
            "pool": self.pool.value,
            "aligned": ALIGNED,
            "tokenizers": {
                name: {
                    "longest": each.corpus.context - self.context,
                    "excluded": list(each.excluded),
                }
                for name, each in sorted(self.others.items())
            },
        }

    def rows_hash(self, corpus: TokenCorpus, start: int, stop: int) -> str:
        """Of some rows in all tokenizers."""
        others = [each.corpus.rows_hash(start, stop) for _, each in sorted(self.others.items())]
        return fingerprint([self.record, corpus.rows_hash(start, stop), others])

    def batch(
        self, start: int, tokens_BP: torch.Tensor, kept_T: torch.Tensor, device: str
    ) -> Batch:
        """Rows from `start` on, of which the reference's tokens are read already."""
        rows, width = tokens_BP.shape
        stored = {
            name: each.corpus.read(start, start + rows) for name, each in self.others.items()
        }
        codes = {name: each_BX[:, :width] for name, each_BX in stored.items()}
        shared_BP = np.logical_and.reduce([each_BP != OPEN for each_BP in codes.values()])
        counts_BP = np.logical_and.reduce([each_BP >= PLACES for each_BP in codes.values()])
        own_BP = np.broadcast_to(np.arange(width), (rows, width))
        left_out_BP = ~kept_T.numpy().reshape(rows, width)
        first_B = np.full(rows, -1)
        ranges = {"": _ranges(own_BP, shared_BP, first_B)}
        counts_BP &= ~_any(left_out_BP, *ranges[""])
        tokens = {}
        for name, other in self.others.items():
            last_BP = np.where(codes[name] >= PLACES, codes[name] - PLACES, -1)
            longest = max(int(last_BP.max()) + 1, 1)
            tokens_BQ = stored[name][:, width : width + longest]
            begins_B = last_BP[:, 0] == 0  # with the reference's own, or with text
            first_B = np.where(begins_B | (other.before == 0), -1, other.before - 1)
            ranges[name] = _ranges(last_BP, shared_BP, first_B)
            counts_BP &= ~_any(np.isin(tokens_BQ, other.excluded), *ranges[name])
            tokens[name] = torch.from_numpy(tokens_BQ).to(device)
        pools = {
            name: self._pool(*each, counts_BP, tokens[name].shape[1] if name else width).to(device)
            for name, each in ranges.items()
        }
        return Batch(
            tokens_BP,
            torch.from_numpy(counts_BP.flatten()),
            {model: (tokens[name], pools[name]) for model, name in self.tokenizer_of.items()},
            None if self.pool is Segment.last else pools[""],
        )

    def _pool(
        self, last_BP: np.ndarray, before_BP: np.ndarray, counts_BP: np.ndarray, width: int
    ) -> Pool:
        """Of segments; those that do not count have the first token's activation."""
        first_B = np.arange(len(last_BP))[:, None] * width
        last_S = torch.from_numpy(np.where(counts_BP, first_B + last_BP, 0).flatten())
        if self.pool is Segment.last:
            return last_of(last_S)
        length_S = torch.from_numpy(np.where(counts_BP, last_BP - before_BP, 1).flatten())
        return mean_of(last_S, length_S)


def _ranges(
    last_BP: Int64[np.ndarray, "B P"], shared_BP: Bool[np.ndarray, "B P"],
    first_B: Int64[np.ndarray, "B"],
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """The last tokens of segments, and the tokens before their first ones, in one tokenizer.

    `last_BP`: -1 where it has no token; `first_B`: the token before a row's text, -1 for none.
    """
    reached_BP = np.where(shared_BP & (last_BP >= 0), last_BP, first_B[:, None])
    reached_BP = np.maximum.accumulate(reached_BP, axis=1)
    return last_BP, np.concatenate([first_B[:, None], reached_BP[:, :-1]], axis=1)


def _any(
    true_BQ: Bool[np.ndarray, "B Q"], last_BP: np.ndarray, before_BP: np.ndarray
) -> Bool[np.ndarray, "B P"]:
    """Whether something is true of a token of a segment."""
    count_BQ = np.pad(np.cumsum(true_BQ, axis=1), ((0, 0), (1, 0)))
    at_last_BP, at_before_BP = (
        np.take_along_axis(count_BQ, each_BP + 1, axis=1) for each_BP in (last_BP, before_BP)
    )
    return at_last_BP > at_before_BP


def spelling(tokenizer: Any, name: str) -> Spelling:
    """How the tokenizer of a model spells bytes."""
    vocabulary = read_vocabulary(tokenizer, max(ids_of(tokenizer), len(tokenizer)))
    ids = {kind: getattr(tokenizer, f"{kind}_token_id") for kind in ("bos", "eos", "pad", "unk")}
    pieces = list(vocabulary.pieces)
    for each, text in vocabulary.special.items():
        if each != ids["unk"]:  # it stands for what it does not spell
            pieces[each] = text.encode()
    divide = {ids[kind] for kind in ("bos", "eos", "pad")} - {None}

    def encode(texts: list[str]) -> list[list[int]]:
        if not texts:
            return []
        return tokenizer(
            texts, add_special_tokens=False, return_attention_mask=False, verbose=False
        )["input_ids"]

    def decode(rows: list[list[int]]) -> list[str]:
        return tokenizer.batch_decode(rows, clean_up_tokenization_spaces=False)

    return Spelling(
        name=name,
        identity=tokenizer_identity(tokenizer),
        pieces=tuple(pieces),
        divide=frozenset(divide),
        pads=frozenset({ids["pad"]} - {None, ids["eos"], ids["bos"]}),
        begin=ids["eos"] if ids["bos"] is None else ids["bos"],
        end=ids["eos"],
        encode=encode,
        decode=decode,
    )


def make_segments(
    models: Models, corpus: TokenCorpus, rows: int, first: Spelling, folder: Path
) -> Segments:
    """The rows of a study in all its tokenizers, aligned where they are not yet.

    `first`: of the reference; `folder`: where rows beside rows are kept. Raises as `align` does.
    """
    found, options = {}, models.study.corpus
    for identity, each in models.others.items():
        other, longest = spelling(each.tokenizer, each.models[0].name), each.longest(corpus.context)
        made_of = [ALIGNED, corpus.rows_hash(0, rows), first.identity, identity, longest]
        destination = folder / f"corpus-{fingerprint(made_of)[:12]}"
        beside = align(corpus, rows, first, other, longest=longest, destination=str(destination))
        excluded = excluded_ids(options.exclude.value, each.tokenizer)
        found[identity] = Other(beside, excluded, int(other.begin is not None))
    tokenizer_of = {
        model.identity: identity
        for identity, each in models.others.items() for model in each.models
    }  # fmt: skip
    return Segments(options.pool, corpus.context, found, tokenizer_of)


def told_of(apart: Sequence[str], pool: Segment) -> list[tuple[str, str]]:
    """Of segments, where models `apart` have another tokenizer, as rows of a table on screen."""
    if not apart:
        return []
    by = "their last token" if pool is Segment.last else "the mean of their tokens"
    return [("segments", f"in the place of tokens, by {by}; other tokenizers: {', '.join(apart)}")]
