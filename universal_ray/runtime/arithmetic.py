"""What would otherwise vary between the processes of a study, fixed; and memory kept at hand."""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from universal_ray.errors import ResourceError

LIBRARY = Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"
"""Where MKL is a part of torch."""
ALL_BRANCHES = -1
CHOOSES_FREELY = 0, 1
"""What MKL answers where nothing has fixed its choice of kernels (MKL_CBWR_OFF, ..._BRANCH_OFF)."""


def fix_arithmetic(threads: int) -> None:
    """Fix thread count, and float32 products without TF32.

    Raises ResourceError where MKL does not fix its choice of kernels.
    """
    _check_kernels()
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision("highest")


def _check_kernels() -> None:
    """Without MKL_CBWR results may depend on how memory is aligned, and MKL reads it only once, at
    its first product: a process that had made one by then would have other bits, in silence.
    """
    library = ctypes.CDLL(str(LIBRARY)) if LIBRARY.exists() else None
    ask = getattr(library, "mkl_serv_cbwr_get", None)
    if ask is not None and ask(ALL_BRANCHES) in CHOOSES_FREELY:
        raise ResourceError(
            "this process has multiplied matrices before it knew MKL_CBWR=AUTO,STRICT, so that "
            "its bits could change from run to run: set that before Python starts, or import "
            "universal_ray first"
        )


@contextmanager
def arithmetic_kept() -> Iterator[None]:
    """What `fix_arithmetic` sets is put back at the end."""
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision(precision)


def keep_freed_memory() -> None:
    """Let freed memory be used again instead of going back to the system.

    A forward pass frees and takes large blocks all the time, and glibc would fetch each anew, page
    by page: a third of a CPU worker's forward pass (measured), more with several workers. The
    process grows no larger by it.
    """
    if not sys.platform.startswith("linux"):
        return
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):
        arenas, mappings, trim = -8, -4, -1  # M_ARENA_MAX, M_MMAP_MAX, M_TRIM_THRESHOLD
        library.mallopt(arenas, 1)
        library.mallopt(mappings, 0)
        library.mallopt(trim, 2**31 - 1)


@contextmanager
def tensor_float32(allowed: bool) -> Iterator[None]:
    """Let float32 products round their factors to TF32 meanwhile, where the hardware can."""
    if allowed:
        torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision("highest")
