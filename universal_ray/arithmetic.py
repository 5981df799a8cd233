"""What would otherwise vary between the processes of a study, fixed."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def fix_arithmetic(threads: int) -> None:
    """Fix thread count, float32 products without TF32, and MKL's choice of kernels."""
    # Read by MKL at its first product; without it results may depend on how memory is aligned.
    os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision("highest")


@contextmanager
def tensor_float32(allowed: bool) -> Iterator[None]:
    """Let float32 products round their factors to TF32 meanwhile, where the hardware can."""
    if allowed:
        torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision("highest")
