"""Tokenizers of different vocabularies, and which of their tokens end together, told otherwise."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

END = "<|endoftext|>"
LATIN = "The naïve café sells crêpes; neurons 12 and 384 fire. " * 6
CHINESE = "神经元 数据 模型 — 🙂 vectors \n\n and heads, 神经 数据 🙃 ok\n" * 6
"""Most of its characters are several tokens of a tokenizer of other text."""


def make_other(
    folder: Path, text: str, vocabulary: int = 290, *, special: str | None = END,
    normalizer: normalizers.Normalizer | None = None,
) -> Any:  # fmt: skip
    """A byte-level BPE tokenizer trained on `text`, saved in `folder`; one without special tokens
    where `special` is None, one that changes what it reads where it has a `normalizer`.
    """
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    if normalizer is not None:
        made.normalizer = normalizer
    made.train_from_iterator(
        [text],
        trainers.BpeTrainer(
            vocab_size=vocabulary,
            special_tokens=[special] if special else [],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    named = {f"{kind}_token": special for kind in ("bos", "eos")} if special else {}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, **named)
    if folder.is_dir():
        tokenizer.save_pretrained(str(folder))
    return tokenizer


def byte_ends(tokenizer: Any, ids: Sequence[int]) -> list[int]:
    """The byte at which each token of a byte-level tokenizer ends: a character is a byte."""
    return np.cumsum([len(each) for each in tokenizer.convert_ids_to_tokens(list(ids))]).tolist()


def text_of(tokenizer: Any, ids: Sequence[int]) -> bytes:
    """What byte-level tokens spell of ASCII and the texts above, as the library writes these."""
    writer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    known = LATIN + CHINESE + "".join(map(chr, range(128)))
    written = "".join(piece for piece, _ in writer.pre_tokenize_str(known))
    byte = dict(zip(written, known.encode(), strict=True))
    tokens = tokenizer.convert_ids_to_tokens(list(ids))
    return bytes(byte[each] for token in tokens for each in token)
