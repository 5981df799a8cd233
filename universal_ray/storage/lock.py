"""One driver at a time: the lock of a run directory.

The lock is a chain of small files, lock/000001.json, lock/000002.json, ...; the one with the
highest number counts. A file is created exclusively, so each number has one owner; a driver may
create the next number only after it saw the last one released or dead; the last one is never
removed, only marked as released. So of any number of drivers that find a dead owner exactly one
succeeds it, without a moment in which there is no lock, and whoever was overtaken can see it.
"""

import dataclasses
import json
import logging
import os
import re
import socket
import threading
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from universal_ray.config.wellformed import ABSENT, MalformedError, moment, parse
from universal_ray.errors import ConfigurationError, LockedError, MissingError, StorageError
from universal_ray.storage.names import STUDY_FILE, before_a_study
from universal_ray.storage.record import read_record
from universal_ray.storage.store import Store

logger = logging.getLogger(__name__)

FOLDER = "lock"
STALE_AFTER = 120.0
BEAT_EVERY = 15.0


@dataclass(frozen=True, kw_only=True)
class Owner:
    """The process behind a lock; times are seconds since the epoch by the owner's clock."""

    owner: str
    host: str
    boot: str
    """The kernel's boot id: process numbers mean nothing beyond it."""
    namespace: str
    """The process namespace: nor do they mean anything in another container."""
    pid: int
    started: int
    """Clock ticks from boot to the start of the process: tells a reused pid."""
    since: float
    heartbeat: float
    released: bool = False

    def alive(self, stale_after: float) -> bool | None:
        """Whether the owner still works; None when its heartbeat is late and nothing more known.

        Exact for a process of the same kernel and container. Otherwise the heartbeat decides, so
        the clocks of the nodes have to agree within a minute; one from before this host's boot
        counts for nothing if the owner ran here, and one that is far ahead no more than one that is
        late: it would never be late.
        """
        if self.released:
            return False
        here = _this_process()
        if here.boot and (self.boot, self.namespace) == (here.boot, here.namespace):
            return _start_of(self.pid) == self.started
        if self.boot != here.boot and self.host == here.host and self.heartbeat < _boot_time():
            return False
        return True if abs(time.time() - self.heartbeat) <= stale_after else None

    def __str__(self) -> str:
        since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(self.since))
        return f"process {self.pid} on host {self.host} since {since}"


SHAPE = {
    "owner": str, "host": str, "boot": str, "namespace": str, "pid": int, "started": int,
    "since": moment, "heartbeat": moment, "released": (bool, ABSENT),
}  # fmt: skip
"""Of its file; what a later version adds is not looked at."""


