"""Where time and memory go, measured: laps of a worker's loop, and how fast a device multiplies."""

import gc
import os
import resource
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from universal_ray.config.study import ClusterConfig, Device
from universal_ray.planning.capacity import GIB, GPU_GIB, Speed
from universal_ray.storage.record import read_metrics
from universal_ray.storage.store import Store

PROBE = (1024, 1024, 2048)
"""Tokens, rows and columns of the product that a CPU's speed is read off."""
LOOP_SHARE = 0.75
"""Of a plain product's rate, what a whole loop with forward passes comes to on a CPU."""


class Clock:
    """Adds up where time goes; on a GPU by events in its queue, so that nothing waits for it."""

    def __init__(self, device: str):
        self._cuda = device == "cuda"
        self._marks: list[tuple[str, Any]] = [("", self._mark())]

    def _mark(self) -> Any:
        if not self._cuda:
            return time.monotonic()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def lap(self, name: str) -> None:
        """What passed since the last lap was spent on `name`."""
        self._marks.append((name, self._mark()))

    def seconds(self) -> dict[str, float]:
        """Seconds by name; waits for the GPU."""
        if self._cuda:
            torch.cuda.synchronize()
        spent: dict[str, float] = {}
        before = self._marks[0][1]
        for name, mark in self._marks[1:]:
            passed = before.elapsed_time(mark) / 1000 if self._cuda else mark - before
            spent[name] = spent.get(name, 0.0) + passed
            before = mark
        return spent


def machine_bytes(
    limits: Path = Path("/sys/fs/cgroup"), mine: Path = Path("/proc/self/cgroup")
) -> int:
    """Memory that this process may use: its machine's, or less where a container or a cluster's
    job has less (Linux control groups of either version; a limit holds for all groups below it).
    """
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for line in mine.read_text().splitlines() if mine.exists() else ():
        _, kinds, group = line.split(":", 2)
        if kinds not in ("", "memory"):
            continue
        root = limits / kinds
        folder = root / group.lstrip("/")
        for place in (folder, *folder.parents):
            if not place.is_relative_to(root):
                break
            for name in ("memory.max", "memory.limit_in_bytes"):
                limit = place / name
                if limit.exists() and (text := limit.read_text().strip()).isdigit():
                    found.append(int(text))
    return min(found)


def reset_peak(device: str) -> None:
    """Let `peak_bytes` count from what this process holds now."""
    gc.collect()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return
    with suppress(OSError):  # Linux alone has it
        Path("/proc/self/clear_refs").write_text("5")


def peak_bytes(device: str) -> int:
    """Most memory this process has held: of its GPU, or of its machine where it has none."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def matmul_rate(
    device: str, dtype: torch.dtype, tokens: int, rows: int, columns: int, repeats: int = 3
) -> float:
    """Floating point operations per second of a plain product [rows, tokens] · [tokens, columns].

    The best of some repeats, after one to warm up.
    """
    a_TN = torch.randn(tokens, rows, device=device).to(dtype)
    b_TM = torch.randn(tokens, columns, device=device).to(dtype)
    torch.mm(a_TN.T, b_TM)
    best = float("inf")
    for _ in range(repeats):
        clock = Clock(device)
        torch.mm(a_TN.T, b_TM)
        clock.lap("product")
        best = min(best, clock.seconds()["product"])
    return 2 * tokens * rows * columns / best


def measured_speed(metrics: list[dict[str, Any]]) -> Speed | None:
    """What the workers of a run have sustained in its sums so far, from its metrics."""
    metrics = [line for line in metrics if "flops" in line]  # other stages have none
    busy = sum(
        seconds
        for line in metrics
        for name, seconds in line["seconds"].items()
        if name != "write"  # while the next sums are made
    )
    if busy <= 0:
        return None
    flops = sum(line["flops"] for line in metrics) / busy
    return Speed(flops, f"{flops / 1e12:.3g} TFLOP/s, as this run has measured")


def known_speed(settings: ClusterConfig, store: Store) -> Speed | None:
    """How fast a worker multiplies: as given, as the run has measured, or as this machine does;
    None of a GPU that nobody has measured.
    """
    if settings.tflops is not None:
        return Speed(
            settings.tflops * 1e12, f"{settings.tflops:g} TFLOP/s, as cluster.tflops says"
        )
    measured = measured_speed(read_metrics(store))
    if measured is None and settings.device is Device.cpu:
        return probed_speed(settings.threads)
    return measured


def expected_memory(settings: ClusterConfig) -> float:
    """Bytes of each worker: as configured, or this machine's share, or a usual GPU's.

    Workers that are already there are asked when they start.
    """
    if settings.memory is not None:
        return settings.memory * GIB
    if settings.device is Device.cuda:
        return GPU_GIB * GIB
    return machine_bytes() / settings.workers


def probed_speed(threads: int) -> Speed:
    """What a CPU worker of some threads may sustain, from one short product on this machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        flops = LOOP_SHARE * matmul_rate("cpu", torch.float32, *PROBE)
    finally:
        torch.set_num_threads(before)
    return Speed(flops, f"{flops / 1e12:.2g} TFLOP/s, three quarters of a product's rate here")
