"""Tokenised corpora: open and check them, read rows, and say which tokens count.

A corpus is a directory written by `datasets`' `save_to_disk` with an integer column `tokens`. It is
read through memory-mapped Arrow buffers, so that checking 100M tokens takes seconds, a worker opens
only the files its rows lie in, and nothing is cached anywhere. What is read later, by whatever
process, is held against what was there when the corpus was opened, row by row.

Shapes: B rows, P positions of a row, T = B·P tokens.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from jaxtyping import Bool, Int, Int64
from torch import Tensor
from xxhash import xxh3_128_digest

from universal_ray.config.wellformed import MalformedError, parse
from universal_ray.corpus.labels import check_labels, class_names
from universal_ray.errors import ConfigurationError, CorpusError, MissingError, StorageError

MANIFEST = "manifest.json"
TOKENS = "tokens"
SUBSET = "subset"
DIGEST = 16
"""Bytes by which a row is known: xxh3-128, against accidents."""
ROWS_AT_ONCE = 4096
"""Rows held as int64 while hashing or counting: 16 MiB at 512 positions."""

EXCLUSION_RULES = {
    "paper": ("pad", "bos", "eos", "newline"),
    "special": ("pad", "bos", "eos"),
    "none": (),
}
"""Which tokens each rule takes out of every sum, for all models alike (arXiv 2401.12181, A.2)."""


@dataclass(frozen=True)
class TokenCorpus:
    """A checked corpus, some bytes per row to pickle; its files are opened anew by each read."""

    path: str
    rows: int
    context: int
    largest_id: int
    tokenizer: str | None
    """Identity of the tokenizer, where the corpus has a manifest that names it."""
    files: tuple[tuple[str, int], ...]
    """Arrow files in order, each with its number of rows."""
    classes: tuple[str, ...] = ()
    """Names of the subsets, where the files number them."""
    known: dict[str, bytes] = field(default_factory=dict, repr=False)
    """By column, `DIGEST` bytes of every row as it was when the corpus was opened."""

    def read(self, start: int, stop: int) -> Int64[np.ndarray, "B P"]:
        """A copy of rows start to stop.

        Raises CorpusError where there are no such rows, or they have changed since.
        """
        tokens_BP = self._read(start, stop)
        self._check_unchanged(TOKENS, start, tokens_BP)
        return tokens_BP

    def _read(self, start: int, stop: int) -> np.ndarray:
        tokens_BP = np.empty((max(stop - start, 0), self.context), dtype=np.int64)
        filled = 0
        for column in self._columns(TOKENS, start, stop):
            for chunk in column.chunks:
                part_BP = chunk.flatten().to_numpy().reshape(len(chunk), self.context)
                tokens_BP[filled : filled + len(chunk)] = part_BP
                filled += len(chunk)
        return tokens_BP

    def subsets(self, start: int, stop: int) -> list[str] | None:
        """The subset label of each row, or None where the corpus has no column `subset`.

        Raises CorpusError where they have changed since the corpus was opened.
        """
        labels = self._labels(start, stop)
        if labels is not None:
            self._check_unchanged(SUBSET, start, map(_bytes, labels))
        return labels

    def _labels(self, start: int, stop: int) -> list[str] | None:
        labels: list[Any] = []
        for column in self._columns(SUBSET, start, stop):
            if column is None:
                return None
            labels += column.to_pylist()
        return [self.classes[each] for each in labels] if self.classes else list(map(str, labels))

    def _check_unchanged(self, column: str, start: int, rows: Iterable[Any]) -> None:
        """Raises CorpusError where what was just read is not what the corpus was opened with."""
        before = memoryview(self.known.get(column, b""))[start * DIGEST :]
        for row, content in enumerate(rows):
            if xxh3_128_digest(content) != before[row * DIGEST : (row + 1) * DIGEST]:
                raise CorpusError(
                    f"row {start + row} of {self.path} has other {column} than when this run was "
                    "planned: put them back and run the same command again, nothing was made of "
                    "the others"
                )

    def known_now(self) -> "TokenCorpus":
        """The same corpus, knowing its rows as they are."""
        tokens, labels = bytearray(), bytearray()
        for first in range(0, self.rows, ROWS_AT_ONCE):
            stop = min(first + ROWS_AT_ONCE, self.rows)
            tokens += b"".join(map(xxh3_128_digest, self._read(first, stop)))
            labels += b"".join(map(xxh3_128_digest, map(_bytes, self._labels(first, stop) or ())))
        known = {TOKENS: bytes(tokens)} | ({SUBSET: bytes(labels)} if labels else {})
        return replace(self, known=known)

    @property
    def content(self) -> str:
        """sha256 (hex) of what the rows were when the corpus was opened."""
        return hashlib.sha256(b"".join(self.known[name] for name in sorted(self.known))).hexdigest()

    def subsets_hash(self, start: int, stop: int) -> str | None:
        """sha256 (hex) of the rows' subset labels, None where the corpus has none."""
        labels = self.subsets(start, stop)
        if labels is None:
            return None
        return hashlib.sha256(json.dumps(labels).encode()).hexdigest()

    def rows_hash(self, start: int, stop: int) -> str:
        """sha256 (hex) of the rows' shape and of their tokens as little-endian int64."""
        digest = hashlib.sha256(f"{stop - start},{self.context};".encode())
        for tokens_BP in self._batches(start, stop):
            digest.update(tokens_BP.astype("<i8", copy=False).data)
        return digest.hexdigest()

    def _batches(self, start: int, stop: int) -> Iterator[np.ndarray]:
        for first in range(start, stop, ROWS_AT_ONCE):
            yield self.read(first, min(first + ROWS_AT_ONCE, stop))

    def _columns(self, name: str, start: int, stop: int) -> Iterator[Any]:
        """The part of a column that lies in each file touched, None where the file lacks it."""
        if not 0 <= start <= stop <= self.rows:
            raise CorpusError(
                f"rows {start} to {stop} of {self.path} were asked for, but it has "
                f"{self.rows} rows: ask for fewer"
            )
        first = 0
        for file, rows in self.files:
            if first < stop and start < first + rows:
                table = _table(Path(self.path) / file)
                begin = max(start - first, 0)
                length = min(stop - first, rows) - begin
                found = name in table.column_names
                yield _sound(table[name].slice(begin, length), file) if found else None
            first += rows


