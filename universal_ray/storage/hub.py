"""The Hugging Face hub: asked with patience, and what it answered told in one sentence.

What is asked for is told apart by how it ends, not by a list of exceptions: the hub's client, its
transports and Xet each raise their own. Files come from the hub's cache on this machine, into which
they are downloaded where they are not in it.
"""

from __future__ import annotations

import errno
import hashlib
import io
import logging
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from glob import escape
from http import HTTPStatus
from pathlib import Path
from typing import Any, TypeVar

from universal_ray.errors import HubError, MissingError, StorageError, UniversalRayError, words

log = logging.getLogger(__name__)

MODEL, DATASET = "model", "dataset"
"""Kinds of repositories."""
PATIENCE = 300.0
"""Seconds altogether to wait for a hub that says it is busy: as long as its limits count."""
SHORT_PATIENCE = 30.0
"""Seconds to wait for one that says nothing: without a network nothing comes later either."""
PASSING = {408, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524}
"""What a hub answers that may answer otherwise soon."""
NOT_SHOWN = {401, 403, 404, 410, 451}
DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR}
SHORT_COMMIT = re.compile(r"[0-9a-f]{7,39}")
SHA256 = re.compile(r"[0-9a-f]{64}")
BLOCK = 1 << 16
"""Bytes that are read at once of a file that stays on the hub."""

Answer = TypeVar("Answer")


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


@dataclass(frozen=True)
class _Failure:
    """How a question to the hub has ended."""

    status: int | None  # None where the hub gave no answer
    code: str  # by which the hub says more than by its status
    after: float | None  # seconds that it asks to wait
    disk: OSError | None  # the cache could not be written
    words: str

    @property
    def passing(self) -> bool:
        return self.disk is None and (self.status is None or self.status in PASSING)

    @property
    def answer(self) -> str:
        """For a sentence: what was answered."""
        if self.status is None:
            return self.words
        known = {each.value: each.phrase for each in HTTPStatus}
        return f"it answered {self.status}, {known.get(self.status, self.words)}"


def offline() -> bool:
    """Whether the hub is not to be asked."""
    from huggingface_hub import constants

    return constants.is_offline_mode()


def ask(
    wanted: str, call: Callable[[], Answer], cached: Callable[[], Answer | None] = lambda: None
) -> Answer:
    """What `call` gives, which asks the hub for what is `wanted`. Where what comes in its place may
    pass, what is `cached` does as well; else the hub is asked again after as long as it says, or
    after ever longer, for up to PATIENCE seconds, or SHORT_PATIENCE of one that does not answer.

    Raises MissingError for what the hub does not have, does not show or is not asked for, HubError
    for what it did not give meanwhile, StorageError where its cache cannot be written.
    """
    waited, pause = 0.0, 1.0
    while True:
        try:
            with _answers_as_they_are():
                return call()
        except (UniversalRayError, MemoryError):
            raise
        except Exception as error:
            failure = _failure(error)
            if failure.passing and not waited and (found := cached()) is not None:
                return found
            limit = SHORT_PATIENCE if failure.status is None else PATIENCE
            wait = pause if failure.after is None else failure.after
            if offline() or not failure.passing or waited + wait > limit:
                raise _told(wanted, failure, waited) from error
            log.warning(
                "%s is not to be had from the hub yet (%s): asked again in %.0f s, for %.0f s at "
                "most", wanted, failure.answer, wait, limit,
            )  # fmt: skip
            time.sleep(wait)
            waited, pause = waited + wait, min(2 * pause, 60.0)


def _failure(error: Exception) -> _Failure:
    """What an error says of the answer, itself or by what it came from."""
    chain, each = list[BaseException](), error
    while each is not None and each not in chain:
        chain.append(each)
        each = each.__cause__ or each.__context__  # type: ignore[assignment]
    for each in chain:
        response = getattr(each, "response", None)
        status = getattr(response, "status_code", None)
        if isinstance(status, int) and status >= 400:
            headers = response.headers  # type: ignore[union-attr]
            code = headers.get("X-Error-Code", "")
            return _Failure(status, code, _asked_to_wait(headers), None, words(each))
    disk = (each for each in chain if isinstance(each, OSError) and each.errno in DISK)
    return _Failure(None, "", None, next(disk, None), words(chain[-1]))


