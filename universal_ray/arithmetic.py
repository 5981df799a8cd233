"""What would otherwise vary between the processes of a study, fixed."""

import os

import torch


def fix_arithmetic(threads: int) -> None:
    """Fix thread count, float32 products without TF32, and MKL's choice of kernels."""
    # Read by MKL at its first product; without it results may depend on how memory is aligned.
    os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision("highest")