def glance(path: str) -> tuple[int, int]:
    """Rows of a tokenised `datasets` directory and tokens of its first row, no more of it read.

    Raises MissingError for a path that is not there, StorageError for files that are no tables,
    and CorpusError where there are no rows of tokens.
    """
    folder = Path(os.path.expanduser(path)).resolve()
    rows = context = 0
    for name in _arrow_files(folder):
        column = _token_column(_table(folder / name), path)
        if rows == 0 and len(column):
            context = int(_lengths(column.slice(0, 1).combine_chunks(), path)[0])
        rows += len(column)
    if rows == 0:
        raise CorpusError(f"{folder} has no rows: tokenise some text into it first")
    if not context:
        raise CorpusError(f"the rows of {folder} hold no tokens: tokenise the text again")
    return rows, context


def open_corpus(path: str) -> TokenCorpus:
    """Open a tokenised `datasets` directory, having looked at every row's length and every id.

    Raises MissingError for a path that is not there, StorageError for damaged files, and
    CorpusError for whatever is no `Dataset` of rows of token ids, all of one length.
    """
    path = str(Path(os.path.expanduser(path)).resolve())  # a worker may live in another directory
    files: list[tuple[str, int]] = []
    context, rows, smallest_id, largest_id = None, 0, 0, 0
    classes: tuple[str, ...] | None = None
    for name in _arrow_files(Path(path)):
        table = _table(Path(path) / name)
        column = _sound(_token_column(table, path), name)
        if SUBSET in table.column_names:
            told = class_names(table.schema, SUBSET)
            if classes not in (None, told):
                raise CorpusError(
                    f"`{SUBSET}` of {path} has other classes in {name} than in the files before: "
                    "save it as one Dataset"
                )
            classes = told
            check_labels(_sound(table[SUBSET], name), classes, f"`{SUBSET}` of {path}")
        for chunk in column.chunks:
            if len(chunk) == 0:
                continue
            lengths_B = _lengths(chunk, path)
            context = int(lengths_B[0]) if context is None else context
            ragged_B = np.flatnonzero(lengths_B != context)
            if ragged_B.size:
                row = int(ragged_B[0])
                raise CorpusError(
                    f"row {rows + row} of {path} has {lengths_B[row]} tokens, row 0 has "
                    f"{context}: cut all rows to one length"
                )
            ids = chunk.flatten()
            if ids.null_count:
                raise CorpusError(f"{path} has missing token ids: drop or mend those rows")
            bounds = pc.min_max(ids).as_py() if len(ids) else {"min": 0, "max": 0}
            smallest_id = min(smallest_id, bounds["min"])
            largest_id = max(largest_id, bounds["max"])
            rows += len(chunk)
        files.append((name, len(column)))
    if rows == 0:
        raise CorpusError(f"{path} has no rows: tokenise some text into it first")
    if not context:
        raise CorpusError(f"the rows of {path} hold no tokens: tokenise the text again")
    if smallest_id < 0:
        raise CorpusError(f"{path} holds the token id {smallest_id}: ids must not be negative")
    corpus = TokenCorpus(
        path=path,
        rows=rows,
        context=context,
        largest_id=largest_id,
        tokenizer=_tokenizer_identity(Path(path)),
        files=tuple(files),
        classes=classes or (),
    )
    return corpus.known_now()