def _asked_to_wait(headers: Any) -> float | None:
    """Seconds, by Retry-After (a number or a date) or by the hub's account of its limits."""
    from huggingface_hub.utils import parse_ratelimit_headers

    after = headers.get("Retry-After", "").strip()
    if after.isdigit():
        return float(after)
    if after:
        try:
            return max(parsedate_to_datetime(after).timestamp() - time.time(), 0.0)
        except ValueError:
            return None
    limits = parse_ratelimit_headers(headers)
    return limits.reset_in_seconds + 1.0 if limits and limits.remaining == 0 else None


def _told(wanted: str, failure: _Failure, waited: float) -> UniversalRayError:
    """The one sentence about a question that has failed for good."""
    from huggingface_hub import constants

    if failure.disk is not None:
        return StorageError(
            f"The hub's cache {constants.HF_HUB_CACHE} cannot take {wanted} "
            f"({failure.disk.strerror}): make room, or lead HF_HOME to another place."
        )
    if offline():
        return MissingError(
            f"The hub's cache {constants.HF_HUB_CACHE} does not hold {wanted}, and the hub is not "
            "asked because HF_HUB_OFFLINE is set: download it (deploy/prefetch.py) while the "
            "network is there."
        )
    if failure.code == "GatedRepo":
        return MissingError(
            f"The hub shows {wanted} to whom its owner lets see it ({failure.answer}): ask for "
            "access on its page, and log in here by `hf auth login` or HF_TOKEN."
        )
    if failure.status in NOT_SHOWN:
        return MissingError(
            f"The hub has no {wanted} that can be read ({failure.answer}): check spelling and "
            "revision, and log in where it is private."
        )
    after = "" if failure.after is None else f" and asks to wait {failure.after:.0f} s"
    advice = "run the same command later"
    if failure.status is None:
        advice = "check the network (HF_ENDPOINT, proxies) and run the same command again"
        if "xet" in failure.words.lower():
            advice = "set HF_HUB_DISABLE_XET=1 to go without Xet and run the same command again"
    return HubError(
        f"The hub did not give {wanted} ({failure.answer}{after}), asked again for {waited:.0f} s: "
        f"{advice}."
    )


@contextmanager
def _answers_as_they_are() -> Iterator[None]:
    """The hub's client passes on what may pass, and does not wait for whatever time it is told."""
    from huggingface_hub.utils import get_session, hf_raise_for_status

    def pass_on(response: Any) -> None:
        if response.status_code in PASSING:
            response.read()
            hf_raise_for_status(response)

    hooks = get_session().event_hooks["response"]
    hooks.append(pass_on)
    try:
        yield
    finally:
        hooks.remove(pass_on)


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
        found = HfApi().repo_info(
            repository.name, repo_type=repository.kind, revision=commit, files_metadata=True
        )
        return {
            each.rfilename: File(each.size or 0, each.lfs.sha256 if each.lfs else None)
            for each in found.siblings or ()
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
        from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

        begin = number * BLOCK
        span = {"Range": f"bytes={begin}-{begin + BLOCK - 1}", "Accept-Encoding": "identity"}
        headers = {**build_hf_headers(), **span}
        with get_session().stream("GET", self._url, headers=headers, timeout=60) as response:
            hf_raise_for_status(response)
            if response.status_code != HTTPStatus.PARTIAL_CONTENT:
                raise PartsError(f"The hub gives no parts of {self._wanted}: download it whole.")
            content, size = response.read(), response.headers["Content-Range"].rpartition("/")[2]
        self._size = int(size)
        if len(content) != min(BLOCK, self._size - begin):
            raise ConnectionError(f"{len(content)} bytes of a file of {size} came")
        return content
