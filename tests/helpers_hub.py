"""A stand-in of the hub on the loopback: what its client asks for to find and fetch files."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

LARGE = 1 << 16
"""Bytes from which a file is kept by its sha256, as by Git LFS."""


class Hub:
    """Repositories by "owner/name@revision", each a directory whose files are served as they are
    when they are asked for; `asked` lists the paths, `url` is its address.
    """

    def __init__(self, repositories: dict[str, Path]) -> None:
        self.repositories = repositories
        self.asked: list[str] = []
        self.url = ""

    def commit(self, key: str) -> str:
        return hashlib.sha1(key.encode()).hexdigest()

    def find(self, name: str, revision: str) -> tuple[str, Path] | None:
        """Commit and directory of a revision, which may be the commit itself."""
        for key, directory in self.repositories.items():
            if key.partition("@")[0] == name:
                commit = self.commit(key)
                if revision in (key.partition("@")[2], commit):
                    return commit, directory
        return None

    @staticmethod
    def entry(path: Path) -> dict[str, Any]:
        """A file as the hub lists it."""
        content = path.read_bytes()
        git = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        found: dict[str, Any] = {"path": path.name, "size": len(content), "oid": git}
        if len(content) >= LARGE:
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
        parts = path.strip("/").split("/")
        listing = parts[:2] == ["api", "models"]
        if listing:
            parts = parts[2:]
        name, (kind, revision, *rest) = "/".join(parts[:2]), parts[2:]
        found = self.hub.find(name, revision)
        if found is None:
            self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})
            return
        commit, directory = found
        if listing:
            entries = [Hub.entry(each) for each in sorted(directory.iterdir()) if each.is_file()]
            content: Any = [{"type": "file", **each} for each in entries]
            if kind == "revision":
                siblings = [
                    {
                        "rfilename": each["path"], "size": each["size"], "blobId": each["oid"],
                        **({"lfs": {**each["lfs"], "sha256": each["lfs"]["oid"]}}
                           if "lfs" in each else {}),
                    }
                    for each in entries
                ]  # fmt: skip
                content = {"id": name, "modelId": name, "sha": commit, "siblings": siblings,
                           "private": False, "tags": [], "downloads": 0, "likes": 0}  # fmt: skip
            self._send(200, json.dumps(content).encode(), {"Content-Type": "application/json"})
            return
        file = directory / "/".join(rest)
        if not file.is_file():
            self._send(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
            return
        entry = Hub.entry(file)
        etag = entry.get("lfs", entry)["oid"]
        headers = {"X-Repo-Commit": commit, "ETag": f'"{etag}"', "Accept-Ranges": "bytes"}
        content = file.read_bytes()
        span = self.headers.get("Range")
        if span:
            first, _, last = span.removeprefix("bytes=").partition("-")
            content = content[int(first) : int(last) + 1 if last else None]
        self._send(206 if span else 200, content, headers)

    def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)


@contextmanager
def served(repositories: dict[str, Path]) -> Iterator[Hub]:
    """A hub that has these repositories."""
    hub = Hub(repositories)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