def check_fits(
    corpus: TokenCorpus,
    *,
    vocabulary: dict[str, int],
    context: dict[str, int],
    tokenizer_identity: str,
) -> None:
    """Check a corpus against each model's vocabulary size and context, and their tokenizer.

    Raises CorpusError naming the model.
    """
    for model, size in vocabulary.items():
        if corpus.largest_id >= size:
            raise CorpusError(
                f"{corpus.path} holds the token id {corpus.largest_id}, but {model} knows only "
                f"ids below {size}: use a corpus made with this model's tokenizer"
            )
    for model, length in context.items():
        if corpus.context > length:
            raise CorpusError(
                f"rows of {corpus.path} have {corpus.context} tokens, but {model} takes at most "
                f"{length}: tokenise with a shorter context"
            )
    if corpus.tokenizer is not None and corpus.tokenizer != tokenizer_identity:
        raise CorpusError(
            f"{corpus.path} was made with the tokenizer {corpus.tokenizer[:12]}, but "
            f"{', '.join(vocabulary)} use {tokenizer_identity[:12]}: tokenise the text again "
            "with the models' own tokenizer"
        )


def excluded_ids(rule: str, tokenizer: Any) -> tuple[int, ...]:
    """Sorted ids that a rule of EXCLUSION_RULES excludes under a Hugging Face tokenizer.

    `newline` is the one token that decodes to a single newline (id 198 in GPT-2; two newlines in
    one token are kept); a tokenizer that has no such token has none to exclude. Raises
    ConfigurationError for an unknown rule.
    """
    if rule not in EXCLUSION_RULES:
        raise ConfigurationError(
            f"corpus.exclude is {rule}: choose one of {', '.join(EXCLUSION_RULES)}"
        )
    ids: set[int] = set()
    for kind in EXCLUSION_RULES[rule]:
        if kind == "newline":
            encoded = tokenizer.encode("\n", add_special_tokens=False)
            ids |= {token for token in encoded if tokenizer.decode([token]) == "\n"}
        else:
            ids |= {getattr(tokenizer, f"{kind}_token_id")} - {None}
    return tuple(sorted(ids))


def kept_mask(tokens_BP: Int[Tensor, "B P"], excluded: tuple[int, ...]) -> Bool[Tensor, "T"]:
    """Which tokens count, row after row, on the device of the tokens."""
    excluded_E = torch.tensor(excluded, dtype=tokens_BP.dtype, device=tokens_BP.device)
    return torch.isin(tokens_BP.flatten(), excluded_E, invert=True)


def count_kept(
    corpus: TokenCorpus, excluded: tuple[int, ...], *, start: int, stop: int
) -> int:
    """How many tokens of rows start to stop count; zero means there is nothing to correlate."""
    excluded_E = np.array(excluded, dtype=np.int64)
    batches = corpus._batches(start, stop)
    return sum(int(np.isin(tokens_BP, excluded_E, invert=True).sum()) for tokens_BP in batches)


