"""One driver at a time: the living refuse, the dead give way, and of many heirs one succeeds."""

import dataclasses
import json
import os
import signal
import subprocess
import time
from typing import Any

import pytest
from store_processes import CONTEXT, hold

from universal_ray.errors import LockedError, StorageError
from universal_ray.storage import lock as locks
from universal_ray.storage.lock import Owner, RunLock, read_lock
from universal_ray.storage.store import Store


@pytest.fixture
def store(tmp_path):
    return Store(str(tmp_path / "run"))


def leave(store, number=1, **changes):
    """Leaves the lock of an owner like this process, but for the changes."""
    owner = dataclasses.replace(locks._this_process(), **changes)
    store.put(f"lock/{number:06d}.json", json.dumps(dataclasses.asdict(owner)).encode())
    return owner


def dead_pid():
    child = subprocess.Popen(["true"])
    child.wait()
    return child.pid


DEAD = {
    "pid gone": lambda: {"pid": dead_pid()},
    "pid reused": lambda: {"started": 1},
    "released": lambda: {"released": True},
    "rebooted": lambda: {"boot": "another", "heartbeat": locks._boot_time() - 1},
}
LATE = {
    "other host": lambda: {"host": "far", "boot": "b", "heartbeat": time.time() - 121},
    "other container": lambda: {"namespace": "pid:[1]", "heartbeat": time.time() - 121},
    "other host of this name": lambda: {"boot": "b", "heartbeat": time.time() - 121},
    "other host, far ahead": lambda: {"host": "far", "boot": "b", "heartbeat": time.time() + 9e8},
}
ALIVE = {
    "this process": dict,
    "this process, long silent": lambda: {"heartbeat": time.time() - 9999},
    "other host": lambda: {"host": "far", "boot": "b", "pid": 1, "heartbeat": time.time() - 110},
    "other host, a little ahead": lambda: {"boot": "b", "heartbeat": time.time() + 60},
    "other container": lambda: {"namespace": "pid:[1]", "pid": dead_pid()},
    "other host of this name": lambda: {"boot": "b", "pid": dead_pid()},
}


@pytest.fixture
def long_up(monkeypatch):
    """This host booted long before any heartbeat of the tests."""
    monkeypatch.setattr(locks, "_boot_time", lambda: time.time() - 1e6)


@pytest.mark.parametrize("case", DEAD)
def test_the_dead_give_way_at_once(store, case):
    left = leave(store, **DEAD[case]())
    status = read_lock(store)
    assert status is None if left.released else status["alive"] is False
    with RunLock(store) as lock:
        lock.check()
        assert read_lock(store)["owner"] != left.owner
    assert store.list("lock") == ["lock/000002.json"]


@pytest.mark.parametrize("case", LATE)
def test_a_late_heartbeat_gives_way_and_is_unknown_to_status(store, long_up, case):
    leave(store, **LATE[case]())
    assert read_lock(store)["alive"] is None
    assert read_lock(store, stale_after=1e9)["alive"] is True
    with RunLock(store) as lock:
        lock.check()


@pytest.mark.parametrize("case", ALIVE)
def test_the_living_refuse_and_are_named(store, long_up, case):
    left = leave(store, **ALIVE[case]())
    before = store.get("lock/000001.json")
    with pytest.raises(LockedError, match=f"in use by process {left.pid} on host {left.host}"):
        RunLock(store).__enter__()
    assert read_lock(store)["alive"] is True
    assert store.list("lock") == ["lock/000001.json"]
    assert store.get("lock/000001.json") == before


def test_a_zombie_is_dead_and_a_strange_name_is_read():
    child = subprocess.Popen(["sleep", "60"])
    assert locks._start_of(child.pid) is not None
    child.kill()
    deadline = time.monotonic() + 10
    while locks._start_of(child.pid) is not None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert locks._start_of(child.pid) is None  # killed, not yet waited for
    child.wait()
    with open("/proc/self/comm") as file:
        name = file.read()
    started = locks._start_of(os.getpid())
    try:
        with open("/proc/self/comm", "w") as file:
            file.write("a) Z (1 2")
        assert locks._start_of(os.getpid()) == started
    finally:
        with open("/proc/self/comm", "w") as file:
            file.write(name)


def test_status_of_an_unlocked_directory_changes_nothing(store):
    assert read_lock(store) is None
    assert not os.path.exists(store.url)


JUNK: list[Any] = [b"", b'{"owner": "x"}', b"[1]", b"\xff", b"[" * 100_000]
JUNK += [{"heartbeat": "now"}, {"heartbeat": 1e300}, {"since": -1e300}, {"pid": None}, {"host": 3}]


