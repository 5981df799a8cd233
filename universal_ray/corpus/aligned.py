"""The rows of a corpus once more, in the tokens of another tokenizer, made once and kept.

They are stored as any corpus is; a row of it holds what `segments.packed` gives.

Shapes: B rows, P positions of a row of the first tokenizer, Q of the other's.
"""

import logging
from pathlib import Path

import numpy as np

from universal_ray.config.wellformed import MalformedError, parse
from universal_ray.corpus.rows import MANIFEST, TokenCorpus, open_corpus
from universal_ray.corpus.segments import DIVIDES, OPEN, Spelling, beside, packed
from universal_ray.corpus.tokenise import save_rows
from universal_ray.errors import StorageError

log = logging.getLogger(__name__)

ROWS_AT_ONCE = 512
"""Rows whose texts are encoded together."""


def align(
    corpus: TokenCorpus,
    rows: int,
    first: Spelling,
    other: Spelling,
    *,
    longest: int,
    destination: str,
) -> TokenCorpus:
    """The first rows of a corpus of the first tokenizer in the other's, at most `longest` tokens of
    each, made into the directory `destination` or opened where that is done already.

    The name of the directory must tell what it is made from. Raises CorpusError as `beside` does,
    and StorageError where what is there was altered since, or nothing can be written.
    """
    target = Path(destination)
    if not target.is_dir():
        packed_BX = np.empty((rows, corpus.context + longest), dtype=np.int32)
        for start in range(0, rows, ROWS_AT_ONCE):
            tokens_BP = corpus.read(start, min(start + ROWS_AT_ONCE, rows))
            made = beside(tokens_BP, first, other, where=corpus.path, start=start)
            for place, each in enumerate(made, start):
                packed_BX[place] = packed(each, longest)
        codes_BP = packed_BX[:, : corpus.context]
        log.info(
            "the tokenizer of %s ends a token at %.1f %% of the %d tokens that those of %s end",
            other.name, 100 * float((codes_BP > DIVIDES).mean()), codes_BP.size, first.name,
        )  # fmt: skip
        manifest = {
            "tokenizer": other.identity,
            "beside": first.identity,
            "rows": rows,
            "open": int((codes_BP == OPEN).sum()),
        }
        save_rows(target, packed_BX, None, manifest)
    try:
        told = parse((target / MANIFEST).read_bytes(), {"content": str})["content"]
    except (OSError, MalformedError) as error:
        raise StorageError(
            f"{target} cannot be read ({error}): delete that folder, and the same command aligns "
            "the tokens again"
        ) from error
    found = open_corpus(destination)
    if found.content != told:
        raise StorageError(
            f"{target} was cut or altered since its rows were aligned: delete that folder, and the "
            "same command aligns them again"
        )
    return found
