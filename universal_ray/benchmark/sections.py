"""What is measured: each section runs side by side what it compares, and returns plain rows."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from universal_ray.benchmark import naive
from universal_ray.benchmark.loop import (
    REDUCTION,
    SUMS,
    Means,
    Shape,
    Timing,
    batches,
    make_study,
    measure,
)
from universal_ray.config.study import ClusterConfig, Device, Policy
from universal_ray.planning.capacity import BATCH, size
from universal_ray.runtime.executor import Executor
from universal_ray.runtime.local import LocalExecutor
from universal_ray.runtime.measure import machine_bytes, matmul_rate
from universal_ray.runtime.scheduler import Scheduler
from universal_ray.stages.correlations.stage import CorrelationsStage

Row = dict[str, Any]
COPIES = 4
"""Of both models' activations that a library's function holds at once, and the made-up ones."""


def product_rate(shape: Shape, means: Means) -> float:
    """Plain products of the loop's shape per second: float32 on a CPU, half precision on a GPU."""
    batch = BATCH[means.device][means.policy]
    half = means.device is Device.cuda and means.policy is not Policy.fp32
    dtype = torch.float16 if half else torch.float32
    rows = min(shape.width, 1024) if means.device is Device.cpu else shape.width
    return matmul_rate(means.device.value, dtype, batch, rows, shape.neurons)


def loop(shape: Shape, means: Means) -> Row:
    """This project's sums: rates, shares of the plain product's rate, and where the time went."""
    with TemporaryDirectory() as folder:
        before = product_rate(shape, means)
        timing, stage = measure(make_study(Path(folder), shape, means), LocalExecutor(), SUMS)
        return _row(shape, means, timing, stage, before)


def _row(
    shape: Shape, means: Means, timing: Timing, stage: CorrelationsStage, before: float
) -> Row:
    """Shares are of the mean of the plain product's rates before and after."""
    rate = (before + product_rate(shape, means)) / 2
    return {
        "shape": str(shape),
        "tokens": timing.tokens,
        "policy": means.policy.value,
        "forward": means.dtype.value,
        "batch": stage.plan.footprint.batch_tokens,
        "plain_tflops": rate / 1e12,
        "products_share": timing.cross_flops / timing.seconds["products"] / rate,
        "loop_share": timing.flops / timing.sums / rate,
        "sums_seconds": timing.sums,
        "total_seconds": timing.total,
        "seconds": dict(timing.seconds),
        "peak_bytes": timing.peak_bytes,
    }


