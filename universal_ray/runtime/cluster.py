"""A Ray cluster with what a study asks for, and the errors that come back from it."""

import logging
import mmap
import os
import re
import resource
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import ray
from ray._private import ray_constants, services
from ray._raylet import (  # type: ignore[attr-defined]
    AuthenticationTokenLoader,
    Config,
    GcsClient,
)
from ray.exceptions import AuthenticationError, RayActorError, RayTaskError, RpcError

from universal_ray.config.cluster import ADDRESS, ClusterConfig, Device
from universal_ray.errors import ResourceError, UniversalRayError
from universal_ray.planning.capacity import GIB
from universal_ray.runtime.ending import SIGNALS, Stopped
from universal_ray.runtime.measure import machine_bytes
from universal_ray.storage.failures import reason

QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
AUTHENTICATION = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"
OBJECT_SHARE = 0.3
"""Of the machine's memory, that Ray maps as one file for its objects."""
PROCESS_BYTES = 4 * GIB
"""Address space that one of Ray's processes needs beside that."""
SOCKET_BYTES = 107
"""Of the name of a socket, as Linux has them."""
SOCKET = "/ray/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store"
"""The longest that Ray makes in the temporary folder."""
SCRATCH_BYTES = 2**26
"""What Ray's sockets and logs need in the temporary folder at the least."""


@contextmanager
def cluster(settings: ClusterConfig) -> Iterator[None]:
    """A Ray cluster with what is asked for: joined and checked, or started here.

    Raises ResourceError where none answers, none can be started, or it has too little.
    """
    need = {"CPU": float(settings.workers * settings.threads)}
    if settings.device is Device.cuda:
        need["GPU"] = float(settings.workers)
    # Ray's own changes of defaults, announced by warnings that no user of this tool can act on.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    with ExitStack() as opened:
        if settings.address is None:
            opened.enter_context(_started(int(need["CPU"])))
        else:
            opened.enter_context(_joined(settings.address))
        have = ray.cluster_resources()
        for kind, amount in need.items():
            if have.get(kind, 0) < amount:
                raise ResourceError(
                    f"the study asks for {amount:.0f} {kind}s (cluster.workers="
                    f"{settings.workers}) and the cluster has {have.get(kind, 0):.0f}: "
                    "lower cluster.workers or add nodes"
                )
        yield


@contextmanager
def _joined(address: str) -> Iterator[None]:
    """The cluster at an address, as whoever started it has set it up."""
    where = f"cluster.address={address}"
    try:
        try:
            place, where = _found() if address == "auto" else (address, where)
            _knock(place)
            with _own_signals():
                ray.init(address=address, **QUIET)
        except UniversalRayError:
            raise
        except AuthenticationError as error:
            raise ResourceError(
                f"the Ray cluster at {where} asks for a token: set RAY_AUTH_MODE=token, and "
                "RAY_AUTH_TOKEN_PATH to a file that has the cluster's"
            ) from error
        except (OSError, UnicodeError, RpcError) as error:
            raise ResourceError(
                f"no Ray cluster answers at {where}: start one with `ray start --head`, or leave "
                "cluster.address out"
            ) from error
        except RuntimeError as error:
            raise ResourceError(
                f"the Ray cluster at {where} cannot be joined ({_first(error)}): start this on one "
                "of its nodes, with its versions of Ray and Python"
            ) from error
        yield
    finally:
        ray.shutdown()


def _found() -> tuple[str, str]:
    """What `auto` stands for, as Ray looks for it, and in words. Raises OSError for nothing, and
    ResourceError where the environment names no address.
    """
    told = os.environ.get("RAY_ADDRESS")
    if told in (None, "", "auto"):
        place = services.canonicalize_bootstrap_address("auto")
        if place is None:
            raise ConnectionError("no cluster was started here")
        return place, f"{place}, the last that was started here (cluster.address=auto)"
    if not re.fullmatch(ADDRESS, told):
        raise ResourceError(
            f"RAY_ADDRESS={told}, which cluster.address=auto joins, is no HOST:PORT of a cluster's "
            "head: set it to that, or unset it"
        )
    return told, f"RAY_ADDRESS={told} (cluster.address=auto)"


def _knock(address: str) -> None:
    """Raise OSError, or within a minute RpcError, where no cluster answers; Ray itself would try
    for many.
    """
    place = str(services.canonicalize_bootstrap_address(address))  # the host's for the loopback's
    host, _, port = place.rpartition(":")
    socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    with _unheard():
        GcsClient(address=place)


@contextmanager
def _unheard() -> Iterator[None]:
    """What Ray's own code writes to the standard error, past Python's, goes nowhere."""
    sys.stderr.flush()
    before, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(before, 2)
        os.close(before)
        os.close(nowhere)


