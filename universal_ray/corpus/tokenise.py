"""Text to a tokenised corpus, once: read through `datasets`, cut into rows, saved as Arrow shards.

The rows are those of arXiv 2401.12181, A.2: the documents of each subset apart, joined and cut to
`context - 1` tokens, BOS in front of every row, all rows shuffled and the first ones kept. The
paper's text says that EOS joins them; in the rows that its code makes nothing does, since the
tokenizer pads by EOS and padding is dropped: `join` is `none` for those.
The shuffle gives every row a random key as it comes and keeps the rows with the smallest keys, in
the order of their keys; so no more rows are held than are wanted, however long the text.

Shapes: B rows, P positions of a row.
"""

import json
import logging
import os
import shutil
import socket
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any
from unicodedata import normalize

import numpy as np
import pyarrow as pa

from universal_ray.config.wellformed import ABSENT, MalformedError, parse
from universal_ray.corpus.documents import FORMS, JOINS, TextSettings, documents
from universal_ray.corpus.rows import MANIFEST, SUBSET, TOKENS, TokenCorpus, open_corpus
from universal_ray.corpus.segments import Spelling, check_given_back
from universal_ray.errors import ConfigurationError, CorpusError, StorageError
from universal_ray.storage.disk import make_folder, sync, sync_all

log = logging.getLogger(__name__)

CHARACTERS_AT_ONCE = 1_000_000
"""Text encoded together, 200 MB of memory or so; it decides the order in which rows come.

A single longer document is encoded whole."""
ROWS_PER_SHARD = 16384
"""32 MiB of int32 at 512 positions: a worker's unit touches few files."""
TOKENS_PER_LOG_LINE = 10_000_000
DECIDES_NOTHING = {"bytes"}
"""Settings that refuse text, and say nothing of what is made of it."""
SHAPE = {"tokenizer": str, "settings": dict, "content": (str, ABSENT)}
"""What is read again of a manifest; version 0.1.0 of this project did not write the content."""