def schemes(
    shape: Shape,
    means: Means,
    naive_tokens: int,
    executor: Callable[[ClusterConfig], Executor] = Scheduler,
) -> Row:
    """The whole of a study, with its baseline, beside the naive scheme on the same tokens.

    The naive scheme's sums take a time that is proportional to tokens, so it may be given fewer of
    them. Half of its pairs have their turn in the middle of this project's sums, half after them,
    so that a machine whose speed changes serves both alike. On a CPU this project has a worker of
    one thread on each core, as a study has by default, and the naive scheme one process of all
    threads, as its code has.
    """
    with TemporaryDirectory() as folder:
        before = product_rate(shape, means)
        workers = means.threads if means.device is Device.cpu else 1
        own = replace(means, threads=means.threads // workers)
        turns = _Naive(shape, means, naive_tokens)
        study = make_study(Path(folder), shape, own, workers)
        timing, stage = measure(study, executor(study.cluster), REDUCTION[-1], [turns.take] * 2)
        row = _row(shape, means, timing, stage, before)
    total = turns.streaming / turns.tokens * timing.tokens + turns.finding
    return {**row, "naive_tokens": turns.tokens, "naive_seconds": turns.streaming + turns.finding,
            "naive_total_seconds": total, "ratio": total / timing.total}


class _Naive:
    """The naive scheme, one pair after the other, as it stands and rotated."""

    def __init__(self, shape: Shape, means: Means, tokens: int):
        self.form, self.device = naive.Shape(shape.layers, shape.width), means.device.value
        self.threads = means.threads
        self.tokens = min(tokens, shape.tokens)
        self.pairs = list(range(1, shape.seeds))
        self.streaming = self.finding = 0.0
        """seconds of all turns so far: per token, and once"""
        self.rotations = [
            torch.randn(shape.width, shape.width, device=self.device) / shape.width**0.5
            for _ in range(shape.layers)
        ]

    def take(self, stage: CorrelationsStage) -> None:
        """The turn of half of all pairs; models are loaded before their time starts."""
        models = stage.plan.models
        torch.set_num_threads(self.threads)
        for _ in range(len(models) // 2):
            if not self.pairs:
                return
            left, right = (
                (naive.activations(stage.inputs.sources[model.identity], self.device),
                 self.form)
                for model in (models[0], models[self.pairs.pop(0)])
            )
            for drawn in (None, self.rotations):
                began = time.monotonic()
                sums = naive.stream(left, right, batches(stage, self.tokens), drawn)
                streamed = time.monotonic()
                naive.best_correlations(sums)
                self.streaming += streamed - began
                self.finding += time.monotonic() - streamed


def libraries(shape: Shape, means: Means) -> list[Row]:
    """torch.corrcoef and numpy.corrcoef of one pair, activations in memory; none where they do not
    fit.

    They correlate each model with itself too, which is half of their work.
    """
    need = 4 * 2 * shape.neurons * (COPIES * shape.tokens + 2 * 2 * shape.neurons)
    cuda = means.device is Device.cuda
    if need > (torch.cuda.mem_get_info()[0] if cuda else machine_bytes()):
        return [{"scheme": "corrcoef", "neurons": shape.neurons, "tokens": shape.tokens,
                 "seconds": f"does not fit: {size(need)}"}]
    x_NT, y_NT = (torch.randn(shape.neurons, shape.tokens) for _ in range(2))
    both = torch.cat([x_NT, y_NT]).to(means.device.value)
    runs: list[tuple[str, Callable[[], Any]]] = [("torch.corrcoef", lambda: torch.corrcoef(both))]
    array = both.cpu().numpy()
    runs.append(("numpy.corrcoef", lambda: np.corrcoef(array, dtype=np.float32)))
    rows = []
    for name, function in runs:
        began = time.monotonic()
        function()
        if cuda:
            torch.cuda.synchronize()
        rows.append(
            {
                "scheme": name,
                "neurons": shape.neurons,
                "tokens": shape.tokens,
                "seconds": time.monotonic() - began,
            }
        )
    return rows


def growth(shapes: Sequence[Shape], means: Means) -> list[Row]:
    """Cost of the sums per token for one shape after the other, there and back again: means of two
    runs each, so that a machine whose speed changes serves all alike.
    """
    there = [loop(shape, means) for shape in shapes]
    back = [loop(shape, means) for shape in reversed(shapes)][::-1]
    rows = []
    for shape, *runs in zip(shapes, there, back, strict=True):
        seconds = sum(run["sums_seconds"] for run in runs) / 2
        share = sum(run["loop_share"] for run in runs) / 2
        rows.append({"shape": str(shape), "tokens": runs[0]["tokens"], "neurons": shape.neurons,
                     "seeds": shape.seeds, "loop_share": share,
                     "microseconds_per_token": 1e6 * seconds / runs[0]["tokens"]})
    return rows


def workers(shape: Shape, means: Means, counts: list[tuple[int, int]]) -> list[Row]:
    """Tokens per second of a study's sums on Ray, for numbers of workers and threads of each."""
    rows = []
    for count, threads in counts:
        with TemporaryDirectory() as folder:
            own = replace(means, threads=threads)
            study = make_study(Path(folder), shape, own, workers=count)
            timing, _ = measure(study, Scheduler(study.cluster), SUMS)
        rows.append({"workers": count, "threads": threads, "tokens": timing.tokens,
                     "tokens_per_second": timing.tokens / timing.sums})
    return rows
