"""Documents of a text source, with their subset labels, streamed through `datasets`."""

import importlib.util
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from glob import escape, glob
from itertools import chain, islice
from pathlib import Path
from typing import Any

from universal_ray.errors import (
    ConfigurationError,
    CorpusError,
    MissingError,
    StorageError,
    UniversalRayError,
    words,
)
from universal_ray.storage.hub import (
    DATASET,
    Repository,
    commit_of,
    fetch,
    sha256_of,
    told,
)
from universal_ray.storage.hub_answers import offline

READERS = {".parquet": "parquet", ".jsonl": "json", ".json": "json", ".txt": "text"}
COMPRESSIONS = (".gz", ".zst")
JOINS = ("eos", "none")
FORMS = (None, "nfc")
RECORDS = 1024
"""Read together from a file of Parquet."""
Records = Iterator[dict[str, Any]]
Parts = Iterator[tuple[str, Records]]
"""Of a source: where each is, for people, and its records."""
HUB_FILES = re.compile(
    r"hf://datasets/(?P<name>[^/@]+/[^/@]+)(@(?P<revision>refs/[^/]+/[^/]+|[^/]+))?/(?P<path>.+)"
)


@dataclass(kw_only=True)
class TextSettings:
    """What to tokenise, and into which rows."""

    source: str
    """Hub dataset `id[@revision]`; or a file, folder, glob or `hf://` address of .parquet, .jsonl,
    .json or .txt (each .txt file one document), also compressed as .gz or .zst."""
    name: str | None = None
    """Configuration of a hub dataset."""
    split: str = "train"
    """Split of a hub dataset."""
    column: str = "text"
    """Column with the text; dots reach into nested columns."""
    subset: str | None = None
    """Column with a document's subset label, as `meta.pile_set_name`; none: no subsets."""
    minimum_characters: int = 51
    """Shorter documents are dropped (the paper drops those of up to 50 characters)."""
    bytes: int | None = None
    """About how much the files of the source hold; more than a tenth off is refused."""
    documents: int | None = None
    """How many documents to read from the start of the source; by default all."""
    join: str = "eos"
    """What stands between two documents of a row: one of JOINS; `none`: rows have no EOS at all."""
    unicode: str | None = None
    """One of FORMS, that text is brought into; by default it is taken as it is."""
    context: int = 512
    """Tokens per row, BOS included."""
    tokens: int | None = None
    """Tokens wanted, rounded up to whole rows; by default all there are."""
    seed: int = 0
    """Seed of the shuffle."""


def documents(settings: TextSettings) -> tuple[Iterator[tuple[str, str]], dict[str, Any]]:
    """The documents of a source with their subset labels, and what the source is.

    Files on the hub come into its cache one by one, as far as they are read, and are held to the
    hub's sha256; all else is streamed: `datasets` keeps no copy and no cache of the text. Raises
    what `storage.hub_answers.ask` does, MissingError where no file matches, and CorpusError.
    """
    import datasets

    parts, provenance = _opening(settings)
    labelled = chain.from_iterable(_labelled(records, where, settings) for where, records in parts)
    return islice(labelled, settings.documents), {**provenance, "datasets": datasets.__version__}


def _of_files(reader: str, files: list[str], settings: TextSettings) -> Parts:
    """Each by itself, so that what is wrong is told of it; those of plain text together, as they
    may be very many.
    """
    if reader == "text":
        yield settings.source, _texts(files, settings)
        return
    for file in files:
        yield file, _read(reader, escape(file), settings, file)


def _texts(files: list[str], settings: TextSettings) -> Records:
    try:
        yield from _read("text", list(map(escape, files)), settings, settings.source)
    except Exception as error:
        raise CorpusError(_unreadable(_unsound(files, settings), error)) from error


def _unsound(files: list[str], settings: TextSettings) -> str:
    """The first of some files of plain text that cannot be read by itself."""
    for file in files:
        try:
            for _ in _read("text", escape(file), settings, file):
                pass
        except Exception:
            return file
    return settings.source


def _read(reader: str, files: str | list[str], settings: TextSettings, where: str) -> Records:
    """The records of files, or of what an address leads to; `where` they are, for people."""
    import datasets

    opened: dict[str, Any] = {"path": reader, "data_files": {settings.split: files}}
    if reader == "text":
        opened["sample_by"] = "document"
    if reader == "parquet":
        opened["batch_size"] = RECORDS  # by default as many as the first group has, be it none
    if reader == "json":
        yield from _json_records(opened, settings, where)
    else:
        read = datasets.load_dataset(**opened, split=settings.split, streaming=True)
        yield from _named(read, settings.subset)


