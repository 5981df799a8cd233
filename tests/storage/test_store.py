"""The store on a local directory, with faults, and on an object store that lives in a dict."""

import errno
import os
import pickle
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import fsspec
import pyarrow as pa
import pytest
import torch
from fsspec.implementations.memory import MemoryFileSystem
from helpers_tiers import tiers
from safetensors import SafetensorError
from store_contract import SharedStoreContract, StoreContract
from store_processes import CONTEXT, OURS, write_for_ever

from universal_ray.errors import ConfigurationError, MissingError, StorageError
from universal_ray.storage.names import PARTIAL
from universal_ray.storage.store import Store


class TestLocalStore(SharedStoreContract):
    rounds = 15

    @pytest.fixture
    def store(self, tmp_path):
        return Store(str(tmp_path / "run"))

    def corrupt(self, store, path, data):
        Path(store.url, path).write_bytes(data)


class ObjectStore(MemoryFileSystem):
    """Keys and values without rename: what S3 offers."""

    protocol = "objects"
    store: dict = {}  # noqa: RUF012
    pseudo_dirs = [""]  # noqa: RUF012

    def mv(self, path1, path2, **kwargs):
        raise AssertionError(f"an object store renames nothing, but was asked to rename {path1}")


class TestObjectStore(StoreContract):
    @pytest.fixture
    def store(self):
        fsspec.register_implementation("objects", ObjectStore, clobber=True)
        ObjectStore.store.clear()
        return Store("objects://bucket/run")

    def test_any_complaint_of_the_client_is_a_storage_error(self, store, monkeypatch):
        def refuse(*args, **kwargs):
            raise RuntimeError("AccessDenied")

        monkeypatch.setattr(ObjectStore, "put_file", refuse)
        with pytest.raises(StorageError, match=r"x \(1 bytes\) could not be written.*AccessDenied"):
            store.put("x", b".")

    def test_a_put_is_whole_or_not_there_so_that_nothing_is_swept(self, store):
        store.put("x", b".")
        assert store.sweep(older_than=0.0) == 0 and store.list() == ["x"]


def test_a_file_that_went_at_once_was_not_created(store, monkeypatch):
    """Another has deleted it between the put and the look at whose it is."""
    get = Store.get
    monkeypatch.setattr(Store, "get", lambda self, path: self.delete(path) or get(self, path))
    assert not store.create(OURS, b"mine") and store.list() == []


def test_what_is_wrong_with_tensors_and_not_with_the_disk_stays_what_it_is(store, monkeypatch):
    def refuse(*args, **more):
        raise SafetensorError("another dtype")

    monkeypatch.setattr("safetensors.torch.save_file", refuse)
    with pytest.raises(SafetensorError, match="another dtype"):
        store.put_tensors("t", {"x": torch.ones(1)})
    assert store.list() == [] and not leftovers(store)


@pytest.fixture
def store(tmp_path):
    return Store(str(tmp_path / "run"))


def leftovers(store):
    return [str(path) for path in Path(store.url).rglob("*") if PARTIAL in str(path)]


