"""Copies to the host through a ring of buffers, and what counts as memory that is short."""

import pytest
import torch

from universal_ray.errors import MemoryShortError
from universal_ray.planning.capacity import BUFFERS
from universal_ray.runtime.staging import Staging
from universal_ray.runtime.worker import refused_memory


class Late:
    """A GPU that has copied nothing yet when it is asked to: only once it is waited for."""

    def __init__(self):
        self.copies, self.made = [], 0

    def allocate(self, size):
        self.made += 1
        outer = self

        class Buffer(torch.Tensor):
            def copy_(self, source, non_blocking=False):
                assert non_blocking
                outer.copies.append((self.as_subclass(torch.Tensor), source.clone()))
                return self

        return torch.full((size,), 255, dtype=torch.uint8).as_subclass(Buffer)

    def record(self):
        asked, self.copies = self.copies, []

        class Event:
            def synchronize(self):
                for target, source in asked:
                    target.copy_(source)

        return Event()


@pytest.mark.parametrize(
    "tensor",
    [
        torch.arange(1001, dtype=torch.float32),
        torch.randn(37, 5, dtype=torch.float64).T,
        torch.tensor(3.5),
        torch.empty(0, 4),
        torch.arange(12, dtype=torch.int64).view(3, 4)[:, 1:3],
    ],
)
def test_what_is_staged_has_the_same_bits_and_takes_no_more_than_the_ring(tensor):
    gpu = Late()
    staging = Staging(64, gpu.allocate, gpu.record)
    for _ in range(3):
        copy = staging.copy(tensor)
        assert torch.equal(copy, tensor) and copy.dtype == tensor.dtype
        assert copy.is_contiguous() and copy.shape == tensor.shape
    assert gpu.made == BUFFERS


@pytest.mark.parametrize(
    "error",
    [
        torch.AcceleratorError("CUDA error: out of memory\nCUDA kernel errors might be"),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        MemoryError("no room"),
    ],
)
def test_all_that_says_that_memory_is_short_is_told_as_such(error):
    with pytest.raises(MemoryShortError, match="has no memory left") as told, refused_memory():
        raise error
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    "error",
    [
        torch.AcceleratorError("CUDA error: device-side assert triggered"),
        RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED"),
    ],
)
def test_other_errors_of_a_gpu_stay_as_they_are(error):
    with pytest.raises(type(error)) as told, refused_memory():
        raise error
    assert told.value is error
