"""Two hosts with addresses of their own, made of network namespaces; their link is cut."""

import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import suppress

import pytest
from helpers_faults import IMPATIENT, wait_for
from helpers_study import command, make, make_models, make_study, make_tokens, table_bytes

from universal_ray.storage.store import Store

HOSTS = {"ray-head": "10.99.0.1", "ray-worker": "10.99.0.2"}
PORT = 6399
ENVIRONMENT = {
    **IMPATIENT,
    "RAY_AUTH_MODE": "token",  # Ray's own choice for a head that others can reach
    "RAY_AUTH_TOKEN": secrets.token_hex(32),
}


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


def link(state: str) -> None:
    ip("-n", "ray-worker", "link", "set", "ray-worker", state)


@pytest.fixture(scope="module")
def hosts():
    if shutil.which("ip") is None or os.geteuid() != 0:
        pytest.skip("network namespaces need iproute2 and root")
    for name in HOSTS:
        with suppress(subprocess.CalledProcessError):
            ip("netns", "delete", name)
        try:
            ip("netns", "add", name)
        except subprocess.CalledProcessError as error:
            pytest.skip(f"no network namespace can be made here: {error.stderr}")
    ip("link", "add", "ray-head", "netns", "ray-head", "type", "veth",
       "peer", "name", "ray-worker", "netns", "ray-worker")
    for name, address in HOSTS.items():
        ip("-n", name, "address", "add", f"{address}/24", "dev", name)
        ip("-n", name, "link", "set", name, "up")
        ip("-n", name, "link", "set", "lo", "up")
    yield
    for name in HOSTS:
        ip("netns", "delete", name)


def inside(host: str, arguments: list[str], **options) -> subprocess.Popen:
    return subprocess.Popen(
        ["ip", "netns", "exec", host, *arguments], env=os.environ | ENVIRONMENT, **options
    )


def ray_start(host: str, log, *arguments: str) -> subprocess.Popen:
    """`ray start` as an administrator types it, one CPU on each host."""
    return inside(
        host,
        [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--num-cpus=1",
         f"--node-ip-address={HOSTS[host]}", "--disable-usage-stats", *arguments],
        stdout=log, stderr=log,
    )


def alive(count: int) -> bool:
    count_nodes = (
        f"import ray; ray.init(address='{HOSTS['ray-head']}:{PORT}', log_to_driver=False); "
        "print('ALIVE', sum(node['Alive'] for node in ray.nodes()))"
    )
    found = subprocess.run(
        ["ip", "netns", "exec", "ray-head", sys.executable, "-c", count_nodes],
        capture_output=True, text=True, env=os.environ | ENVIRONMENT, check=False,
    )
    return f"ALIVE {count}" in found.stdout


@pytest.mark.cluster
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seconds", [1, 20])
def test_the_link_between_two_hosts_is_cut_and_restored(hosts, tmp_path, seconds):
    """For a moment, which nobody notices; and for so long that the worker's host is given up."""
    models, tokens = make_models(tmp_path, "abc"), make_tokens(tmp_path / "tokens")
    study = make_study(tmp_path / "run", models, tokens, workers=2)
    study.units.tokens, study.units.batch = 64, 32
    store = Store(study.run.dir)
    log_path = tmp_path / "log"
    processes = []
    sockets = tempfile.mkdtemp(prefix="ray-")  # a socket's path has room for 107 characters
    with log_path.open("w") as log:
        try:
            head = f"{HOSTS['ray-head']}:{PORT}"
            processes.append(
                ray_start("ray-head", log, "--head", f"--port={PORT}",
                          "--include-dashboard=false", f"--temp-dir={sockets}")
            )
            time.sleep(5)
            processes.append(ray_start("ray-worker", log, f"--address={head}"))
            wait_for(lambda: alive(2))
            driver = inside(
                "ray-head", command(study, f"cluster.address={head}"), stdout=log, stderr=log
            )
            processes.append(driver)
            wait_for(lambda: any("done.json" in path for path in store.list("moments")))
            link("down")
            time.sleep(seconds)
            link("up")
            # A host that was given up has stopped its Ray; its administrator starts it again.
            if processes[1].poll() is not None:
                processes.append(ray_start("ray-worker", log, f"--address={head}"))
            assert driver.wait(timeout=300) == 0, log_path.read_text()
        finally:
            for process in reversed(processes):
                process.terminate()
                with suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=20)
                process.kill()
            shutil.rmtree(sockets, ignore_errors=True)
    plain = make_study(tmp_path / "plain", models, tokens)
    plain.units.tokens, plain.units.batch = 64, 32
    assert table_bytes(make(plain)) == table_bytes(store)
