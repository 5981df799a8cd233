"""Which neurons a token leads to: those that fire on it, promote it or suppress it.

Lists of neurons, token by token, cut into files of about a megabyte, and one file with the texts
of all tokens and where their lists lie.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from universal_ray.report.site.gather import NOTHING, Gathered, numbers
from universal_ray.report.site.pack import script

FIRES, PROMOTES, SUPPRESSES = 0, 1, 2
WAYS = 4
"""A list's entry is the number of the neuron times this, plus which of the above it is."""
SHOWN = 3
"""Tokens of each kind that the list shows of a neuron."""
_PER_FILE = 250_000
_SOURCES = {
    FIRES: ("token_mean_token", "token_max_token"),
    PROMOTES: ("vocab_top_token",),
    SUPPRESSES: ("vocab_bottom_token",),
}


@dataclass(frozen=True)
class Tokens:
    """Texts by their number; the neurons of each text; three tokens of each kind of each neuron."""

    texts: list[str]
    starts: np.ndarray
    """int64 [V + 1]: where each text's entries begin."""
    entries: np.ndarray
    """uint32, ascending within a text."""
    shown: dict[int, np.ndarray]
    """int32 [N, 3]: numbers of texts, NOTHING where there are fewer."""


def tokens(found: Gathered) -> Tokens | None:
    """Of all neurons with statistics or examples; None where there are none."""
    parts = [*_of_statistics(found), *_of_examples(found)]
    if not parts:
        return None
    packed = pa.chunked_array([texts for _, texts, _, _ in parts]).combine_chunks()
    coded = packed.dictionary_encode()
    code = np.asarray(coded.indices.fill_null(NOTHING).to_numpy(zero_copy_only=False), np.int64)
    way = np.repeat([way for way, *_ in parts], [len(texts) for _, texts, _, _ in parts])
    neuron = np.concatenate([neurons for _, _, neurons, _ in parts])
    rank = np.concatenate([rank for *_, rank in parts])
    good = (code != NOTHING) & (neuron != NOTHING)
    code, way, neuron, rank = code[good], way[good], neuron[good], rank[good]
    shown = {}
    for each in _SOURCES:
        shown[each] = np.full((found.neurons, SHOWN), NOTHING, dtype=np.int32)
        here = (way == each) & (rank < SHOWN)
        shown[each][neuron[here], rank[here]] = code[here]
    keys = np.unique(code * np.int64(2**32) + neuron * WAYS + way)
    texts = coded.dictionary.to_pylist()
    starts = np.searchsorted(keys >> 32, np.arange(len(texts) + 1))
    return Tokens(texts, starts, (keys & (2**32 - 1)).astype(np.uint32), shown)


_Part = tuple[int, pa.Array, np.ndarray, np.ndarray]
"""Which way texts matter, the texts, their neurons, and their place among those of the neuron."""


def _of_statistics(found: Gathered) -> Iterator[_Part]:
    table = found.tables.get("statistics")
    if table is None:
        return
    neurons = found.places("statistics")
    for way, names in _SOURCES.items():
        for first, name in enumerate(each for each in names if each in table.column_names):
            column = table[name].combine_chunks()
            lengths = np.asarray(pc.fill_null(pc.list_value_length(column), 0))
            rank = np.arange(lengths.sum()) - np.repeat(lengths.cumsum() - lengths, lengths)
            rank = rank if first == 0 else np.full(len(rank), SHOWN)
            yield way, column.flatten(), np.repeat(neurons, lengths), rank


def _of_examples(found: Gathered) -> Iterator[_Part]:
    """The tokens that the windows of the largest activations are shown for."""
    table, words = found.tables.get("examples"), found.tables.get("vocabulary")
    if table is None or words is None:
        return
    top = np.asarray(pc.equal(table["kind"], "top"))
    chosen = table.filter(pa.array(top)).select(["token_ids", "start", "focus"])
    ids = chosen["token_ids"].combine_chunks()
    here = np.asarray(ids.offsets)[:-1] + numbers(chosen["focus"]) - numbers(chosen["start"])
    shown_for = ids.values.take(pa.array(here.astype(np.int64)))
    texts = words["text"].combine_chunks().take(pc.index_in(shown_for, words["token_id"]))
    yield FIRES, texts, found.places("examples")[top], np.full(len(texts), SHOWN)


def files(told: Tokens) -> Iterator[tuple[str, bytes]]:
    """Names and contents of the scripts."""
    bounds = [0]
    for text in range(len(told.texts)):
        if told.starts[text + 1] - told.starts[bounds[-1]] > _PER_FILE and text > bounds[-1]:
            bounds.append(text)
    bounds.append(len(told.texts))
    yield "tokens", script(
        "tokens", {"texts": told.texts, "files": bounds}, [told.starts.astype(np.float64)]
    )
    for number, (first, last) in enumerate(pairwise(bounds)):
        entries = told.entries[told.starts[first] : told.starts[last]]
        yield f"tokens-{number}", script(f"tokens-{number}", {}, [entries])