@pytest.mark.parametrize("junk", JUNK)
def test_an_unreadable_lock_binds_nobody(store, junk):
    sound = dataclasses.asdict(locks._this_process())
    data = junk if isinstance(junk, bytes) else json.dumps({**sound, **junk}).encode()
    store.put("lock/000001.json", data)
    assert read_lock(store) is None
    with RunLock(store) as lock:
        lock.check()


def test_the_lock_of_a_later_version_binds(store):
    sound = {**dataclasses.asdict(locks._this_process()), "mood": "good"}
    store.put("lock/000001.json", json.dumps(sound).encode())
    with pytest.raises(LockedError, match="in use by process"):
        RunLock(store).__enter__()


def test_foreign_files_in_the_folder_are_left_alone(store):
    store.put("lock/.nfs0001", b"")
    with RunLock(store) as lock:
        lock.check()
    assert store.list("lock") == ["lock/.nfs0001", "lock/000001.json"]


def test_an_heir_that_looked_too_early_backs_off(store, monkeypatch):
    """It saw the dead first owner; since then another took over and tidied up."""
    dead = leave(store, number=1, pid=dead_pid())
    store.delete("lock/000001.json")
    holder = leave(store, number=3)
    looks, last = iter([(1, dead)]), locks._last
    monkeypatch.setattr(locks, "_last", lambda store: next(looks, None) or last(store))
    with pytest.raises(LockedError, match="in use"):
        RunLock(store).__enter__()
    assert store.list("lock") == ["lock/000003.json"]
    assert read_lock(store)["owner"] == holder.owner


def test_a_lock_that_goes_as_it_is_looked_at_was_overtaken(store, monkeypatch):
    leave(store, number=1, released=True)
    get = Store.get

    def overtaking(self, path):
        if path.endswith("000001.json") and self.exists(path):
            leave(self, number=2)
            self.delete(path)
        return get(self, path)

    monkeypatch.setattr(Store, "get", overtaking)
    with pytest.raises(LockedError, match="in use"):
        RunLock(store).__enter__()
    assert store.list("lock") == ["lock/000002.json"]


def test_the_heartbeat_goes_on(store):
    with RunLock(store, beat_every=0.05):
        first = read_lock(store)["heartbeat"]
        deadline = time.monotonic() + 10
        while read_lock(store)["heartbeat"] == first:
            assert time.monotonic() < deadline
            time.sleep(0.02)


def test_a_heartbeat_that_cannot_be_written_stops_nothing(store, monkeypatch, caplog):
    put = Store.put

    def fail(self, path, data):
        raise StorageError("The disk is full.")

    with RunLock(store, beat_every=0.02) as lock:
        monkeypatch.setattr(Store, "put", fail)
        time.sleep(0.2)
        monkeypatch.setattr(Store, "put", put)
        lock.check()
        assert lock._thread.is_alive()
    assert read_lock(store) is None
    assert "No heartbeat: The disk is full." in caplog.text


def test_the_holder_notices_that_it_was_overtaken_and_leaves_the_heir_alone(store, caplog):
    with RunLock(store, beat_every=0.02) as lock:
        heir = leave(store, number=2, host="heir")
        with pytest.raises(LockedError, match=r"is now that of process \d+ on host heir"):
            lock.check()
        lock._thread.join(timeout=10)  # its heartbeat stops by itself
        assert not lock._thread.is_alive()
    assert read_lock(store)["owner"] == heir.owner
    assert "could not be given back" in caplog.text


def test_the_holder_notices_that_its_lock_was_removed(store):
    with RunLock(store) as lock:
        store.delete("lock/000001.json")
        with pytest.raises(LockedError, match="was removed"):
            lock.check()


def test_the_message_is_one_sentence_and_dates_the_owner():
    owner = Owner(
        owner="o", host="h", boot="b", namespace="n", pid=7, started=1, since=0.0, heartbeat=0.0
    )
    assert str(owner) == "process 7 on host h since 1970-01-01 00:00:00 UTC"


def test_the_lock_of_a_driver_killed_outright_is_free_at_once(store):
    ready = CONTEXT.Event()
    driver = CONTEXT.Process(target=hold, args=(store, ready), daemon=True)
    driver.start()
    assert ready.wait(30)
    with pytest.raises(LockedError), RunLock(store):
        pass
    os.kill(driver.pid, signal.SIGKILL)
    driver.join()
    with RunLock(store) as lock:
        lock.check()