def _named(read: Any, subset: str | None) -> Records:
    """Records of a dataset, their labels by name where they are numbers of classes."""
    *above, last = subset.split(".") if subset else [""]
    features: Any = getattr(read, "features", None)
    for part in [*above, last]:
        features = features.get(part) if isinstance(features, dict) else None
    classes: list[str] | None = getattr(features, "names", None)
    for record in read:
        if classes:
            inner = record
            for part in above:
                inner = inner[part]
            number = inner[last]
            some = number is not None and 0 <= number < len(classes)
            inner[last] = classes[number] if some else None
        yield record


def _json_records(opened: dict[str, Any], settings: TextSettings, where: str) -> Records:
    """Records of JSON files: an object to a line, or a file that is one object or a list of them.

    `datasets` opens the files and takes them apart line by line; its own reader of JSON ends the
    process (a segmentation fault of pyarrow) at a `null` where an object should be.
    """
    import datasets

    def lines() -> Iterator[str]:
        read = datasets.load_dataset(
            **{**opened, "path": "text"}, split=settings.split, streaming=True
        )
        texts = (record["text"].strip().removeprefix("\ufeff") for record in read)
        return filter(None, texts)

    numbered = lines()
    first = next(numbered, None)
    if first is None:
        return iter(())
    if first.startswith("[") or first == "{":
        whole = datasets.load_dataset(
            **{**opened, "path": "text", "sample_by": "document"},
            split=settings.split, streaming=True,
        )  # fmt: skip
        return chain.from_iterable(_objects(file["text"], where) for file in whole)
    return (
        _object(_parsed(line, number, where), number, where)
        for number, line in enumerate(chain([first], numbered))
    )


def _objects(text: str, where: str) -> Records:
    """The entries of a file that is one list, or the one object that it is."""
    found = _parsed(text, 0, where)
    entries = found if isinstance(found, list) else [found]
    return (_object(entry, number, where) for number, entry in enumerate(entries))


def _parsed(text: str, number: int, where: str) -> Any:
    try:
        return json.loads(text, strict=False)
    except (ValueError, RecursionError) as error:
        raise CorpusError(
            f"document {number} of {where} is no JSON ({str(error).splitlines()[0]}): "
            "mend that line"
        ) from error


