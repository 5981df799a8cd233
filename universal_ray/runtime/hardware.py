"""What a worker computes on, as far as it decides the bits: recorded, and the same for a whole run.

The same sums made by another kind of GPU, by other versions of its libraries or by another
instruction set of a CPU differ in their last bits, and which worker makes which sums is chance. So
a run whose workers differ would give other tables every time, in silence: it is refused.
"""

import ctypes
import json
import os
import platform
import re
import socket
from contextlib import suppress
from pathlib import Path

import torch

from universal_ray.config.wellformed import MalformedError, parse
from universal_ray.errors import ResourceError
from universal_ray.storage.store import Store

HARDWARE_FILE = "hardware.json"
SHAPE = {"host": str, "computes on": {str: (str, None)}}


def hardware(device: str) -> dict[str, str | None]:
    """What decides the bits of a worker's products; None for a version that does not tell itself.

    A CPU is known by what code runs on it and not by its name: its maker and its instruction set
    choose the kernels of MKL and of torch, its clock and its caches do not.
    """
    found: dict[str, str | None] = {"device": device, "torch": torch.__version__}
    if device == "cuda":
        properties = torch.cuda.get_device_properties(torch.cuda.current_device())
        cudnn = torch.backends.cudnn.version()
        return found | {
            "gpu": properties.name,
            "capability": f"{properties.major}.{properties.minor}",
            "cuda": torch.version.cuda,
            "cublas": _cublas(),
            "cudnn": None if cudnn is None else str(cudnn),
        }
    return found | {
        "machine": platform.machine(),
        "maker": _cpu("vendor_id|CPU implementer"),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "mkl": os.environ.get("MKL_CBWR"),
    }


def named(device: str) -> dict[str, str | None]:
    """The same, with the name that the processor bears: for the record."""
    return hardware(device) | ({} if device == "cuda" else {"cpu": _cpu("model name")})


def check_same(store: Store, device: str) -> None:
    """Raise ResourceError where the sums of a run are made on something else than what this
    process computes on.

    The first worker of a run says what they are made on; of several first ones, one.
    """
    mine = hardware(device)
    told = {"host": socket.gethostname(), "computes on": mine}
    store.create(HARDWARE_FILE, json.dumps(told, indent=1).encode())
    try:
        first = parse(store.get(HARDWARE_FILE), SHAPE)
    except MalformedError as error:
        raise ResourceError(
            f"{store.url}/{HARDWARE_FILE} cannot be read ({error}), so that nobody knows what the "
            "sums there were made on: put it back, or choose another run.dir"
        ) from error
    theirs = first["computes on"]
    differing = [key for key in {**theirs, **mine} if theirs.get(key) != mine.get(key)]
    if differing:
        there, here = (
            ", ".join(f"{key} {each.get(key)}" for key in differing) for each in (theirs, mine)
        )
        raise ResourceError(
            f"the sums of {store.url} are made on {first['host']} with {there}, and "
            f"{told['host']} has {here}: their bits would differ, give workers of one kind or "
            "choose another run.dir"
        )


def _cpu(field: str) -> str | None:
    """What Linux says of the first processor."""
    with suppress(OSError):
        found = re.search(rf"^({field})\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.M)
        return found[2] if found else None
    return None


def _cublas() -> str | None:
    """The version of the library that this process has loaded."""
    major = (torch.version.cuda or "").split(".")[0]
    with suppress(OSError, AttributeError):
        library, value, parts = ctypes.CDLL(f"libcublas.so.{major}"), ctypes.c_int(), []
        for kind in range(3):  # major, minor, patch
            if library.cublasGetProperty(kind, ctypes.byref(value)):
                return None
            parts.append(str(value.value))
        return ".".join(parts)
    return None
