"""This project's loop on random models of any shape, in this process, with its laps.

The worker, the fold and the reduction are the very ones of a study; only Ray is left out, so that
what is measured is the loop.
"""

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import cycle, pairwise
from pathlib import Path

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
    RunConfig,
    Study,
    UnitsConfig,
)
from universal_ray.corpus.rows import kept_mask
from universal_ray.planning.items import Unit
from universal_ray.runtime.measure import peak_bytes, reset_peak
from universal_ray.runtime.scheduler import CALLS
from universal_ray.stages.correlations import reduce
from universal_ray.stages.correlations.plan import Work
from universal_ray.stages.correlations.stage import CorrelationStage
from universal_ray.stages.correlations.worker import MomentsAssignment, MomentsWorker
from universal_ray.stages.inputs import prepare
from universal_ray.storage.store import Store
from universal_ray.testbed.training import Settings

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
    wall: float = 0.0
    """seconds of the sums, from the first token read to the last block folded"""
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    """load, forward, operands, products, copy, write, fold, reduce; means of the workers"""
    peak_bytes: int = 0
    """until the first pause"""

    @property
    def total(self) -> float:
        return self.wall + self.seconds["reduce"]


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
    )


def run_sums(
    study: Study, means: Means, pauses: Sequence[Callable[[CorrelationStage], None]] = ()
) -> tuple[Timing, CorrelationStage]:
    """The sums of a study in this process, as its workers make them; models are loaded before.

    Each of the `pauses` is called after as large a share of the units as the others, with nothing
    else under way; what it takes is not counted.
    """
    reset_peak(means.device.value)
    store = Store(study.run.dir)
    study.precision.moments = means.policy
    stage = CorrelationStage(prepare(study, store), store)
    inputs, plan = stage.inputs, stage.plan
    assignment = MomentsAssignment(
        store_url=store.url,
        nonce=store.write_nonce(),
        corpus=inputs.corpus,
        sources=inputs.sources,
        excluded=inputs.excluded,
        sites=(inputs.site,),
        dtype=means.dtype.value,
        policy=means.policy.value,
        batch_rows=inputs.batch_rows,
        threads=study.cluster.threads,
        device=means.device.value,
    )
    workers = [MomentsWorker(assignment) for _ in range(study.cluster.workers)]
    for worker in workers:
        for model in plan.models:
            worker.calibrate(model, inputs.calibration_rows)
    cross = sum(pair.flops(plan.total_tokens) for pair in plan.pairs)
    timing = Timing(plan.total_tokens, plan.flops, cross)
    finished: Counter[Unit] = Counter()
    shares = max(len(pauses), 1)
    bounds = [len(plan.work) * share // shares for share in range(shares + 1)]
    for share, (start, stop) in enumerate(pairwise(bounds)):
        began = time.monotonic()
        _sum_share(stage, workers, plan.work[start:stop], finished, timing)
        timing.wall += time.monotonic() - began
        timing.peak_bytes = timing.peak_bytes or peak_bytes(means.device.value)
        torch.set_num_threads(study.cluster.workers * study.cluster.threads)
        if pauses:
            pauses[share](stage)
    return timing, stage


def _sum_share(
    stage: CorrelationStage, workers: list[MomentsWorker], share: list[Work],
    finished: Counter[Unit], timing: Timing,
) -> None:
    """One unit is written while the next is computed, and a full block folds beside both."""
    plan = stage.plan
    with ExitStack() as opened:
        pools = [opened.enter_context(ThreadPoolExecutor(CALLS)) for _ in workers]
        beside = opened.enter_context(ThreadPoolExecutor(1))
        turns = zip(cycle(zip(workers, pools, strict=True)), share, strict=False)
        computed = {pool.submit(worker.compute, each): each for (worker, pool), each in turns}
        folds = []
        for done in as_completed(computed):
            for name, seconds in done.result()["seconds"].items():
                timing.seconds[name] += seconds / len(workers)
            unit = computed[done].unit
            finished[unit] += 1
            for block in plan.layout.blocks:
                if unit in block.units and all(
                    finished[each] == len(plan.groups) for each in block.units
                ):
                    folds += [beside.submit(workers[0].fold, item, block) for item in plan.items]
        timing.seconds["fold"] += sum(fold.result() for fold in folds)


def run_reduction(stage: CorrelationStage, timing: Timing) -> None:
    """Reduce what `run_sums` stored."""
    plan, recipe = stage.plan, stage.recipe
    began = time.monotonic()
    for item in plan.items:
        if len(item.models) == 1:
            reduce.reduce_model(recipe, item)
    for pair in plan.pairs:
        for layer in range(pair.layers):
            reduce.reduce_rows(recipe, pair, layer)
    timing.seconds["reduce"] = time.monotonic() - began


def batches(stage: CorrelationStage, tokens: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """The first tokens of a study in the naive scheme's batches: [B, P], and which count [T]."""
    inputs = stage.inputs
    rows = min(tokens // inputs.context, inputs.rows)
    for start in range(0, rows, naive.ROWS):
        tokens_BP = torch.from_numpy(inputs.corpus.read(start, min(start + naive.ROWS, rows)))
        yield tokens_BP, kept_mask(tokens_BP, inputs.excluded)
