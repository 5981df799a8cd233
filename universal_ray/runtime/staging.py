"""Copies from a GPU to ordinary memory of the host, through a few page-locked buffers.

A GPU copies at full speed to page-locked memory alone. torch rounds every such block up to a power
of two and keeps it for good, so that whole sums in it would take up to twice their size of the host
until the process ends. So they pass through a ring of buffers of a fixed size instead.
"""

from collections import deque
from collections.abc import Callable
from typing import Any

import torch

from universal_ray.planning.capacity import BUFFER_BYTES, BUFFERS


def _page_locked(size: int) -> torch.Tensor:
    return torch.empty(size, dtype=torch.uint8, pin_memory=True)


def _recorded() -> Any:
    event = torch.cuda.Event()
    event.record()
    return event


class Staging:
    """A ring of buffers, made at the first copy; one copy at a time."""

    def __init__(
        self,
        size: int = BUFFER_BYTES,
        allocate: Callable[[int], torch.Tensor] = _page_locked,
        record: Callable[[], Any] = _recorded,
    ) -> None:
        """`record`: an event whose `synchronize` waits for the copies asked for before it."""
        self._size, self._allocate, self._record = size, allocate, record
        self._free: list[torch.Tensor] = []

    def copy(self, tensor: torch.Tensor) -> torch.Tensor:
        """The same values in ordinary memory, all there when this returns."""
        source = tensor.contiguous().view(-1).view(torch.uint8)
        target = torch.empty(tensor.shape, dtype=tensor.dtype)
        bytes_there = target.view(-1).view(torch.uint8)
        self._free = self._free or [self._allocate(self._size) for _ in range(BUFFERS)]
        under_way: deque[tuple[slice, torch.Tensor, Any]] = deque()

        def empty() -> None:
            place, buffer, copied = under_way.popleft()
            copied.synchronize()
            bytes_there[place] = buffer[: place.stop - place.start]
            self._free.append(buffer)

        for start in range(0, len(source), self._size):
            if not self._free:
                empty()
            place, buffer = slice(start, min(start + self._size, len(source))), self._free.pop()
            buffer[: place.stop - place.start].copy_(source[place], non_blocking=True)
            under_way.append((place, buffer, self._record()))
        while under_way:
            empty()
        return target
