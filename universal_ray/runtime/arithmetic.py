"""What would otherwise vary between the processes of a study, fixed; and memory kept at hand."""

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def fix_arithmetic(threads: int) -> None:
    """Fix thread count, float32 products without TF32, and MKL's choice of kernels."""
    # Read by MKL at its first product; without it results may depend on how memory is aligned.
    os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision("highest")


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
