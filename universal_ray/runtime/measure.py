"""Where time and memory go, measured: laps of a worker's loop, and how fast a device multiplies."""

import gc
import os
import resource
import time
from contextlib import suppress
from functools import cache
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch

from universal_ray.config.study import ClusterConfig, Device, Study
from universal_ray.planning.capacity import GIB, GPU_GIB
from universal_ray.planning.costs import (
    FORWARD,
    HOST,
    PRODUCTS,
    Cost,
    Speed,
    cpu_rates,
    gpu_rates,
    seconds_of,
)
from universal_ray.runtime.progress import Forecast
from universal_ray.storage.record import read_metrics
from universal_ray.storage.store import Store

GPU_FLOPS = 3e14
"""Of sums, on a GPU that nobody has measured: for the shares of work alone."""
PROBE = (1024, 1024, 2048)
"""Tokens, rows and columns of the product that a CPU's speed is read off."""


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


def measured_rates(metrics: list[dict[str, Any]]) -> dict[str, float]:
    """FLOP/s that the workers of a run have sustained so far, in its sums (all but writing, which
    goes on while the next are made) and in its forward passes; those it tells.
    """
    lines = [line for line in metrics if {"flops", "forward_flops"} <= line.keys()]
    spent = {FORWARD: 0.0, PRODUCTS: 0.0}
    for line in lines:
        for name, seconds in line["seconds"].items():
            if name != "write":
                spent[FORWARD if name == "forward" else PRODUCTS] += seconds
    done = {
        FORWARD: sum(line["forward_flops"] for line in lines),
        PRODUCTS: sum(line["flops"] for line in lines),
    }
    return {kind: done[kind] / spent[kind] for kind in spent if done[kind] and spent[kind]}


def known_speed(study: Study, store: Store) -> Speed | None:
    """How fast a worker is: as given, as the run has measured, or as this machine multiplies; None
    of a GPU that nobody has measured.
    """
    settings, policy = study.cluster, study.precision.moments
    assert policy is not None
    measured = measured_rates(read_metrics(store))
    if settings.device is Device.cuda:
        products = measured.get(PRODUCTS)
        source = f"{(products or 0) / 1e12:.3g} TFLOP/s of sums, as this run has measured"
        if settings.tflops is not None:
            measured, products = {}, settings.tflops * 1e12
            source = f"{settings.tflops:g} TFLOP/s of sums, as cluster.tflops says"
        if products is None:
            return None
        usual = gpu_rates(products, policy, study.models.dtype, settings.threads)
        return Speed({**usual, **measured}, source)
    usual = cpu_rates(plain_rate(settings.threads), policy, settings.threads)
    if settings.tflops is not None:
        scale = settings.tflops * 1e12 / usual[PRODUCTS]
        rates = {kind: rate * (1 if kind == HOST else scale) for kind, rate in usual.items()}
        return Speed(rates, f"{settings.tflops:g} TFLOP/s of sums, as cluster.tflops says")
    whence = "as this run has measured" if measured else "as a product is made here"
    told = f"{measured.get(PRODUCTS, usual[PRODUCTS]) / 1e12:.2g} TFLOP/s of sums, {whence}"
    return Speed({**usual, **measured}, told)


def forecast(cost: Cost, study: Study, store: Store) -> Forecast:
    """How long a stage will take, by batch: in seconds, or of a GPU that nobody has measured in
    shares of them.
    """
    settings, policy, speed = study.cluster, study.precision.moments, known_speed(study, store)
    assert policy is not None
    usual = Speed(gpu_rates(GPU_FLOPS, policy, study.models.dtype, settings.threads), "")
    found = seconds_of({"": cost}, settings.workers, speed or usual, attrgetter("batch"))
    return Forecast(found, measured=speed is not None)


def expected_memory(settings: ClusterConfig) -> float:
    """Bytes of each worker: as configured, or this machine's share, or a usual GPU's.

    Workers that are already there are asked when they start.
    """
    if settings.memory is not None:
        return settings.memory * GIB
    if settings.device is Device.cuda:
        return GPU_GIB * GIB
    return machine_bytes() / settings.workers


@cache
def plain_rate(threads: int) -> float:
    """FLOP/s of a float32 product by some CPU threads, from one short product on this machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        return matmul_rate("cpu", torch.float32, *PROBE)
    finally:
        torch.set_num_threads(before)
