"""Files of a run directory, on a local disk or an object store: whole or absent, never half.

The only module that knows fsspec. Every file is first written whole under a local temporary name,
hashed there, and then published: by fsync and rename on a local file system, by one put elsewhere.
torch, safetensors and pyarrow are imported where they are used, so that reading a run's status
does not wait for them.
"""

import json
import logging
import os
import shutil
import socket
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from universal_ray.errors import (
    ConfigurationError,
    DamagedError,
    MissingError,
    StorageError,
    UniversalRayError,
)
from universal_ray.storage.disk import checksum, free_bytes, make_folder, save_tensors, seal, sync
from universal_ray.storage.failures import patiently, reason, remedy
from universal_ray.storage.names import PARTIAL, our_scratch, ours

if TYPE_CHECKING:
    import pyarrow
    import torch

logger = logging.getLogger(__name__)

_Paths = list[str]  # Store has a method called list
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Receipt:
    """What was written: path within the store, length in bytes, checksum (xxh3-128, hexadecimal).

    The checksum is against accidents, and several times as fast as the disk.
    """

    path: str
    bytes: int
    checksum: str

    def of(self, name: str) -> bool:
        """Whether it is that of a file on this host."""
        return os.path.getsize(name) == self.bytes and checksum(name) == self.checksum


