"""A cluster of several nodes on one machine, a driver on it, and what can befall them."""

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
from helpers_study import WORKERS, command
from ray.cluster_utils import Cluster

from universal_ray.config.study import Study
from universal_ray.report.status import describe_run
from universal_ray.storage.store import Store

IMPATIENT = {
    "RAY_gcs_rpc_server_reconnect_timeout_s": "5",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "1000",
    "RAY_health_check_failure_threshold": "3",
}
"""Ray's patience with nodes that do not answer: seconds, where it would wait for a minute."""
MOMENTS = 3.0
"""Seconds after the first unit within which something happens."""


def wait_for(condition: Callable[[], Any], seconds: float = 120) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.05)
    raise AssertionError("waited in vain")


def working() -> list[psutil.Process]:
    """Processes of workers, on whatever node of a cluster that this process started."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            if process.name().startswith("ray::") and process.cmdline()[0].startswith(WORKERS):
                found.append(process)
    return found


class Home:
    """Head and two more nodes of one CPU each, and one driver."""

    def __init__(self, study: Study, log: Path):
        self.study, self.log = study, log
        self.store = Store(study.run.dir)
        self.driver: subprocess.Popen | None = None
        self._build()

    def _build(self) -> None:
        self.cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
        self.nodes = [self.cluster.add_node(num_cpus=1) for _ in range(2)]

    def start(self) -> None:
        with self.log.open("a") as log:
            self.driver = subprocess.Popen(
                command(self.study, f"cluster.address={self.cluster.address}"),
                stdout=log, stderr=log, cwd=self.log.parent,
            )

    def check_status(self) -> None:
        """What `jobs/status.py` tells from files alone, while the run is on."""
        rows = dict(describe_run(self.store))
        if rows["stage"] == "sums":
            assert rows["driver"].startswith("process")
            assert {"sums", "remaining", "running"} <= rows.keys()

    def units(self) -> int:
        return sum("done.json" in path for path in self.store.list("moments"))

    def wait_for_a_unit(self) -> None:
        """Until one more is stored, or the driver has ended."""
        before, driver = self.units(), self.driver
        assert driver is not None
        wait_for(lambda: self.units() > before or driver.poll() is not None)

    # What can happen

    def worker(self) -> None:
        """A worker's process is killed."""
        with suppress(IndexError, psutil.NoSuchProcess):
            random.choice(working()).send_signal(signal.SIGKILL)

    def node(self) -> None:
        """A node vanishes with all that runs on it; another joins a moment later."""
        self.cluster.remove_node(self.nodes.pop(0), allow_graceful=False)
        time.sleep(1)
        self.nodes.append(self.cluster.add_node(num_cpus=1))

    def kill_driver(self) -> None:
        """The driver is killed, and started again."""
        assert self.driver is not None
        self.driver.send_signal(signal.SIGKILL)
        self.driver.wait()
        self.start()

    def head(self) -> None:
        """The head dies, and the driver with it; a new cluster, the same command."""
        assert self.driver is not None
        head: Any = self.cluster.head_node
        head.kill_gcs_server()
        head.kill_raylet()
        try:
            self.driver.wait(timeout=90)
        finally:
            self.driver.kill()
            self.driver.wait()
            self.cluster.shutdown()
        self._build()
        self.start()

    def close(self) -> None:
        if self.driver is not None:
            self.driver.kill()
            self.driver.wait()
        self.cluster.shutdown()


@contextmanager
def impatient():
    before = dict(os.environ)
    os.environ.update(IMPATIENT)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def play(study: Study, log: Path, faults: list[str], chance: random.Random) -> Store:
    """Run a study to its end while the faults happen, each some moment after a unit is stored."""
    with impatient():
        home = Home(study, log)
        try:
            home.start()
            for fault in faults:
                home.wait_for_a_unit()
                home.check_status()
                time.sleep(chance.uniform(0, MOMENTS))
                getattr(home, fault)()
            assert home.driver is not None
            assert home.driver.wait(timeout=240) == 0, log.read_text()
        finally:
            home.close()
    return home.store
