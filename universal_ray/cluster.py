"""A Ray cluster with what a study asks for, and the errors that come back from it."""

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError

from universal_ray.errors import ResourceError, UniversalRayError
from universal_ray.study import Device, Study


@contextmanager
def cluster(study: Study) -> Iterator[None]:
    """A Ray cluster with what the study asks for: joined and checked, or started here."""
    settings = study.cluster
    need = {"CPU": float(settings.workers * settings.threads)}
    if settings.device is Device.cuda:
        need["GPU"] = float(settings.workers)
    # Ray's own changes of defaults, announced by warnings that no user of this tool can act on.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if settings.address is None:
        ray.init("local", num_cpus=int(need["CPU"]), include_dashboard=False, **quiet)
    else:
        try:
            _knock(settings.address)
            ray.init(address=settings.address, **quiet)
        except OSError as error:
            raise ResourceError(
                f"no Ray cluster answers at cluster.address={settings.address}: start one with "
                "`ray start --head`, or leave cluster.address out"
            ) from error
    try:
        have = ray.cluster_resources()
        for kind, amount in need.items():
            if have.get(kind, 0) < amount:
                raise ResourceError(
                    f"the study asks for {amount:.0f} {kind}s (cluster.workers="
                    f"{settings.workers}) and the cluster has {have.get(kind, 0):.0f}: "
                    "lower cluster.workers or add nodes"
                )
        yield
    finally:
        ray.shutdown()


def _knock(address: str) -> None:
    """Raise OSError where nothing listens; Ray itself would try for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon:
        socket.create_connection((host, int(port)), timeout=10).close()


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