def _arrow_files(directory: Path) -> list[str]:
    """Names of the Arrow files of a saved `Dataset`, in the order of its rows."""
    if not directory.exists():
        raise MissingError(f"corpus {directory} does not exist: check corpus.path")
    if (directory / "dataset_dict.json").is_file():
        splits = _json(directory / "dataset_dict.json", {"splits": [str]})["splits"] or ["train"]
        raise CorpusError(
            f"{directory} is a DatasetDict: name one of its splits ({', '.join(splits)}), "
            f"as in corpus.path={directory}/{splits[0]}"
        )
    if not (directory / "state.json").is_file():
        raise CorpusError(
            f"{directory} is no directory written by `Dataset.save_to_disk`: "
            "save the tokenised dataset with it, or give text to tokenise"
        )
    state = _json(directory / "state.json", {"_data_files": [{"filename": _file_name}]})
    return [entry["filename"] for entry in state["_data_files"]]


def _file_name(value: Any) -> bool:
    """A file beside."""
    return isinstance(value, str) and Path(value).name == value


def _json(file: Path, shape: Any) -> Any:
    """What a small file of a corpus says. Raises StorageError where it is not what it must be."""
    try:
        return parse(file.read_bytes(), shape)
    except (MalformedError, OSError) as error:
        raise StorageError(f"{file} cannot be read ({error}): save the corpus again") from error


def _bytes(label: Any) -> bytes:
    return str(label).encode()


def _sound(column: pa.ChunkedArray, file: str) -> pa.ChunkedArray:
    """A column, having looked at its every offset: Arrow itself trusts them."""
    try:
        column.validate(full=True)
    except pa.ArrowInvalid as error:
        reason = str(error).split("\n")[0]
        raise StorageError(f"{file} is damaged ({reason}): copy the corpus again") from error
    return column


def _table(file: Path) -> pa.Table:
    """One Arrow file, memory-mapped: only the pages read later touch the disk."""
    if not file.is_file():
        raise MissingError(f"{file} is missing: copy the corpus again, with all its files")
    try:
        return pa.ipc.open_stream(pa.memory_map(str(file))).read_all()
    except (pa.ArrowInvalid, OSError) as error:
        raise StorageError(f"{file} is truncated or damaged: copy the corpus again") from error


def _token_column(table: pa.Table, path: str) -> pa.ChunkedArray:
    """The column `tokens`, having checked that it is a list of integers."""
    if TOKENS not in table.column_names:
        raise CorpusError(
            f"{path} has no column `{TOKENS}` but {', '.join(table.column_names)}: "
            "rename the column that holds the token ids"
        )
    kind = table.schema.field(TOKENS).type
    lists = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    if not (lists or pa.types.is_fixed_size_list(kind)):
        raise CorpusError(f"`{TOKENS}` of {path} is {kind}: it must hold a list of ids per row")
    # A dataset of empty rows only has the type null; it is refused for being empty.
    if not (pa.types.is_integer(kind.value_type) or pa.types.is_null(kind.value_type)):
        raise CorpusError(
            f"`{TOKENS}` of {path} holds {kind.value_type}: token ids must be integers"
        )
    return table[TOKENS]


def _lengths(chunk: pa.Array, path: str) -> np.ndarray:
    """Tokens in each row of a chunk, from the Arrow offsets."""
    if chunk.null_count:
        raise CorpusError(f"{path} has rows without tokens (null): drop those rows")
    if pa.types.is_fixed_size_list(chunk.type):
        return np.full(len(chunk), chunk.type.list_size)
    return np.diff(chunk.offsets.to_numpy())


def _tokenizer_identity(directory: Path) -> str | None:
    """What the manifest says about the tokenizer, None where there is no such manifest."""
    if not (directory / MANIFEST).is_file():
        return None
    manifest = _json(directory / MANIFEST, object)
    identity = manifest.get("tokenizer") if isinstance(manifest, dict) else None
    return identity if isinstance(identity, str) else None
