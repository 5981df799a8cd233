"""A study's correlations on random models of any shape, by either executor, with their laps."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch

from universal_ray import testbed
from universal_ray.benchmark import naive
from universal_ray.config.study import (
    BaselineConfig,
    ClusterConfig,
    CorpusConfig,
    Device,
    ForwardType,
    ModelsConfig,
    Policy,
    PrecisionConfig,
    RunConfig,
    Study,
    UnitsConfig,
)
from universal_ray.corpus.rows import kept_mask
from universal_ray.runtime import driver
from universal_ray.runtime.executor import Executor
from universal_ray.runtime.measure import reset_peak
from universal_ray.runtime.progress import Forecast
from universal_ray.runtime.task import Batch, Task
from universal_ray.stages.correlations.stage import CorrelationsStage
from universal_ray.stages.inputs import prepare
from universal_ray.storage.store import Store
from universal_ray.testbed.training import Settings

SUMS = "sums"
REDUCTION = "baselines", "correlations"
"""Batches of the stage."""
HEAD = 64
"""Width of an attention head, as in every GPT-2."""


@dataclass(frozen=True)
class Shape:
    """Random GPT-2s and tokens: a residual stream of a quarter of the neurons of a layer."""

    layers: int
    width: int
    seeds: int
    tokens: int
    context: int = 128

    @property
    def neurons(self) -> int:
        return self.layers * self.width

    def __str__(self) -> str:
        return f"{self.seeds} models of {self.layers} x {self.width} neurons"


@dataclass(frozen=True)
class Means:
    """What a loop computes with."""

    device: Device
    threads: int
    policy: Policy
    dtype: ForwardType


@dataclass
class Timing:
    """Where the time of one run went."""

    tokens: int
    flops: int
    """of the sums, a Gram counted by half"""
    cross_flops: int
    """of the pairs alone"""
    sums: float = 0.0
    """seconds of the sums, from the first token read to the last block folded"""
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    """load, forward, operands, products, copy and write, means of the workers; fold; reduce, from
    the last sum to the last correlation
    """
    peak_bytes: int = 0
    """of the largest worker, until the first pause"""

    @property
    def total(self) -> float:
        return self.sums + self.seconds["reduce"]


def make_inputs(folder: Path, shape: Shape) -> tuple[list[str], str]:
    """Save the models and the tokens of a shape; the same seeds give the same weights."""
    from transformers import GPT2Config, GPT2LMHeadModel
    from transformers.utils import logging as messages

    messages.disable_progress_bar()
    datasets.disable_progress_bars()
    names = []
    stream = shape.width // 4
    for seed in range(shape.seeds):
        configuration = GPT2Config(
            vocab_size=Settings().vocabulary,
            n_positions=shape.context,
            n_embd=stream,
            n_layer=shape.layers,
            n_head=max(stream // HEAD, 1),
            initializer_range=0.1,
            bos_token_id=0,
            eos_token_id=0,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = GPT2LMHeadModel(configuration)
        model.save_pretrained(str(folder / f"model-{seed}"))
        names.append(str(folder / f"model-{seed}"))
    rows = -(-shape.tokens // shape.context)
    rng = np.random.default_rng(0)
    tokens_BP = rng.integers(1, Settings().vocabulary, (rows, shape.context))
    path = str(folder / "tokens")
    datasets.Dataset.from_dict({"tokens": list(tokens_BP)}).save_to_disk(path)
    return names, path


def make_study(folder: Path, shape: Shape, means: Means, workers: int = 1) -> Study:
    """One draw of the baseline, as the paper has; lengths of units and batches as planned."""
    names, path = make_inputs(folder, shape)
    return Study(
        run=RunConfig(dir=str(folder / "run")),
        models=ModelsConfig(
            reference=names[0],
            compared=names[1:],
            tokenizer=testbed.resolve("a"),
            dtype=means.dtype,
        ),
        corpus=CorpusConfig(path=path),
        units=UnitsConfig(),
        cluster=ClusterConfig(device=means.device, workers=workers, threads=means.threads),
        baseline=BaselineConfig(rotations=1),
        precision=PrecisionConfig(moments=means.policy),
    )


def measure(
    study: Study,
    executor: Executor,
    last: str | None = None,
    pauses: Sequence[Callable[[CorrelationsStage], None]] = (),
) -> tuple[Timing, CorrelationsStage]:
    """Make the correlations of a study by an executor, up to a batch of theirs or all of them.

    Each of the `pauses` is called after as large a share of the units as the others, with nothing
    else under way; what it takes is not counted, nor is the calibration, which loads the models.
    """
    reset_peak(study.cluster.device.value)
    store = Store(study.run.dir)
    measured = Measured(CorrelationsStage(prepare(study, store), store), last, pauses)
    driver.run(lambda: [measured], store, executor)
    return measured.timing, measured.stage


class Measured:
    """The stage of the correlations, and where its time goes."""

    def __init__(
        self,
        stage: CorrelationsStage,
        last: str | None,
        pauses: Sequence[Callable[[CorrelationsStage], None]],
    ):
        self.stage, self.name, self.worker = stage, stage.name, stage.worker
        self._last, self._pauses, self._paused = last, pauses, False
        self._workers = 1
        plan = stage.plan
        cross = sum(pair.flops(plan.total_tokens) for pair in plan.pairs)
        self.timing = Timing(plan.total_tokens, plan.flops, cross)

    def forecast(self) -> Forecast:
        return self.stage.forecast()

    def begin(self) -> Any:
        return self.stage.begin()

    def batches(self, memory: list[tuple[str, float]]) -> Iterator[Batch]:
        """Those of the stage, the sums in as many shares as there are pauses."""
        self._workers = len(memory)
        for batch in self.stage.batches(memory):
            shares = self._shares(batch) if batch.name == SUMS else [batch]
            for index, share in enumerate(shares):
                began = time.monotonic()
                yield share
                spent = time.monotonic() - began
                if batch.name == SUMS:
                    self.timing.sums += spent
                    self._pause(index)
                elif batch.name in REDUCTION:
                    self.timing.seconds["reduce"] += spent
            if batch.name == self._last:
                return

    def _shares(self, batch: Batch) -> Iterator[Batch]:
        count = max(len(self._pauses), 1)
        bounds = [len(batch.tasks) * share // count for share in range(count + 1)]
        for start, stop in pairwise(bounds):
            yield replace(batch, tasks=batch.tasks[start:stop], done=batch.done + start)

    def _pause(self, share: int) -> None:
        if self._pauses:
            self._paused = True
            self._pauses[share](self.stage)

    def finished(self, task: Task, result: Any) -> Sequence[Task]:
        timing = self.timing
        if task.tokens:
            for name, seconds in result["seconds"].items():
                timing.seconds[name] += seconds / self._workers
            if not self._paused:
                timing.peak_bytes = max(timing.peak_bytes, result["peak_bytes"])
        if task.beside:
            timing.seconds["fold"] += result
        return self.stage.finished(task, result)

    def end(self) -> None:
        if self._last is None:
            self.stage.end()


def batches(stage: CorrelationsStage, tokens: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """The first tokens of a study in the naive scheme's batches: [B, P], and which count [T]."""
    inputs = stage.inputs
    rows = min(tokens // inputs.context, inputs.rows)
    for start in range(0, rows, naive.ROWS):
        tokens_BP = torch.from_numpy(inputs.corpus.read(start, min(start + naive.ROWS, rows)))
        yield tokens_BP, kept_mask(tokens_BP, inputs.excluded)