def _object(value: Any, number: int, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise CorpusError(
            f"document {number} of {where} is {json.dumps(value)[:20]}, not an object with its "
            "text in a column: mend that line"
        )
    return value


def _labelled(
    records: Records, where: str, settings: TextSettings
) -> Iterator[tuple[str, str]]:
    """(text, subset label) of each record; documents without text count as empty."""
    number = 0
    while True:
        try:
            record = next(records, None)
        except UniversalRayError:
            raise
        except Exception as error:
            raise CorpusError(_unreadable(where, error)) from error
        if record is None:
            return
        text = _value(record, settings.column, number, where)
        if text is not None and not isinstance(text, str):
            raise CorpusError(
                f"`{settings.column}` of {where} holds {type(text).__name__}, not text: "
                "name the column with the text"
            )
        label = ""
        if settings.subset:
            label = _value(record, settings.subset, number, where)
            if label is None:
                raise CorpusError(
                    f"document {number} of {where} has no `{settings.subset}`: "
                    "label every document or set corpus.text.subset=null"
                )
        try:
            f"{text}{label}".encode()
        except UnicodeEncodeError as error:  # JSON may spell what is no text
            raise CorpusError(
                f"document {number} of {where} has half of a surrogate pair, which is "
                "no character: mend that line"
            ) from error
        yield text or "", str(label)
        number += 1


def _value(record: dict[str, Any], column: str, number: int, where: str) -> Any:
    """A record's value under a dotted column name."""
    value: Any = record
    for part in column.split("."):
        if not isinstance(value, dict) or part not in value:
            raise CorpusError(
                f"document {number} of {where} has no `{column}`: its columns are "
                f"{', '.join(record)}"
            )
        value = value[part]
    return value


def _opening(settings: TextSettings) -> tuple[Parts, dict[str, Any]]:
    """The parts of a source, and the record of it for the manifest."""
    source = settings.source
    if Path(os.path.expanduser(source)).is_dir():
        source = _within(Path(os.path.expanduser(source)))
    stem = source
    for compression in COMPRESSIONS:
        stem = stem.removesuffix(compression)
    reader = READERS.get(Path(stem).suffix)
    if reader is None:
        return _dataset(settings)
    if source.endswith(".zst") and importlib.util.find_spec("zstandard") is None:
        raise ConfigurationError(f"{source} is compressed by zstd: pip install zstandard first")
    hub = HUB_FILES.fullmatch(source)
    if hub:
        return _hub_files(reader, settings, *hub.group("name", "revision", "path"))
    if "://" in source:
        return iter([(source, _read(reader, source, settings, source))]), {"address": source}
    files = _matching(source)
    if not files:
        raise MissingError(f"no file matches {source}: check corpus.text.source")
    _check_size(settings, sum(map(os.path.getsize, files)))
    digests = {file: sha256_of(Path(file)) for file in files}
    return _of_files(reader, files, settings), {"files": digests}


def _matching(source: str) -> list[str]:
    """Files that a path or glob names, sorted. What is there as it is written is meant as such,
    whatever signs of a glob it has.
    """
    there, *rest = Path(os.path.expanduser(source)).parts
    if not Path(there).exists():
        there, rest = "", [there, *rest]
    while rest and Path(there, rest[0]).exists():
        there = str(Path(there, rest.pop(0)))
    if not rest:
        return [there]
    return sorted(glob(str(Path(escape(there), *rest)), recursive=True))


def _hub_files(
    reader: str, settings: TextSettings, name: str, revision: str | None, path: str
) -> tuple[Parts, dict[str, Any]]:
    """Files of a dataset on the hub, held to the commit that its revision means now."""
    repository = Repository(DATASET, name)
    commit = commit_of(repository, revision or "main")
    files = {
        each: file for each, file in sorted(told(repository, commit).items())
        if fnmatchcase(each, path)
    }  # fmt: skip
    if not files:
        where = "its cache here, and is not asked by HF_HUB_OFFLINE" if offline() else "it"
        raise MissingError(
            f"no file of {repository} at revision {commit} matches {path}, as the hub has them in "
            f"{where}: check corpus.text.source"
        )
    _check_size(settings, sum(file.size for file in files.values()))

    def parts() -> Parts:
        for each, file in files.items():
            place = fetch(repository, commit, [each]) / each
            if file.sha256 is not None and sha256_of(place) != file.sha256:
                raise StorageError(
                    f"{place.resolve()} is not what the hub has as {each} of {repository}: delete "
                    "it, and the same command fetches it again"
                )
            where = f"{each} of {repository}"
            yield where, _read(reader, escape(str(place)), settings, where)

    digests = {each: file.sha256 for each, file in files.items()}
    return parts(), {"dataset": name, "commit": commit, "files": digests}


def _within(folder: Path) -> str:
    """A glob of the files of text in a folder, all of one kind. Raises ConfigurationError."""
    known = [kind + compression for kind in READERS for compression in ("", *COMPRESSIONS)]
    names = [path.name for path in folder.iterdir() if path.is_file()]
    kinds = [kind for kind in known if any(name.endswith(kind) for name in names)]
    if len(kinds) == 1:
        return f"{escape(str(folder))}/*{kinds[0]}"
    if kinds:
        raise ConfigurationError(
            f"{folder} holds files of {' and '.join(kinds)}: name those of one kind, as in "
            f"'{folder}/*{kinds[0]}'"
        )
    raise ConfigurationError(
        f"{folder} holds no file of {', '.join(READERS)}: name a folder that does, or files below "
        f"it as in '{folder}/*/*.txt'"
    )


def _check_size(settings: TextSettings, size: int) -> None:
    """Raises CorpusError for files that cannot be those that are meant."""
    wanted = settings.bytes
    if wanted is not None and abs(size - wanted) > wanted / 10:
        raise CorpusError(
            f"{settings.source} holds {size:,} bytes, where about {wanted:,} are meant: check that "
            "it is the right file, or set corpus.text.bytes=null"
        )


def _dataset(settings: TextSettings) -> tuple[Parts, dict[str, Any]]:
    """A dataset on the hub as `datasets` takes it apart, held to the commit that its revision means
    now.
    """
    import datasets

    name, _, revision = settings.source.partition("@")
    if os.path.exists(name) or name.startswith((".", "/")) or name.count("/") > 1:
        raise ConfigurationError(
            f"{settings.source} is neither a hub dataset nor a file of "
            f"{', '.join(READERS)}: name files, as in '{name}/*.parquet'"
        )
    commit = commit_of(Repository(DATASET, name), revision or "main")

    def records() -> Records:
        read = datasets.load_dataset(
            path=name, name=settings.name, revision=commit, split=settings.split, streaming=True
        )
        yield from _named(read, settings.subset)

    return iter([(settings.source, records())]), {"dataset": name, "commit": commit}


def _unreadable(source: str, error: Exception) -> str:
    return f"{source} cannot be read ({words(error)}): check corpus.text and the way to it"
