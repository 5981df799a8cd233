"""Files of the Hugging Face hub, in its cache on this machine, into which they are downloaded where
they are not in it; or a few bytes of them, where they lie.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from glob import escape
from http import HTTPStatus
from pathlib import Path
from typing import Any

from universal_ray.errors import HubError, MissingError
from universal_ray.storage.hub_answers import ask, offline

MODEL, DATASET = "model", "dataset"
"""Kinds of repositories."""
SHORT_COMMIT = re.compile(r"[0-9a-f]{7,39}")
SHA256 = re.compile(r"[0-9a-f]{64}")
BLOCK = 1 << 16
"""Bytes that are read at once of a file that stays on the hub."""


class PartsError(HubError):
    """What stands for the hub gives files as a whole alone."""


@dataclass(frozen=True)
class Repository:
    """A model or dataset on the hub."""

    kind: str
    name: str  # "owner/name"

    def __str__(self) -> str:
        return f"{self.kind} {self.name!r}"

    @property
    def snapshots(self) -> Path:
        """Folder of the cache with one folder for every commit."""
        from huggingface_hub import constants
        from huggingface_hub.file_download import repo_folder_name

        folder = repo_folder_name(repo_id=self.name, repo_type=self.kind)
        return Path(constants.HF_HUB_CACHE, folder, "snapshots")


@dataclass(frozen=True)
class File:
    """A file of a commit, as the hub tells it, or its cache."""

    size: int
    sha256: str | None  # of those that the hub keeps by it: not of small text


@contextmanager
def _no_bars() -> Iterator[None]:
    from huggingface_hub import utils

    if utils.are_progress_bars_disabled():
        yield
        return
    utils.disable_progress_bars()
    try:
        yield
    finally:
        utils.enable_progress_bars()


def snapshot(
    repository: Repository,
    revision: str,
    patterns: Sequence[str],
    ignored: Sequence[str] = (),
    *,
    bars: bool = False,
) -> Path:
    """The folder of a revision, named by its commit, with the files that match `patterns` and none
    of those `ignored`, which are downloaded where they are not in the cache, with or without bars
    of progress. Raises as `ask`.
    """
    from huggingface_hub import errors, snapshot_download

    wanted = f"{repository} at revision {revision!r}"
    if SHORT_COMMIT.fullmatch(revision):
        revision = _whole_commit(repository, revision)

    def download(*, local: bool = False) -> Path:
        with _no_bars() if not bars else nullcontext():
            return Path(snapshot_download(
                repository.name, repo_type=repository.kind, revision=revision,
                local_files_only=local, allow_patterns=list(patterns),
                ignore_patterns=list(ignored),
            ))  # fmt: skip

    def cached() -> Path | None:
        try:
            return download(local=True)
        except errors.LocalEntryNotFoundError:
            return None

    return ask(wanted, download, cached)


def commit_of(repository: Repository, revision: str) -> str:
    """The commit, 40 hex digits, that a revision means now: a branch, a tag, a commit or its first
    digits. Raises as `ask`.
    """
    return snapshot(repository, revision, [".gitattributes"]).name


def fetch(repository: Repository, commit: str, names: Sequence[str]) -> Path:
    """The folder of a commit with these very files in it; how far that is shows on a terminal.

    Raises as `ask`.
    """
    patterns = [escape(name) for name in names]
    folder = snapshot(repository, commit, patterns, bars=sys.stderr.isatty())
    absent = [name for name in names if not (folder / name).is_file()]
    if absent:
        asked = "is not asked because HF_HUB_OFFLINE is set" if offline() else "has none"
        raise MissingError(
            f"The hub's cache has no {absent[0]} of {repository} at revision {commit!r}, and the "
            f"hub {asked}: download it (deploy/prefetch.py) while the network is there."
        )
    return folder


def _whole_commit(repository: Repository, short: str) -> str:
    """The commit of a repository whose name begins so, of this machine's cache or of the hub.

    Raises MissingError where there is none, or several.
    """
    from huggingface_hub import HfApi

    found = {path.name for path in repository.snapshots.glob(f"{short}*")}
    if not found:
        wanted = f"{repository} at revision {short!r}"
        commits = ask(
            wanted,
            lambda: HfApi().list_repo_commits(repository.name, repo_type=repository.kind),
        )
        found = {each.commit_id for each in commits if each.commit_id.startswith(short)}
    if len(found) != 1:
        raise MissingError(
            f"The hub's {repository} has {len(found)} commits that begin with {short!r}: give one "
            "in full."
        )
    return found.pop()


def told(repository: Repository, commit: str) -> dict[str, File]:
    """Files of a commit by their paths, as the hub tells them; as its cache does where the hub is
    not asked, or has none for now and the cache has some of the large ones. Raises as `ask`.
    """
    from huggingface_hub import HfApi

    here = repository.snapshots / commit
    cached = {
        str(path.relative_to(here)): File(path.stat().st_size, _linked(path))
        for path in here.rglob("*") if path.is_file()
    }  # fmt: skip
    if offline():
        return cached
    large = any(file.sha256 for file in cached.values())

    def listed() -> dict[str, File]:
        api = HfApi()
        info = api.model_info if repository.kind == MODEL else api.dataset_info
        found = info(repository.name, revision=commit, files_metadata=True).siblings
        return {
            each.rfilename: File(each.size or 0, each.lfs.sha256 if each.lfs else None)
            for each in found or ()
        }

    wanted = f"{repository} at revision {commit!r}"
    return ask(wanted, listed, lambda: cached if large else None)


def _linked(path: Path) -> str | None:
    """The sha256 that a file of the cache should have: large ones are links to a file so named."""
    name = os.path.basename(os.readlink(path)) if path.is_symlink() else ""
    return name if SHA256.fullmatch(name) else None


def sha256_of(path: Path) -> str:
    """64 hex digits over the content of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def opened(repository: Repository, commit: str, name: str) -> io.BufferedReader:
    """A file that stays on the hub, of which what is read comes by itself.

    Raises as `ask`, as it is read too, and PartsError where only the whole file is to be had.
    """
    return io.BufferedReader(_Remote(repository, commit, name), BLOCK)