class RunLock:
    """Context manager: holds the run directory of `store` and keeps a heartbeat while it does.

    Entering raises LockedError while another driver lives, and ConfigurationError where the
    directory is not one of this project; leaving gives the lock back.
    """

    def __init__(
        self, store: Store, stale_after: float = STALE_AFTER, beat_every: float = BEAT_EVERY
    ) -> None:
        self._store = store
        self._stale_after = stale_after
        self._beat_every = beat_every
        self._stop = threading.Event()

    def __enter__(self) -> "RunLock":
        check_ours(self._store)
        self._me = _this_process()
        while True:
            number, last = _last(self._store)
            if last is not None and last.alive(self._stale_after):
                age = time.time() - last.heartbeat
                raise LockedError(
                    f"The run directory {self._store.url} is in use by {last} (last heartbeat"
                    f" {age:.0f} s ago): wait for it or stop it; if it is dead on another host, it"
                    f" gives way {self._stale_after:.0f} s after its last heartbeat."
                )
            self._number = number + 1
            if self._store.create(_path(self._number), self._content()):
                if _last(self._store)[0] == self._number:
                    break
                self._store.delete(_path(self._number))
        if last is not None and not last.released:
            logger.warning("Took over the run directory from %s, which died", last)
        for number in _numbers(self._store):
            if number < self._number:
                self._store.delete(_path(number))
        self._stop.clear()
        self._thread = threading.Thread(target=self._beat, name="run-lock", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()
        try:
            self.check()
            self._store.put(_path(self._number), self._content(released=True))
        except (LockedError, StorageError) as failure:
            logger.warning("The lock could not be given back: %s", failure)

    @property
    def owner(self) -> str:
        """This driver, as its lock names it."""
        return self._me.owner

    def check(self) -> None:
        """Raises LockedError when the lock is no longer this driver's."""
        last = _last(self._store)[1]
        if last is None or last.owner != self._me.owner:
            taker = "was removed" if last is None else f"is now that of {last}"
            raise LockedError(
                f"The lock of the run directory {self._store.url} {taker}: this driver must stop;"
                " start it again once no other one runs."
            )

    def _content(self, released: bool = False) -> bytes:
        self._me = dataclasses.replace(self._me, heartbeat=time.time(), released=released)
        return json.dumps(dataclasses.asdict(self._me), indent=1).encode()

    def _beat(self) -> None:
        while not self._stop.wait(self._beat_every):
            try:
                self.check()
                self._store.put(_path(self._number), self._content())
            except LockedError as error:
                logger.error("%s", error)
                return
            except StorageError as error:
                logger.warning("No heartbeat: %s", error)


def check_ours(store: Store) -> None:
    """Raise ConfigurationError where a directory holds files and no run: they are not ours.

    Raises StorageError where its record is not one of ours.
    """
    if read_record(store) is not None:
        return
    others = [name for name in store.names() if not before_a_study(name)]
    if others:
        raise ConfigurationError(
            f"{store.url} holds {others[0]} and no {STUDY_FILE}: it is no run directory of this "
            "project, name a new or an empty one by run.dir"
        )


def read_lock(store: Store, stale_after: float = STALE_AFTER) -> dict[str, Any] | None:
    """Who holds the run directory, with `alive`; None when nobody does. Changes nothing.

    `alive` is None where only a heartbeat of another host or container can tell and it is late.
    """
    _, last = _last(store)
    if last is None or last.released:
        return None
    return {**dataclasses.asdict(last), "alive": last.alive(stale_after)}


def _path(number: int) -> str:
    return f"{FOLDER}/{number:06d}.json"


def _numbers(store: Store) -> list[int]:
    found = (re.fullmatch(rf"{FOLDER}/(\d{{6,}})\.json", path) for path in store.list(FOLDER))
    return sorted(int(match[1]) for match in found if match)


def _last(store: Store) -> tuple[int, Owner | None]:
    """The highest number in the chain and its owner; (0, None) before the first."""
    while numbers := _numbers(store):
        try:
            told = parse(store.get(_path(numbers[-1])), SHAPE)
            return numbers[-1], Owner(**{name: told[name] for name in SHAPE if name in told})
        except MissingError:
            continue  # overtaken and tidied away since it was listed
        except MalformedError:
            logger.warning("%s/%s is unreadable, binds nobody", store.url, _path(numbers[-1]))
            return numbers[-1], None
    return 0, None


def _this_process() -> Owner:
    pid, now = os.getpid(), time.time()
    return Owner(
        owner=uuid.uuid4().hex,
        host=socket.gethostname(),
        boot=_read("/proc/sys/kernel/random/boot_id").strip(),
        namespace=os.readlink("/proc/self/ns/pid") if os.path.exists("/proc/self/ns/pid") else "",
        pid=pid,
        started=_start_of(pid) or 0,
        since=now,
        heartbeat=now,
    )


def _start_of(pid: int) -> int | None:
    """Clock ticks from boot to the start of a process of this host; None if it is dead."""
    # state, parent, ...; the name that comes before, in parentheses, may hold anything
    fields = _read(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return None if not fields or fields[0] in "ZX" else int(fields[19])


def _boot_time() -> float:
    """When this host's kernel booted, in seconds since the epoch; 0 where it does not tell."""
    found = re.search(r"^btime (\d+)", _read("/proc/stat"), re.MULTILINE)
    return float(found[1]) if found else 0.0


def _read(name: str) -> str:
    """What Linux tells under /proc; nothing on a system that has none, or of a dead process."""
    try:
        return Path(name).read_text()
    except OSError:
        return ""
