"""Who computes a study, as users configure it."""

import re
from dataclasses import dataclass
from enum import Enum

from universal_ray.config.numbers import check_finite, check_positive
from universal_ray.errors import ConfigurationError

ADDRESS = r"[^\s/]+:(\d{1,5})"
"""Of a cluster's head."""
PORTS = 2**16 - 1


class Device(Enum):
    """What a worker computes on."""

    cpu = "cpu"
    cuda = "cuda"


@dataclass(kw_only=True)
class ClusterConfig:
    address: str | None = None
    """None: a local cluster; `auto` or an address: join that one."""
    workers: int = 2
    """Processes that compute, each one task at a time."""
    threads: int = 1
    """CPU threads of each worker."""
    device: Device = Device.cpu
    """`cuda` pins one GPU to each worker."""
    memory: float | None = None
    """GiB of device memory each worker may use; by default what the workers' devices have."""
    tflops: float | None = None
    """TFLOP/s of sums that one worker sustains, for the plan's times; by default as measured."""


def check_cluster(cluster: ClusterConfig) -> None:
    """Raises ConfigurationError for a cluster that cannot be."""
    check_positive({"cluster.workers": cluster.workers, "cluster.threads": cluster.threads})
    check_finite(vars(cluster), "cluster.")
    for key in ("memory", "tflops"):
        value = getattr(cluster, key)
        if value is not None and value <= 0:
            raise ConfigurationError(f"cluster.{key} is {value}: give a number above 0")
    if (cluster.address or "").startswith("ray://"):
        raise ConfigurationError(
            f"cluster.address={cluster.address} is Ray Client's, whose driver is outside the "
            "cluster: submit the job to it (deploy/job_submit.sh), with cluster.address=auto"
        )
    if cluster.address in (None, "auto"):
        return
    if not (found := re.fullmatch(ADDRESS, str(cluster.address))) or int(found[1]) > PORTS:
        raise ConfigurationError(
            f"cluster.address={cluster.address} is no address: give auto or HOST:PORT"
        )