class Store:
    """The files under one directory or bucket prefix, named by relative paths with slashes.

    Can be pickled: a worker opens the file system anew. What an object store refuses for a while
    is asked again. All failures are StorageError, MissingError where a file to be read does not
    exist, or DamagedError where it is not that of its receipt. Nothing is cached: a listing shows
    what was written before it.
    """

    def __init__(self, url: str) -> None:
        """`url` is a path, made absolute, or s3://..., gs://...; ConfigurationError if unusable."""
        try:
            self._files, self._root = url_to_fs(str(url), use_listings_cache=False)
        except (ValueError, ImportError) as error:
            raise ConfigurationError(
                f"The run directory {url} cannot be opened ({reason(error)}): name a local path or"
                " a URL whose protocol is installed."
            ) from error
        if "memory" in self._files.protocol:
            raise ConfigurationError(
                f"The run directory {url} lies in the memory of one process, which no worker can"
                " see: name a path or an object store that all nodes share."
            )
        self._local = isinstance(self._files, LocalFileSystem)
        self.url: str = self._root if self._local else self._files.unstrip_protocol(self._root)

    def put(self, path: str, data: bytes) -> Receipt:
        """Writes `data`, replacing what was there; readers see the old file or the new one."""
        return self._publish(path, len(data), lambda name: Path(name).write_bytes(data))

    def put_tensors(
        self,
        path: str,
        tensors: Mapping[str, "torch.Tensor"],
        metadata: Mapping[str, str] | None = None,
    ) -> Receipt:
        """Writes named tensors as one safetensors file, without a second copy in memory.

        Tensors that overlap in memory are refused by safetensors (RuntimeError).
        """
        packed = {name: tensor.contiguous() for name, tensor in tensors.items()}
        size = sum(tensor.nbytes for tensor in packed.values())
        told = dict(metadata or {})
        return self._publish(path, size, lambda name: save_tensors(packed, name, told))

    def put_json(self, path: str, content: Mapping[str, Any]) -> Receipt:
        """Writes strict JSON: a NaN is a ValueError, a value that is missing is None."""
        text = json.dumps(content, indent=1, allow_nan=False, ensure_ascii=False)
        return self.put(path, text.encode() + b"\n")

    def put_table(
        self, path: str, table: "pyarrow.Table", row_group_size: int | None = None
    ) -> Receipt:
        """Writes a Parquet file (zstd) with `row_group_size` rows to a group."""
        from pyarrow.parquet import write_table

        more: dict[str, Any] = {"compression": "zstd", "row_group_size": row_group_size}
        return self._publish(path, table.nbytes, lambda name: write_table(table, name, **more))

    def create(self, path: str, data: bytes) -> bool:
        """Writes `data` unless the file exists; True where the file is this one.

        Of several writers with different data exactly one gets True. On an object store this rests
        on its conditional put (S3, GCS and Azure have one); that data tell their writer is how one
        whose put arrived but was never answered knows its own file.
        """
        target = self._full(path)
        with self._failing_as("written", target, len(data)):
            if self._local:
                self._link(target, data)
            else:
                with suppress(FileExistsError):
                    self._ask(lambda: self._files.pipe_file(target, data, mode="create"))
        with suppress(MissingError):  # gone again already
            return self.get(path) == data
        return False

    def get(self, path: str, receipt: Receipt | None = None) -> bytes:
        """The file's bytes; here and below, DamagedError where they are not its receipt's."""
        with self._fetched(path, receipt) as name:
            return Path(name).read_bytes()

    def get_tensors(
        self, path: str, receipt: Receipt | None = None, names: Iterable[str] | None = None
    ) -> dict[str, "torch.Tensor"]:
        """The tensors of a safetensors file, or those in `names`.

        On a local disk they are private mappings of the file: pages are read when touched.
        """
        from safetensors import SafetensorError, safe_open

        with self._fetched(path, receipt) as name:
            try:
                with safe_open(name, framework="pt") as file:
                    wanted = file.keys() if names is None else names
                    return {tensor: file.get_tensor(tensor) for tensor in wanted}
            except SafetensorError as error:
                raise self._damaged(path, "safetensors", error) from error

    def get_json(self, path: str, receipt: Receipt | None = None) -> dict[str, Any]:
        """The object that a JSON file holds."""
        try:
            content = json.loads(self.get(path, receipt))
            if not isinstance(content, dict):
                raise ValueError("it holds no object")
        except (ValueError, RecursionError) as error:
            raise self._damaged(path, "JSON", error) from error
        return content

    def get_table(
        self, path: str, columns: Sequence[str] | None = None, receipt: Receipt | None = None
    ) -> "pyarrow.Table":
        """A Parquet file's table, or its `columns` alone."""
        import pyarrow.parquet

        with self._fetched(path, receipt) as name:
            try:
                # No partitioning: a folder called key=value is not a column.
                return pyarrow.parquet.read_table(name, columns=columns, partitioning=None)
            except pyarrow.ArrowException as error:
                raise self._damaged(path, "Parquet", error) from error

    def verify(self, receipt: Receipt) -> bool:
        """Whether the file exists with the length and the checksum of its receipt."""
        try:
            with self._fetched(receipt.path, receipt):
                return True
        except (MissingError, DamagedError):
            return False

    def exists(self, path: str) -> bool:
        """Whether there is such a file or folder."""
        target = self._full(path)
        with self._failing_as("looked up", target):
            return bool(self._ask(lambda: self._files.exists(target)))

    def list(self, prefix: str = "") -> _Paths:
        """The finished files in the folder `prefix` and below, sorted, relative to the store."""
        return sorted(self.sizes(prefix))

    def sizes(self, prefix: str = "") -> dict[str, int]:
        """Bytes of every finished file in the folder `prefix` and below."""
        target = self._full(prefix)
        with self._failing_as("listed", target):
            found = self._ask(lambda: self._files.find(target, detail=True))
        paths = ((name[len(self._root) :].lstrip("/"), about) for name, about in found.items())
        return {path: about["size"] for path, about in paths if PARTIAL not in path}

    def room(self) -> int | None:
        """Bytes that its disk has for it, its own among them; None where it is on none of ours."""
        return free_bytes(self._root) + sum(self.sizes().values()) if self._local else None

    def names(self) -> _Paths:
        """What lies at the top, files and folders, finished or not."""
        with self._failing_as("listed", self._root), suppress(FileNotFoundError):
            found = self._ask(lambda: self._files.ls(self._root, detail=False))
            return sorted({name[len(self._root) :].strip("/") for name in found} - {""})
        return []

    def delete(self, path: str) -> None:
        """Removes a file of this project's, for good once this returns; that there is none is fine.

        The one way by which anything goes: what bears another name is not ours, and stays.
        """
        if not ours(path):
            return
        target = self._full(path)
        with self._failing_as("deleted", target), suppress(FileNotFoundError):
            self._ask(lambda: self._files.rm_file(target))
            if self._local:
                sync(os.path.dirname(target))

    def move(self, path: str, new: str) -> None:
        """Gives a file another name, replacing what was there; readers see the old or the new."""
        source, target = self._full(path), self._full(new)
        with self._failing_as("moved", source):
            if self._local:
                make_folder(os.path.dirname(target))
                os.replace(source, target)
                sync(os.path.dirname(target))
            else:
                self._ask(lambda: self._files.cp_file(source, target))
                self.delete(path)

    def sweep(self, older_than: float = 3600.0) -> int:
        """Removes what dead writers of ours left half done, by age in seconds; returns how many.

        With older_than=0, for when no writer can be alive, all of it goes.
        """
        if not self._local:
            return 0
        removed = 0
        for folder, _, names in os.walk(self._root):
            if not our_scratch(os.path.relpath(folder, self._root)):
                continue
            with suppress(OSError):  # its writer may finish meanwhile
                written = (os.path.getmtime(os.path.join(folder, name)) for name in (*names, "."))
                if time.time() - max(written) >= older_than:
                    shutil.rmtree(folder)
                    removed += 1
        if removed:
            logger.info("Removed %d unfinished files of dead writers from %s", removed, self.url)
        return removed

    def write_nonce(self) -> str:
        """Leaves a fresh sign in the run directory and returns it, for workers to look for."""
        for path in self.list(".nonce"):
            self.delete(path)
        nonce = uuid.uuid4().hex
        # A new name each time: a name seen before may be answered from an NFS client's cache.
        self.put(f".nonce/{nonce}", b"")
        return nonce

    def check_nonce(self, nonce: str) -> None:
        """Raises StorageError where the driver's sign cannot be seen."""
        if not self.exists(f".nonce/{nonce}"):
            raise StorageError(
                f"The worker on host {socket.gethostname()} cannot see the run directory {self.url}"
                " as the driver does: it must be on storage that all nodes share."
            )

    def _full(self, path: str) -> str:
        if path.startswith("/") or ".." in path.split("/"):
            raise ConfigurationError(
                f"{path} leaves the run directory {self.url}: use a name in it."
            )
        return f"{self._root.rstrip('/')}/{path}" if path else self._root

    def _publish(self, path: str, size: int, write: Callable[[str], Any]) -> Receipt:
        """Lets `write` fill a temporary file of about `size` bytes and makes it visible at once."""
        target = self._full(path)
        with self._failing_as("written", target, size), self._scratch(target) as name:
            write(name)
            length, digest = seal(name)
            if self._local:
                os.replace(name, target)
                sync(os.path.dirname(target))
            else:
                self._ask(lambda: self._files.put_file(name, target))
        return Receipt(path, length, digest)

    def _link(self, target: str, data: bytes) -> None:
        """Makes a local file of `data` at one blow, unless the name is taken."""
        with self._scratch(target) as name:
            Path(name).write_bytes(data)
            seal(name)
            with suppress(FileExistsError):
                try:
                    os.link(name, target)  # unlike a rename, fails where the name is taken
                except FileExistsError:
                    raise
                except OSError:  # a file system without links: exclusive, if not at one blow
                    with open(target, "xb") as file:
                        file.write(data)

    def _ask(self, call: Callable[[], _Result]) -> _Result:
        """What the file system's client answers; whatever it raises in the end is an OSError."""
        try:
            return patiently(call)
        except OSError:
            raise
        except Exception as error:
            raise OSError(reason(error)) from error

    @contextmanager
    def _scratch(self, target: str) -> Iterator[str]:
        """A name for a file in a temporary folder: beside the target, or on this host's disk.

        A folder and not a file, since libraries that write leave temporary files of their own.
        """
        folder, name = os.path.split(target)
        if self._local:
            make_folder(folder)
        with tempfile.TemporaryDirectory(
            dir=folder if self._local else None,
            prefix=f"{name}{PARTIAL}",
            ignore_cleanup_errors=True,
        ) as scratch:
            yield os.path.join(scratch, name)

    @contextmanager
    def _fetched(self, path: str, receipt: Receipt | None = None) -> Iterator[str]:
        """A local name of the file: its own, or that of a copy which goes afterwards."""
        target = self._full(path)
        with self._failing_as("read", target), ExitStack() as opened:
            try:
                name = target
                if not self._local:
                    name = opened.enter_context(self._scratch(target))
                    self._ask(lambda: self._files.get_file(target, name))
                if receipt is not None and not receipt.of(name):
                    raise DamagedError(
                        f"{target} is not the file of {receipt.bytes} bytes that its receipt"
                        " names: it was cut or altered, what made it makes it anew."
                    )
                yield name
            except FileNotFoundError as error:
                raise MissingError(
                    f"{target} does not exist: compute it first, or check the path."
                ) from error

    @contextmanager
    def _failing_as(self, done: str, target: str, size: int | None = None) -> Iterator[None]:
        try:
            yield
        except UniversalRayError:
            raise
        except OSError as error:
            folder, name = os.path.split(target)
            if not self._local:
                folder = self._files.unstrip_protocol(folder)
                if done in ("read", "written"):
                    folder += f" by way of {tempfile.gettempdir()}"
            amount = "" if size is None else f" ({size} bytes)"
            raise StorageError(
                f"{name}{amount} could not be {done} in {folder} ({reason(error)}):"
                f" {remedy(error)}."
            ) from error

    def _damaged(self, path: str, kind: str, error: Exception) -> DamagedError:
        return DamagedError(
            f"{self._full(path)} cannot be read as {kind} ({reason(error)}): it was cut or altered,"
            " what made it makes it anew."
        )
