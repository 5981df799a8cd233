"""Rows of a corpus that do not follow each other."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int64

from universal_ray.corpus.rows import TokenCorpus

TOGETHER = 1024
"""Rows read together: a block of the corpus in which at least one is wanted."""


def read_rows(corpus: TokenCorpus, rows: Sequence[int]) -> Int64[np.ndarray, "R P"]:
    """The tokens of some rows, in the order given, each as often as it is given.

    Raises CorpusError as `TokenCorpus.read` does.
    """
    wanted_R = np.asarray(rows, dtype=np.int64)
    tokens_RP = np.empty((len(wanted_R), corpus.context), dtype=np.int64)
    for block in np.unique(wanted_R // TOGETHER).tolist():
        start = block * TOGETHER
        inside_R = wanted_R // TOGETHER == block
        place_R = wanted_R[inside_R] - start
        first, last = int(place_R.min()), int(place_R.max())
        read_BP = corpus.read(start + first, start + last + 1)
        tokens_RP[inside_R] = read_BP[place_R - first]
    return tokens_RP