def tokenise(
    settings: TextSettings,
    tokenizer: Any,
    tokenizer_identity: str,
    destination: str,
    spelling: Spelling | None = None,
) -> TokenCorpus:
    """Tokenise text into the directory `destination`, or open it where that is done already.

    The directory appears complete or not at all. One made with other settings or another tokenizer
    is refused (ConfigurationError, naming what differs), and one that was altered since
    (StorageError); text that a finished one was made from is not looked at again. Raises
    CorpusError or MissingError for text that cannot be read, and, where `spelling` is given, for a
    document that the tokenizer does not give back byte by byte.
    """
    target = Path(destination)
    wanted = {"tokenizer": tokenizer_identity, **asdict(settings)}
    if target.is_dir() and any(target.iterdir()):
        log.info("corpus %s is tokenised already", target)
        return _finished(target, wanted)
    if settings.context < 2:
        raise ConfigurationError(
            f"corpus.context is {settings.context}: a row needs BOS and at least one token"
        )
    if settings.join not in JOINS:
        raise ConfigurationError(
            f"corpus.text.join is {settings.join}: choose one of {', '.join(JOINS)}"
        )
    if settings.unicode not in FORMS:
        raise ConfigurationError(f"corpus.text.unicode is {settings.unicode}: give nfc or null")
    if target.exists() and not target.is_dir():
        raise ConfigurationError(
            f"corpus.text.prepared={target} is a file: name a folder that is new"
        )
    eos = tokenizer.eos_token_id
    bos = eos if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    if bos is None:
        raise CorpusError("the tokenizer has neither BOS nor EOS to begin rows: set its eos_token")
    if eos is None:
        if settings.join == "eos":
            raise CorpusError("the tokenizer has no EOS token to join documents: set its eos_token")
        eos = -1  # no token: there is none to leave out

    text, provenance = documents(settings)
    rows = None if settings.tokens is None else -(-settings.tokens // settings.context)
    sample = _Sample(rows, settings.seed)
    counts = _cut(text, tokenizer, bos, eos, settings, sample, spelling)
    tokens_BP, subset_B = sample.finish()
    if len(tokens_BP) == 0:
        raise CorpusError(
            f"{settings.source} gives not one row of {settings.context} tokens "
            f"({counts['documents']} documents read, {counts['dropped']} too short): "
            "give more text or a shorter corpus.context"
        )
    if rows is not None and len(tokens_BP) < rows:
        log.warning(
            "%s gives %d rows of %d tokens, %d were wanted: all are kept",
            settings.source,
            len(tokens_BP),
            settings.context,
            rows,
        )
    labels, per_label = np.unique(subset_B, return_counts=True)
    manifest = {
        "tokenizer": tokenizer_identity,
        "settings": asdict(settings),
        "source": provenance,
        **counts,
        "rows": len(tokens_BP),
        "tokens": tokens_BP.size,
        "largest_id": int(tokens_BP.max()),
        "subset_rows": dict(zip(labels.tolist(), per_label.tolist(), strict=True)),
    }
    save_rows(target, tokens_BP, subset_B if settings.subset else None, manifest)
    return _finished(target, wanted)


@dataclass
class _Sample:
    """The rows with the smallest random keys so far: all of them, or `wanted` ones."""

    wanted: int | None
    seed: int
    tokens: list[np.ndarray] = field(default_factory=list)
    labels: list[np.ndarray] = field(default_factory=list)
    keys: list[np.ndarray] = field(default_factory=list)
    held: int = 0

    def __post_init__(self) -> None:
        self.random = np.random.default_rng(self.seed)

    def add(self, tokens_BP: np.ndarray, label: str) -> None:
        self.tokens.append(tokens_BP)
        self.labels.append(np.full(len(tokens_BP), label, dtype=object))
        self.keys.append(self.random.random(len(tokens_BP)))
        self.held += len(tokens_BP)
        if self.wanted is not None and self.held > 2 * self.wanted + 1024:
            self._prune()

    def _prune(self) -> None:
        keys_B = np.concatenate(self.keys)
        best_B = np.argsort(keys_B, kind="stable")[: self.wanted]
        self.tokens = [np.concatenate(self.tokens)[best_B]]
        self.labels = [np.concatenate(self.labels)[best_B]]
        self.keys = [keys_B[best_B]]
        self.held = len(best_B)

    def finish(self) -> tuple[np.ndarray, np.ndarray]:
        """Rows in their shuffled order, int32 [B, P], and the subset label of each."""
        if not self.held:
            return np.empty((0, 0), dtype=np.int32), np.empty(0, dtype=object)
        self._prune()
        return self.tokens[0], self.labels[0]


def _cut(
    labelled: Iterable[tuple[str, str]],
    tokenizer: Any,
    bos: int,
    eos: int,
    settings: TextSettings,
    sample: _Sample,
    spelling: Spelling | None,
) -> dict[str, Any]:
    """Encode documents, join those of a subset, cut them into rows for the sample.

    What is left of a subset after its last whole row is dropped. Returns what was counted.
    """
    carried: dict[str, np.ndarray] = {}
    per_subset: dict[str, int] = {}
    read = dropped = encoded = logged = waiting = 0
    batch: list[tuple[str, str]] = []

    def encode() -> None:
        nonlocal encoded
        ids = tokenizer(
            [text for text, _ in batch],
            add_special_tokens=False,
            return_attention_mask=False,
            verbose=False,
        )["input_ids"]
        if spelling is not None:
            for (text, _), document in zip(batch, ids, strict=True):
                check_given_back(spelling, text, document, where=f"a document of {settings.source}")
        joined: dict[str, list[Iterable[int]]] = {}
        for (_, label), document in zip(batch, ids, strict=True):
            plain = settings.join == "none" or (label not in carried and label not in joined)
            joined.setdefault(label, []).extend([document] if plain else [(eos,), document])
            per_subset[label] = per_subset.get(label, 0) + 1
        for label, parts in joined.items():
            fresh = np.fromiter(chain.from_iterable(parts), dtype=np.int32)
            if settings.join == "none":
                fresh = fresh[fresh != eos]  # a text may spell it
            encoded += len(fresh)
            tokens = np.concatenate([carried[label], fresh]) if label in carried else fresh
            body = settings.context - 1
            rows = len(tokens) // body
            tokens_BP = np.empty((rows, settings.context), dtype=np.int32)
            tokens_BP[:, 0] = bos
            tokens_BP[:, 1:] = tokens[: rows * body].reshape(rows, body)
            carried[label] = tokens[rows * body :].copy()
            sample.add(tokens_BP, label)
        batch.clear()

    for text, label in labelled:
        read += 1
        if settings.unicode == "nfc":
            text = normalize("NFC", text)
        if len(text) < settings.minimum_characters:
            dropped += 1
            continue
        batch.append((text, label))
        waiting += len(text)
        if waiting >= CHARACTERS_AT_ONCE:
            encode()
            waiting = 0
            if encoded - logged >= TOKENS_PER_LOG_LINE:
                logged = encoded
                log.info("tokenised %d documents, %.0fM tokens", read, encoded / 1e6)
    if batch:
        encode()
    return {
        "documents": read,
        "dropped": dropped,
        "encoded_tokens": encoded,
        "subset_documents": per_subset,
    }


def save_rows(
    target: Path, tokens_BP: np.ndarray, subset_B: np.ndarray | None, manifest: dict[str, Any]
) -> None:
    """Write rows [B, P], int32, as shards with a manifest beside the target, then rename: complete
    or not at all.

    Where another process has finished the same target meanwhile, its work stands.
    """
    import datasets

    columns: dict[str, pa.Array] = {
        TOKENS: pa.FixedSizeListArray.from_arrays(pa.array(tokens_BP.ravel()), tokens_BP.shape[1])
    }
    if subset_B is not None:
        columns[SUBSET] = pa.array(subset_B, pa.string())
    partial = target.with_name(f"{target.name}.partial-{socket.gethostname()}-{os.getpid()}")
    try:
        make_folder(target.parent)
        _discard_half_done(target)
        datasets.Dataset(pa.table(columns)).save_to_disk(
            partial, num_shards=-(-len(tokens_BP) // ROWS_PER_SHARD)
        )
        told = {**manifest, "content": open_corpus(str(partial)).content}
        (partial / MANIFEST).write_text(json.dumps(told, indent=1) + "\n")
        sync_all(partial)
        partial.rename(target)
        sync(target.parent)
    except OSError as error:
        if (target / MANIFEST).is_file():
            log.info("another process has tokenised %s meanwhile", target)
            return
        raise StorageError(f"corpus {target} cannot be written: {error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _discard_half_done(target: Path) -> None:
    """Remove what processes of this host that are no more left behind for this target."""
    mine = f"{target.name}.partial-{socket.gethostname()}-"
    for leftover in target.parent.glob(f"{mine}*"):
        process = leftover.name.removeprefix(mine)
        try:
            os.kill(int(process), 0)
        except ProcessLookupError:
            log.warning("discarding the half-done corpus %s", leftover)
            shutil.rmtree(leftover, ignore_errors=True)
        except (ValueError, PermissionError):
            continue


def _finished(target: Path, wanted: dict[str, Any]) -> TokenCorpus:
    """The corpus that the target is. Raises ConfigurationError unless it is one of the wanted
    settings, StorageError where its rows are not what was tokenised.
    """
    try:
        manifest = parse((target / MANIFEST).read_bytes(), SHAPE)
        # Before there was a choice, EOS joined documents.
        there = {"tokenizer": manifest["tokenizer"], "join": "eos", **manifest["settings"]}
    except (OSError, MalformedError) as error:
        raise ConfigurationError(
            f"{target} exists and was not tokenised by this project: name another directory, "
            f"or use it as it is with corpus.path={target}"
        ) from error
    differing = sorted(
        key for key in (there.keys() | wanted.keys()) - DECIDES_NOTHING
        if there.get(key) != wanted.get(key)
    )
    if differing:
        changes = ", ".join(
            f"{key}: {there.get(key)} there, {wanted.get(key)} here" for key in differing
        )
        raise ConfigurationError(
            f"{target} was tokenised with other settings ({changes}): "
            "delete it or name another directory"
        )
    corpus = open_corpus(str(target))
    if manifest.get("content", corpus.content) != corpus.content:
        raise StorageError(
            f"{target} was cut or altered since its text was tokenised: delete that folder, and "
            "the same command tokenises it again"
        )
    return corpus