def _first(error: Exception) -> str:
    """The first line of what Ray says."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".:")


@contextmanager
def _started(cpus: int) -> Iterator[None]:
    """A cluster of this machine that this process alone reaches, and that does not outlive it."""
    check_limits()
    with _token() as folder:
        before = _descendants(os.getpid())
        try:
            with _own_signals(), _loopback():
                ray.init("local", num_cpus=cpus, include_dashboard=False, **QUIET)
        except Exception as error:
            ray.shutdown()
            raise ResourceError(
                f"Ray could not start on this machine ({_first(error)}): its logs are in "
                f"{scratch()}/ray/session_latest/logs, see which limit or disk they name"
            ) from error
        with _watched(_descendants(os.getpid()) - before, folder):
            try:
                yield
            finally:
                ray.shutdown()


def scratch() -> str:
    """Where Ray has its sockets and logs, in folders of its own."""
    return os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"


def check_limits() -> None:
    """Raise ResourceError for limits on this process under which Ray would end after minutes, and
    for a temporary folder whose name leaves no room for that of a socket.
    """
    room = SOCKET_BYTES - len(SOCKET)
    if len(os.fsencode(scratch())) > room:
        raise ResourceError(
            f"Ray's sockets take a temporary folder with a name of at most {room} bytes, and "
            f"{scratch()} has {len(os.fsencode(scratch()))}: set RAY_TMPDIR to a shorter one, "
            "as /tmp"
        )
    objects = round(OBJECT_SHARE * machine_bytes())
    files = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    if files != resource.RLIM_INFINITY and files < objects:
        raise ResourceError(
            f"the limit on the size of files (ulimit -f) is {files / GIB:.1f} GiB and Ray keeps "
            f"its objects in one of up to {objects / GIB:.1f} GiB: raise it to that"
        )
    memory = resource.getrlimit(resource.RLIMIT_AS)[0]
    if memory != resource.RLIM_INFINITY:
        try:
            mmap.mmap(-1, objects + PROCESS_BYTES, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ)
        except OSError as error:
            raise ResourceError(
                f"the limit on the address space of a process (ulimit -v) is {memory / GIB:.1f} "
                f"GiB, which leaves no room for the {(objects + PROCESS_BYTES) / GIB:.1f} GiB that "
                "Ray's processes map: raise it, or limit memory by a control group"
            ) from error


@contextmanager
def _token() -> Iterator[str]:
    """Ray asks every caller for a token, of this run alone, that this user alone can read.

    Yields the folder that the token is in.
    """
    before = {name: os.environ.pop(name, None) for name in AUTHENTICATION}
    try:
        folder = tempfile.mkdtemp(prefix="universal_ray-", dir=scratch())  # readable by its owner
        try:
            free = shutil.disk_usage(folder).free
            if free < SCRATCH_BYTES:
                raise OSError(f"{free / 2**20:.0f} MiB are free")
            path = Path(folder, "token")
            path.write_text(secrets.token_hex(32))
            os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(path)}
            _read_authentication()
        except OSError:
            shutil.rmtree(folder)
            raise
    except OSError as error:
        _restore(before)
        raise ResourceError(
            f"Ray needs {SCRATCH_BYTES / 2**20:.0f} MiB in {scratch()} and cannot write there "
            f"({reason(error)}): free some space, or set RAY_TMPDIR to another folder of a short "
            "name"
        ) from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        _restore(before)
        _read_authentication()


def _restore(before: dict[str, str | None]) -> None:
    for name, value in before.items():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value


def _read_authentication() -> None:
    """Ray remembers what it has read of the environment."""
    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()


@contextmanager
def _loopback() -> Iterator[None]:
    """Everything that Ray starts binds to the loopback, as where it knows no clusters of hosts.

    An address of the loopback that it is given it would replace by the host's.
    """
    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


@contextmanager
def _own_signals() -> Iterator[None]:
    """Ray's start takes SIGTERM away, and ends the process by an exit status of its own."""
    before = {each: signal.getsignal(each) for each in SIGNALS}
    try:
        yield
    except SystemExit as error:
        raise Stopped(signal.SIGTERM) from error
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


@contextmanager
def _watched(processes: set[int], folder: str) -> Iterator[None]:
    """Processes of Ray's end with this one, and its folder goes, even if it is killed.

    Most of them see it by themselves; the two agents of a node would stay for a minute and more.
    """
    numbers = " ".join(str(each) for each in sorted(processes))
    watch = subprocess.Popen(
        # It reads until this process ends.
        ["/bin/sh", "-c", f'read -r _; kill -KILL {numbers}; rm -r "$0"', folder],
        stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        yield
    finally:
        watch.kill()
        watch.communicate()


def _descendants(ancestor: int) -> set[int]:
    """Numbers of the processes that descend from one, as Linux tells."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rpartition(")")[2].split()[1])
        except OSError:  # ended since
            continue
        children.setdefault(parent, []).append(int(path.parent.name))
    found, left = set[int](), [ancestor]
    while left:
        below = children.get(left.pop(), [])
        found |= set(below)
        left += below
    return found


def results(references: list) -> list:
    """`ray.get`, with this project's own errors as they were raised."""
    try:
        return ray.get(references)
    except RayTaskError as error:
        if isinstance(error.cause, UniversalRayError):
            raise error.cause from None
        raise
    except RayActorError as error:
        cause = getattr(error, "cause", None)
        if isinstance(cause, UniversalRayError):
            raise cause from None
        raise