class _Remote(io.RawIOBase):
    """Bytes of a file on the hub, in blocks that are kept."""

    def __init__(self, repository: Repository, commit: str, name: str):
        from huggingface_hub import hf_hub_url

        self._wanted = f"{name} of {repository} at revision {commit!r}"
        self._url = hf_hub_url(repository.name, name, repo_type=repository.kind, revision=commit)
        self._size, self._place = BLOCK, 0
        self._blocks: dict[int, bytes] = {}
        self._kept(0)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        self._place = offset + (0, self._place, self._size)[whence]
        return self._place

    def readinto(self, buffer: Any) -> int:
        if self._place >= self._size:
            return 0
        number, first = divmod(self._place, BLOCK)
        part = self._kept(number)[first : first + len(buffer)]
        buffer[: len(part)] = part
        self._place += len(part)
        return len(part)

    def _kept(self, number: int) -> bytes:
        if number not in self._blocks:
            self._blocks[number] = ask(self._wanted, lambda: self._block(number))
        return self._blocks[number]

    def _block(self, number: int) -> bytes:
        """BLOCK bytes, or what the file has of them; the answer says how long that is."""
        from huggingface_hub import constants
        from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

        begin = number * BLOCK
        span = {"Range": f"bytes={begin}-{begin + BLOCK - 1}", "Accept-Encoding": "identity"}
        headers = {**build_hf_headers(), **span}
        patience = constants.HF_HUB_DOWNLOAD_TIMEOUT
        with get_session().stream("GET", self._url, headers=headers, timeout=patience) as response:
            hf_raise_for_status(response)
            if response.status_code != HTTPStatus.PARTIAL_CONTENT:
                raise PartsError(f"The hub gives no parts of {self._wanted}: download it whole.")
            content, size = response.read(), response.headers["Content-Range"].rpartition("/")[2]
        self._size = int(size)
        if len(content) != min(BLOCK, self._size - begin):
            raise ConnectionError(f"{len(content)} bytes of a file of {size} came")
        return content
