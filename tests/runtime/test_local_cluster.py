"""The cluster that a run starts for itself: who reaches it, what ends it, what forbids it."""

import functools
import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest
from ray._private.utils import validate_socket_filepath
from ray.exceptions import RpcError

from universal_ray.config.study import ClusterConfig
from universal_ray.errors import ResourceError
from universal_ray.runtime import cluster

DRIVER = """
    import os, pathlib, sys, time
    from universal_ray.config.study import ClusterConfig
    from universal_ray.runtime.cluster import cluster

    with cluster(ClusterConfig(workers=1)):
        import ray
        ray.get(ray.remote(lambda: None).remote())
        path = os.environ["RAY_AUTH_TOKEN_PATH"]
        print(path, ray.get_runtime_context().gcs_address, flush=True)
        time.sleep(600)
"""
STRANGER = """
    import logging, os, sys
    from ray._raylet import GcsClient
    try:
        GcsClient(address=sys.argv[1]).internal_kv_keys(b"", None)
    except Exception as error:
        sys.exit(f"refused: {type(error).__name__} {error}")
"""


@pytest.fixture(scope="module")
def local():
    """A driver with its own cluster, the processes of that, its token and its address."""
    environment = {**os.environ, "HOME": "/proc/no/home", "RAY_AUTH_MODE": "disabled"}
    driver = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(DRIVER)],
        stdout=subprocess.PIPE, text=True, env=environment,
    )
    assert driver.stdout is not None
    try:
        path, address = driver.stdout.readline().split()
        this = psutil.Process(driver.pid)
        yield driver, [this, *this.children(recursive=True)], Path(path), address
    finally:
        driver.kill()
        driver.communicate()


@pytest.mark.cluster
def test_everything_listens_on_the_loopback_alone(local):
    _, processes, _, _ = local
    listening = [
        (process.name(), connection.laddr.ip.removeprefix("::ffff:"))
        for process in processes
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert {name for name, _ in listening} >= {"gcs_server", "raylet"}
    assert {address for _, address in listening} == {"127.0.0.1"}


@pytest.mark.cluster
def test_the_token_is_the_runs_own_and_its_owners_alone(local):
    _, _, path, _ = local
    assert len(path.read_text()) == 64
    assert path.parent.stat().st_mode & 0o077 == 0


@pytest.mark.cluster
@pytest.mark.parametrize("token", [None, "f" * 64, "the run's"])
def test_a_stranger_is_refused_without_the_token_and_with_another(local, token):
    _, _, path, address = local
    given = {key: value for key, value in os.environ.items() if not key.startswith("RAY_AUTH")}
    if token is None:
        given["RAY_AUTH_MODE"] = "disabled"
    else:
        own = path.read_text() if token == "the run's" else token
        given |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": own}
    found = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(STRANGER), address],
        capture_output=True, text=True, env=given, check=False, timeout=120,
    )
    if token == "the run's":
        assert found.returncode == 0, found.stderr
    else:
        assert found.returncode == 1 and "refused" in found.stderr
        assert "auth" in found.stderr.lower() or "token" in found.stderr.lower()


@pytest.mark.cluster
def test_nothing_of_a_killed_driver_stays(local):
    driver, processes, path, _ = local
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    _, alive = psutil.wait_procs(processes, timeout=30)
    left = []
    for process in alive:
        with suppress(psutil.NoSuchProcess):
            if process.status() != psutil.STATUS_ZOMBIE:
                left.append(process.name())
    assert left == []
    assert not path.parent.exists()


