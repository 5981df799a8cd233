"""From a study and what is already done to the work that is left, and what it costs. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from universal_ray.config.study import Device, ModelsConfig
from universal_ray.maths.moments.shift import unlike
from universal_ray.planning.capacity import RING_BYTES, Footprint, Pass, models_of, size
from universal_ray.planning.costs import (
    DOUBLE,
    FORWARD,
    HOST,
    PRODUCTS,
    Cost,
    Share,
    forward_flops,
    table_share,
)
from universal_ray.planning.items import Item, Layout, Model, Unit
from universal_ray.planning.similarities import (
    matching_bytes,
    similarity_bytes,
    similarity_work,
)


@dataclass(frozen=True)
class Work:
    """What one worker does in one call: some items of one unit, its tokens read once per pass."""

    unit: Unit
    group: int
    passes: tuple[Pass, ...]

    @property
    def items(self) -> tuple[Item, ...]:
        parts = (part for held in self.passes for part in held)
        return tuple({part.item.key: part.item for part in parts}.values())

    @property
    def name(self) -> str:
        return f"{self.unit.index}" if self.group == 0 else f"{self.unit.index}.{self.group}"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything a run will do, decided before it does it."""

    models: tuple[Model, ...]
    """the first reference first"""
    references: tuple[Model, ...]
    """models whose neurons are asked about; with revisions, each revision's"""
    items: tuple[Item, ...]
    layout: Layout
    context: int
    footprint: Footprint
    memory: float
    """bytes a worker may use"""
    workers: int
    done: frozenset[tuple[int, str]]
    """(unit index, item key) whose sums are stored, as units or inside a block"""

    @property
    def pairs(self) -> tuple[Item, ...]:
        return tuple(item for item in self.items if len(item.models) == 2 and not item.shift)

    @property
    def batch_rows(self) -> int:
        return self.footprint.batch_tokens // self.context

    @cached_property
    def groups(self) -> tuple[tuple[Pass, ...], ...]:
        """Passes that belong together: one that holds whole items, or all those of a cut pair."""
        return self.footprint.groups(self.items, self.memory)

    def check_memory(self) -> None:
        """Raise ConfigurationError where a worker has no room for one part."""
        _ = self.groups

    @cached_property
    def work(self) -> list[Work]:
        """What is left. A block's units are finished group by group, so that they fold early."""
        left = []
        for units in [*(block.units for block in self.layout.blocks), self.layout.trailing]:
            for index, group in enumerate(self.groups):
                for unit in units:
                    passes = tuple(
                        tuple(p for p in held if (unit.index, p.item.key) not in self.done)
                        for held in group
                    )
                    if any(passes):
                        left.append(Work(unit, index, tuple(filter(None, passes))))
        return left

    def tokens(self, unit: Unit) -> int:
        return (unit.stop - unit.start) * self.context

    @property
    def total_tokens(self) -> int:
        return self.layout.units[-1].stop * self.context

    def flops_of(self, work: Work) -> int:
        return sum(item.flops(self.tokens(work.unit)) for item in work.items)

    @property
    def flops(self) -> int:
        """Of the sums still to be made."""
        return sum(self.flops_of(work) for work in self.work)

    @property
    def forward_passes(self) -> int:
        """Of all models over one unit of which nothing is done."""
        return sum(len(models_of(held)) for group in self.groups for held in group)

    @cached_property
    def forward_flops(self) -> float:
        """Of the forward passes still to be made."""
        return float(
            sum(
                self.tokens(work.unit) * forward_flops(model, self.context)
                for work in self.work
                for held in work.passes
                for model in models_of(held)
            )
        )

    @property
    def bytes_to_write(self) -> int:
        """Unit files still to be written."""
        return sum(item.sums_bytes for work in self.work for item in work.items)

    @property
    def bytes_kept(self) -> int:
        """Blocks and trailing units that stay when the run is done."""
        one = sum(item.sums_bytes for item in self.items)
        return one * (2 * len(self.layout.blocks) + len(self.layout.trailing))

    @property
    def passing_bytes(self) -> int:
        """What the store holds beside what stays: the units of a block whose folds wait, those of
        the next before they fold, and those that workers write meanwhile.
        """
        if not self.work:
            return 0
        largest = max(
            sum(part.sums_bytes for held in group for part in held) for group in self.groups
        )
        one = sum(item.sums_bytes for item in self.items)
        most = self.layout.fold * one + largest * (self.layout.fold + 2 * self.workers)
        return min(most, one * len(self.layout.units))

    @property
    def worker_bytes(self) -> int:
        """Of the largest pass, in the memory of one worker."""
        return max(
            self.footprint.bytes_of(held) for group in self.groups for held in group
        )


ROW_BYTES = 2600
"""Stored of one row of a matrix of correlations, or of one column for each layer of rows."""
RANDOM_SECONDS = 8e-9
"""Of one CPU thread for a random number of a rotation."""