def test_urls(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    relative = Store("runs/x")
    assert relative.url == str(tmp_path / "runs/x") and not os.path.exists(relative.url)
    relative.put("a", b"1")
    moved = pickle.dumps(relative)
    monkeypatch.chdir("/")
    assert pickle.loads(moved).get("a") == b"1"
    assert Store(f"file://{tmp_path}/runs/x").get("a") == b"1"
    with pytest.raises(ConfigurationError, match="memory of one process"):
        Store("memory://run")
    with pytest.raises(ConfigurationError, match="cannot be opened"):
        Store("nonsense://run")


def test_new_folders_are_on_the_disk_with_the_file_in_them(store, monkeypatch):
    synced, fsync = set(), os.fsync
    note = lambda fd: (synced.add(os.readlink(f"/proc/self/fd/{fd}")), fsync(fd))  # noqa: E731
    monkeypatch.setattr(os, "fsync", note)
    store.put("a/b/c", b"1")
    root = Path(store.url)
    assert {str(root.parent), str(root), str(root / "a"), str(root / "a" / "b")} <= synced


def test_importing_the_store_is_quick():
    heavy = "torch|pyarrow|safetensors|ray|transformers|datasets|numpy"
    code = (
        "import sys, universal_ray.storage.lock;"
        f"print([name for name in '{heavy}'.split('|') if name in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_files_are_as_readable_as_their_folder(store):
    store.put_tensors("t.safetensors", {"x": torch.ones(1)})
    store.put("b", b"1")
    for path in ("t.safetensors", "b"):
        assert os.stat(Path(store.url, path)).st_mode & 0o777 == 0o644


@pytest.mark.parametrize("kind", tiers(["tensors", "bytes"], ["bytes"]))
def test_a_writer_killed_in_the_middle_leaves_whole_files_only(store, kind):
    ready = CONTEXT.Event()
    writer = CONTEXT.Process(target=write_for_ever, args=(store, kind, ready), daemon=True)
    writer.start()
    assert ready.wait(60)
    deadline = time.monotonic() + 30
    while True:  # stop it at a moment when a file is half written
        os.kill(writer.pid, signal.SIGSTOP)
        found = [p for p in Path(store.url).rglob(f"*{PARTIAL}*/*") if p.stat().st_size > 0]
        if found:
            break
        os.kill(writer.pid, signal.SIGCONT)
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.kill(writer.pid, signal.SIGKILL)
    writer.join()
    assert store.list() == [OURS]
    if kind == "tensors":
        x = store.get_tensors(OURS)["x"]
        assert x.shape == (4_000_000,) and bool((x == x[0]).all())
    else:
        data = store.get(OURS)
        assert data == data[:1] * 16_000_000
    assert leftovers(store)
    assert store.sweep() == 0  # too young: its writer might live
    assert store.sweep(older_than=0.0) == 1
    assert not leftovers(store) and store.list() == [OURS]


def test_sweep_goes_by_the_last_sign_of_life(store):
    folder = Path(store.url, "lock", f"000001.json{PARTIAL}0a_b9c3d")
    folder.mkdir(parents=True)
    (folder / "u").write_bytes(b"half")
    hour_ago = time.time() - 4000
    os.utime(folder, (hour_ago, hour_ago))
    assert store.sweep() == 0  # the file in it is fresh
    os.utime(folder / "u", (hour_ago, hour_ago))
    assert store.sweep() == 1 and not folder.exists()
    assert Store(store.url + "/never").sweep() == 0


WRITES = {
    "put": lambda store: store.put("m/u", bytes(3_000_000)),
    "put_tensors": lambda store: store.put_tensors("m/u", {"x": torch.zeros(750_000)}),
    "put_table": lambda store: store.put_table("m/u", pa.table({"x": torch.rand(750_000).numpy()})),
    "create": lambda store: store.create("m/u", bytes(3_000_000)),
}


def one_sentence(error):
    text = str(error)
    return text.endswith(".") and not re.search(r"\. [A-Z]", text) and "\n" not in text


@pytest.mark.parametrize("write", WRITES)
def test_a_full_disk_is_one_sentence(tmp_path, write):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(disk)]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("only root can mount a small disk")
    try:
        store = Store(str(disk / "run"))
        store.put("small", b"1")
        with pytest.raises(StorageError) as caught:
            WRITES[write](store)
        assert one_sentence(caught.value)
        assert re.search(r"u \(3\d{6} bytes\) could not be written in ", str(caught.value))
        assert f"{disk}/run/m (No space left on device): free some space" in str(caught.value)
        assert store.list() == ["small"] and not leftovers(store)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize("write", WRITES)
def test_a_limit_on_file_sizes_is_one_sentence(store, write):
    store.put("small", b"1")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))
    try:
        with pytest.raises(StorageError, match="File too large") as caught:
            WRITES[write](store)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert one_sentence(caught.value)
    assert store.list() == ["small"] and not leftovers(store)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_disk_that_fails_when_flushed_loses_nothing(store, monkeypatch, number):
    store.put("u", b"old")

    def fail(descriptor):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(StorageError, match=re.escape(os.strerror(number))) as caught:
        store.put("u", b"new")
    assert one_sentence(caught.value) and store.get("u") == b"old" and not leftovers(store)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS])
def test_an_unwritable_directory_is_one_sentence(store, monkeypatch, number):
    def refuse(path, *args, **kwargs):
        raise OSError(number, os.strerror(number), path)

    monkeypatch.setattr(os, "mkdir", refuse)
    with pytest.raises(StorageError, match=r"u \(1 bytes\).*choose another run\.dir") as caught:
        store.put("m/u", b".")
    assert one_sentence(caught.value)


@pytest.mark.parametrize("path", ["file/u", "file/deeper/u"])
@pytest.mark.parametrize("write", WRITES)
def test_a_file_where_a_folder_should_be_is_one_sentence(store, path, write):
    store.put("file", b"1")
    inner = Store(f"{store.url}/{os.path.dirname(path)}")
    with pytest.raises(StorageError, match="move away the file") as caught:
        WRITES[write](inner)
    assert one_sentence(caught.value) and store.get("file") == b"1"


def test_a_folder_in_the_place_of_a_file(store):
    store.put("u/inner", b"1")
    with pytest.raises(StorageError, match="Is a directory"):
        store.put("u", b"2")
    with pytest.raises(StorageError, match="Is a directory"):
        store.get("u")
    assert store.list() == ["u/inner"] and not leftovers(store)


def test_create_where_there_are_no_hard_links(store, monkeypatch):
    def refuse(*args):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    assert store.create("lock/1", b"mine") and not store.create("lock/1", b"yours")
    assert store.get("lock/1") == b"mine" and not leftovers(store)


def test_what_reads_a_file_that_goes_is_told(store):
    receipt = store.put_tensors(OURS, {"x": torch.arange(10.0)})
    kept = store.get_tensors(OURS, receipt)["x"]
    store.delete(OURS)
    assert torch.equal(kept, torch.arange(10.0))  # a mapping outlives its name
    with pytest.raises(MissingError):
        store.get_tensors(OURS, receipt)