@contextmanager
def limited(kind: int, most: int):
    before = resource.getrlimit(kind)
    resource.setrlimit(kind, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(kind, before)


def test_limits_that_leave_ray_no_room_are_told_at_once():
    with (
        limited(resource.RLIMIT_FSIZE, 2**20),
        pytest.raises(ResourceError, match="ulimit -f"),
        cluster._started(1),
    ):
        pass
    with (
        limited(resource.RLIMIT_AS, psutil.Process().memory_info().vms + 2**30),
        pytest.raises(ResourceError, match="ulimit -v"),
        cluster._started(1),
    ):
        pass


@pytest.fixture
def short():
    """A folder whose name leaves room for that of a socket."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        yield Path(folder)


def test_a_temporary_folder_that_takes_nothing_is_told_at_once(monkeypatch, short):
    (short / "file").write_text("")
    before = dict(os.environ)
    monkeypatch.setenv("RAY_TMPDIR", str(short / "file"))
    with pytest.raises(ResourceError, match=r"RAY_TMPDIR to another"), cluster._started(1):
        pass
    monkeypatch.setenv("RAY_TMPDIR", str(short))
    monkeypatch.setattr(cluster, "SCRATCH_BYTES", 2**80)
    with pytest.raises(ResourceError, match="MiB are free"), cluster._started(1):
        pass
    assert os.listdir(short) == ["file"]
    assert {key for key in os.environ if key not in before} == {"RAY_TMPDIR"}


def test_a_temporary_folder_of_too_long_a_name_is_told_at_once(monkeypatch, tmp_path):
    """Ray would make one of its folders, and then say that a socket's name has 108 bytes."""
    most = cluster.SOCKET_BYTES - len(cluster.SOCKET)
    for name, fits in (("a" * (most - 1), True), ("a" * most, False), ("ä" * most, False)):
        monkeypatch.setenv("RAY_TMPDIR", f"/{name}")
        if fits:
            cluster.check_limits()
            validate_socket_filepath(f"/{name}{cluster.SOCKET}")
        else:
            with pytest.raises(ResourceError, match=f"at most {most} bytes.*RAY_TMPDIR"):
                cluster.check_limits()


@pytest.fixture
def listening():
    """The address of something that answers no call."""
    with socket.socket() as opened:
        opened.bind(("", 0))
        opened.listen()
        yield f"127.0.0.1:{opened.getsockname()[1]}"


def joining(address: str) -> str:
    """The one sentence that a cluster is refused with."""
    with (
        pytest.raises(ResourceError) as caught,
        cluster.cluster(ClusterConfig(workers=1, address=address)),
    ):
        pass
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("told", ["127.0.0.1:1", "nowhere.invalid:6379", "a..b:80"])
def test_a_dead_address_is_told_at_once_whoever_named_it(monkeypatch, told):
    assert joining(told).startswith(f"no Ray cluster answers at cluster.address={told}: start one")
    monkeypatch.setenv("RAY_ADDRESS", told)
    assert joining("auto").startswith(
        f"no Ray cluster answers at RAY_ADDRESS={told} (cluster.address=auto): start one"
    )


@pytest.mark.parametrize("told", ["localhost", "localhost:abc", "http://127.0.0.1:8265", "local"])
def test_an_address_in_the_environment_that_is_none_is_told_at_once(monkeypatch, told):
    monkeypatch.setenv("RAY_ADDRESS", told)
    assert joining("auto").startswith(f"RAY_ADDRESS={told}, which cluster.address=auto joins, is ")


def test_the_last_cluster_that_was_started_here_may_be_gone(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(cluster.services, "find_gcs_addresses", functools.cache(set))
    monkeypatch.setattr(cluster.services, "find_bootstrap_address", lambda _: "127.0.0.1:1")
    assert "no Ray cluster answers at " in (told := joining("auto"))
    assert ":1, the last that was started here (cluster.address=auto): start one" in told
    monkeypatch.setattr(cluster.services, "find_bootstrap_address", lambda _: None)
    assert joining("auto").startswith("no Ray cluster answers at cluster.address=auto: start one")


def test_what_listens_and_is_no_cluster_is_told_as_such(monkeypatch, listening):
    """By Ray's own patience, here none: without a knock it would try for minutes."""
    asked = []

    def impatient(address):
        asked.append(address)
        raise RpcError("Timed out while waiting for GCS to become available.")

    monkeypatch.setattr(cluster, "GcsClient", impatient)
    assert joining(listening).startswith(f"no Ray cluster answers at cluster.address={listening}")
    assert len(asked) == 1 and asked[0].endswith(listening[-6:])


@pytest.mark.thorough
def test_what_listens_and_is_no_cluster_is_told_within_a_minute(listening, capfd):
    began = time.monotonic()
    joining(listening)
    assert time.monotonic() - began < 60
    assert capfd.readouterr().err == ""


def test_a_cluster_of_other_versions_is_told_as_such(monkeypatch, listening):
    def fail(*_, **__):
        raise RuntimeError("Version mismatch: The cluster was started with:\n    Ray: 1.0")

    monkeypatch.setattr(cluster, "GcsClient", lambda address: None)
    monkeypatch.setattr(cluster.ray, "init", fail)
    assert "cannot be joined (Version mismatch: The cluster was started with): start" in joining(
        listening
    )


def test_whatever_ray_says_as_it_fails_to_start_is_one_sentence(monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("the raylet is gone.\nMore.")

    monkeypatch.setattr(cluster.ray, "init", fail)
    with (
        pytest.raises(ResourceError, match=r"\(the raylet is gone\): its logs") as caught,
        cluster._started(1),
    ):
        pass
    assert "\n" not in str(caught.value)
    assert not os.environ.get("RAY_AUTH_TOKEN_PATH")
