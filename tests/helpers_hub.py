"""A stand-in of the hub on the loopback: what its client asks for to find and fetch files, and the
ways in which that fails.
"""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

KINDS = {"models": "", "datasets": "datasets/"}
"""Kinds of repositories, each with what stands before its names in addresses of files."""


@dataclass
class Fault:
    """What is answered instead, `times` times, to requests for a path that ends in `where`.

    `how` is `status`; or of a file `truncated` (half of what was announced, and the connection
    ends), `slow` (half, and nothing more for longer than anybody waits), `short` (half of what the
    hub tells, as if that were all), `whole` (all of it where a part was asked for); or `dropped`:
    no answer at all.
    """

    where: str
    how: str = "status"
    status: int = 503
    headers: dict[str, str] = field(default_factory=dict)
    times: int = 1_000_000
    method: str = ""


class Hub:
    """Repositories by "owner/name@revision" or "datasets/owner/name@revision", each a directory
    whose files are served as they are when they are asked for.

    `asked` lists the requests, `sent` the bytes of each file that went out, `url` is its address.
    Commits are made up, but for those `named`. Files of `large` bytes and more are kept by their
    sha256, as by Git LFS.
    """

    large = 1 << 16

    def __init__(self, repositories: dict[str, Path], named: dict[str, str]) -> None:
        self.repositories, self.named = repositories, named
        self.asked: list[str] = []
        self.sent: dict[str, int] = {}
        self.faults: list[Fault] = []
        self.url = ""
        self.ended = threading.Event()

    def commit(self, key: str) -> str:
        return self.named.get(key) or hashlib.sha1(key.encode()).hexdigest()

    def find(self, name: str, revision: str) -> tuple[str, Path] | None:
        """Commit and directory of a revision, which may be the commit itself."""
        for key, directory in self.repositories.items():
            if key.partition("@")[0] == name:
                commit = self.commit(key)
                if revision in (key.partition("@")[2], commit):
                    return commit, directory
        return None

    def commits(self, name: str) -> list[str]:
        return [self.commit(key) for key in self.repositories if key.partition("@")[0] == name]

    def fault(self, method: str, path: str) -> Fault | None:
        for each in self.faults:
            if path.endswith(each.where) and each.times > 0 and each.method in ("", method):
                each.times -= 1
                return each
        return None

    def entry(self, directory: Path, path: Path) -> dict[str, Any]:
        """A file as the hub lists it."""
        content = path.read_bytes()
        git = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        name = str(path.relative_to(directory))
        found: dict[str, Any] = {"path": name, "size": len(content), "oid": git}
        if len(content) >= self.large:
            sha256 = hashlib.sha256(content).hexdigest()
            found["lfs"] = {"oid": sha256, "size": len(content), "pointerSize": 130}
        return found


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.asked.append(f"{self.command} {path}")
        fault = self.hub.fault(self.command, path)
        if fault is not None and fault.how == "dropped":
            self.close_connection = True
            return
        if fault is not None and fault.how == "status":
            self._send(fault.status, b"{}", fault.headers)
            return
        parts = path.strip("/").split("/")
        listing = parts[0] == "api"
        if listing and parts[1] not in KINDS:
            self._send(404, b"", {})
            return
        kind = parts[1] if listing else "datasets" if parts[0] == "datasets" else "models"
        parts = parts[2:] if listing else parts[kind == "datasets" :]
        name, (what, revision, *rest) = KINDS[kind] + "/".join(parts[:2]), parts[2:]
        if what == "commits":
            commits = [
                {"id": each, "title": "", "message": "", "authors": [],
                 "date": "2026-01-01T00:00:00.000Z"} for each in self.hub.commits(name)
            ]  # fmt: skip
            self._send(200, json.dumps(commits).encode(), {"Content-Type": "application/json"})
            return
        found = self.hub.find(name, revision)
        if found is None:
            known = self.hub.commits(name)
            code = "RevisionNotFound" if known else "RepoNotFound"
            self._send(404, b"{}", {"X-Error-Code": code})
            return
        commit, directory = found
        if listing:
            listed = self._listing(name, what, commit, directory)
            self._send(200, json.dumps(listed).encode(), {"Content-Type": "application/json"})
            return
        file = directory / "/".join(rest)
        if not file.is_file():
            self._send(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
            return
        self._file(fault.how if fault else "", commit, directory, file)

    def _listing(self, name: str, what: str, commit: str, directory: Path) -> Any:
        entries = [self.hub.entry(directory, each) for each in sorted(directory.rglob("*"))
                   if each.is_file()]  # fmt: skip
        if what != "revision":
            return [{"type": "file", **each} for each in entries]
        siblings = [
            {
                "rfilename": each["path"], "size": each["size"], "blobId": each["oid"],
                **({"lfs": {**each["lfs"], "sha256": each["lfs"]["oid"]}} if "lfs" in each else {}),
            }
            for each in entries
        ]  # fmt: skip
        return {"id": name.removeprefix("datasets/"), "sha": commit, "siblings": siblings,
                "private": False, "tags": [], "downloads": 0, "likes": 0}  # fmt: skip

    def _file(self, fault: str, commit: str, directory: Path, file: Path) -> None:
        entry = self.hub.entry(directory, file)
        etag, content = entry.get("lfs", entry)["oid"], file.read_bytes()
        headers = {"X-Repo-Commit": commit, "ETag": f'"{etag}"', "Accept-Ranges": "bytes",
                   "X-Linked-Size": str(len(content))}  # fmt: skip
        span = self.headers.get("Range")
        if span and fault != "whole":
            first, _, last = span.removeprefix("bytes=").partition("-")
            part = content[int(first) : int(last) + 1 if last else None]
            headers["Content-Range"] = (
                f"bytes {first}-{int(first) + len(part) - 1}/{len(content)}"
            )
            content = part[: len(part) // 2] if fault == "part" else part
        if self.command == "GET":
            self.hub.sent[file.name] = self.hub.sent.get(file.name, 0) + len(content)
        if fault in ("truncated", "slow", "short") and self.command == "GET":
            announced = len(content) // 2 if fault == "short" else len(content)
            content = content[: len(content) // 2]
            self.close_connection = True
            self._send(200, content, headers, announced)
            if fault == "slow":
                self.hub.ended.wait()
            return
        self._send(206 if "Content-Range" in headers else 200, content, headers)

    def _send(
        self, status: int, content: bytes, headers: dict[str, str], length: int | None = None
    ) -> None:
        self.send_response(status)
        length = len(content) if length is None else length
        for key, value in {**headers, "Content-Length": str(length)}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)


@contextmanager
def served(repositories: dict[str, Path], **named: str) -> Iterator[Hub]:
    """A hub that has these repositories, some at commits that are `named`."""
    hub = Hub(repositories, named)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield hub
    finally:
        hub.ended.set()
        server.shutdown()
        server.server_close()
        thread.join()


def lead(url: str, cache: Path, patch: pytest.MonkeyPatch) -> None:
    """The hub's client of this process asks there, as HF_ENDPOINT and HF_HOME have it do."""
    from huggingface_hub import constants

    patch.setattr(constants, "HF_HUB_CACHE", str(cache))
    patch.setattr(constants, "HF_HUB_OFFLINE", False)
    patch.setattr(constants, "ENDPOINT", url)
    patch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}"
    )


def unwaited(patch: pytest.MonkeyPatch) -> list[float]:
    """Whoever sleeps does not; how long each would have."""
    slept: list[float] = []
    patch.setattr("time.sleep", slept.append)
    return slept


def offline(patch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    patch.setattr(constants, "HF_HUB_OFFLINE", True)