def cost(
    plan: Plan,
    draws: int,
    measures: Sequence[str],
    *,
    shifted: bool,
    reductions: Sequence[tuple[Item, int]],
    matchings: Sequence[Item],
    similarities: Sequence[tuple[Item, int]],
) -> Cost:
    """What the correlations take; of what is left to make, `reductions`: layers of pairs to
    correlate, `matchings`: pairs to match, `similarities`: layers of pairs to measure. `draws`: of
    the baseline, which are rotations or sums of the plan, `shifted`.
    """
    sums = [part for group in plan.groups for held in group for part in held]
    held = [sum(part.sums_bytes for part in held) for group in plan.groups for held in group]
    kept = plan.bytes_kept + sum(ROW_BYTES * _reduced_rows(pair) for pair in plan.pairs)
    layer = max(part.sums_bytes // (part.stop - part.start) for part in sums)
    memory = {
        # float64: a layer of a pair, centred, as correlations, turned round
        "reductions": 8 * layer,
        "matchings": max(map(matching_bytes, plan.pairs)),
    }
    if measures:
        memory["similarities"] = max(
            similarity_bytes(pair, draws, measures, shifted=shifted) for pair in plan.pairs
        )
    device = {"sums": plan.worker_bytes}
    if plan.footprint.device is Device.cpu:
        device |= memory
    groups = len(plan.layout.blocks) + len(plan.layout.trailing)
    return Cost(
        work=[
            *_work(plan, 0 if shifted else draws, reductions),
            *similarity_work(
                draws, measures, groups, matchings, similarities, shifted=shifted
            ),
            *_tables(plan),
        ],
        kept=kept,
        passing=plan.passing_bytes,
        device=device,
        # A pass is written, a block folded, and the next pass waits on the GPU.
        host={"sums": max(held) + RING_BYTES + 5 * layer, **memory},
    )


def _reduced_rows(pair: Item) -> int:
    first, second = pair.models
    return first.neurons + first.layers * second.neurons


def _work(plan: Plan, rotations: int, reductions: Sequence[tuple[Item, int]]) -> list[Share]:
    """Of sums and correlations: none where all is there."""
    work, found = plan.work, []
    if work:
        steps = len(work)
        found += [
            Share(
                name="products", batch="sums", kind=PRODUCTS, amount=float(plan.flops), steps=steps
            ),
            Share(
                name="forward passes", batch="sums", kind=FORWARD, amount=plan.forward_flops,
                steps=steps,
            ),
        ]
    rotated = random = 0.0
    for pair, _ in reductions:
        first, second = pair.models
        both = first.width * second.neurons * (first.width + second.width)
        rotated += 2 * rotations * both
        random += rotations * (second.layers * second.width**2 + first.width**2)
    steps = len(reductions)
    if steps:
        found += [
            Share(
                name="reductions", batch="correlations", kind=kind, amount=amount, steps=steps
            )
            for kind, amount in ((DOUBLE, rotated), (HOST, RANDOM_SECONDS * random))
        ]
    return found


def _tables(plan: Plan) -> list[Share]:
    return [table_share(2 * sum(model.neurons for pair in plan.pairs for model in pair.models))]


def describe(plan: Plan, models: ModelsConfig, unit: str) -> list[tuple[str, str]]:
    """The plan as rows of a table on screen; `unit`: what its units are called."""
    work = plan.work
    done = len(plan.layout.units) - len({each.unit.index for each in work})
    blocks, trailing = len(plan.layout.blocks), len(plan.layout.trailing)
    passes = sum(len(group) for group in plan.groups)
    return [
        ("reference", models.reference),
        ("compared", ", ".join(models.compared)),
        *_revisions(models),
        ("site", models.site),
        (
            f"{unit}s",
            ", ".join(f"{m.layers} x {m.width} = {m.neurons:,}" for m in plan.models[:1])
            + f" in the reference, {sum(m.neurons for m in plan.models):,} in all",
        ),
        *([("read by layer", ", ".join(plan.models[0].places))] if plan.models[0].places else []),
        ("pairs", f"{len(plan.pairs)}, both directions of each"),
        ("tokens", f"{plan.total_tokens:,} in rows of {plan.context}"),
        (
            "units",
            f"{len(plan.layout.units)} ({blocks} blocks of {plan.layout.fold}, "
            f"{trailing} after them), {done} already done",
        ),
        ("batches", f"{plan.batch_rows * plan.context:,} tokens, {plan.footprint.policy.value}"),
        (
            "arithmetic left",
            f"{plan.flops:.3g} FLOP of sums, {plan.forward_flops:.3g} of forward passes",
        ),
        (
            "passes",
            f"{passes} over each unit, with {plan.forward_passes} forward passes of models",
        ),
        (
            "to write",
            f"{size(plan.bytes_to_write)}, of which {size(plan.bytes_kept)} stay as blocks",
        ),
    ]


def shifts_of(shifts: Sequence[str], rows: int) -> list[tuple[str, str]]:
    """A row of the plan, where the baseline is of other tokens of batches of so many rows."""
    if not shifts:
        return []
    told = f"{len(shifts)} shifts of tokens, each as long as the correlations"
    if (distinct := unlike(rows, shifts)) < len(shifts):
        told += (f", of which only {distinct} are unlike among the {rows} rows of a batch: raise "
                 "units.batch, or lower baseline.rotations")  # fmt: skip
    return [("baseline", told)]


def _revisions(models: ModelsConfig) -> list[tuple[str, str]]:
    if not models.revisions:
        return []
    count, named = len(models.revisions), ", ".join(models.revisions)
    return [("revisions", f"{count} of each of these {1 + len(models.compared)} models: {named}")]
