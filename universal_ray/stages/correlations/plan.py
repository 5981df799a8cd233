"""From a study and what is already done to the work that is left, and what it costs. Pure."""

from dataclasses import dataclass
from functools import cached_property

from universal_ray.config.study import Device
from universal_ray.planning.capacity import Footprint, Pass, Speed, duration, size
from universal_ray.planning.items import Item, Layout, Model, Unit


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
    done: frozenset[tuple[int, str]]
    """(unit index, item key) whose sums are stored, as units or inside a block"""

    @property
    def pairs(self) -> tuple[Item, ...]:
        return tuple(item for item in self.items if len(item.models) == 2)

    @property
    def batch_rows(self) -> int:
        return self.footprint.batch_tokens // self.context

    @cached_property
    def groups(self) -> tuple[tuple[Pass, ...], ...]:
        """Passes that belong together: one that holds whole items, or all those of a cut pair."""
        found: list[tuple[Pass, ...]] = []
        for held in self.footprint.passes(self.items, self.memory):
            if found and found[-1][-1][-1].item == held[0].item:
                found[-1] = (*found[-1], held)
            else:
                found.append((held,))
        return tuple(found)

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
    def bytes_to_write(self) -> int:
        """Unit files still to be written."""
        return sum(item.sums_bytes for work in self.work for item in work.items)

    @property
    def bytes_kept(self) -> int:
        """Blocks and trailing units that stay when the run is done."""
        one = sum(item.sums_bytes for item in self.items)
        return one * (2 * len(self.layout.blocks) + len(self.layout.trailing))

    def peak_bytes(self, workers: int) -> int:
        """What the store must hold at once: beside what stays, the units of a block whose folds
        wait, those of the next before they fold, and those that workers write meanwhile.
        """
        largest = max(
            sum(part.sums_bytes for held in group for part in held) for group in self.groups
        )
        waiting = self.layout.fold * sum(item.sums_bytes for item in self.items)
        return self.bytes_kept + waiting + largest * (self.layout.fold + 2 * workers)

    @property
    def worker_bytes(self) -> int:
        """Of the largest pass, in the memory of one worker."""
        return max(
            self.footprint.bytes_of(held) for group in self.groups for held in group
        )


def describe(plan: Plan, workers: int, speed: Speed | None) -> list[tuple[str, str]]:
    """The plan as rows of a table on screen."""
    reference = plan.models[0]
    work = plan.work
    done = len(plan.layout.units) - len({each.unit.index for each in work})
    blocks, trailing = len(plan.layout.blocks), len(plan.layout.trailing)
    passes = sum(len(group) for group in plan.groups)
    return [
        ("reference", reference.given),
        ("compared", ", ".join(model.given for model in plan.models[1:])),
        (
            "neurons",
            ", ".join(f"{m.layers} x {m.width} = {m.neurons:,}" for m in plan.models[:1])
            + f" in the reference, {sum(m.neurons for m in plan.models):,} in all",
        ),
        ("pairs", f"{len(plan.pairs)}, both directions of each"),
        ("tokens", f"{plan.total_tokens:,} in rows of {plan.context}"),
        (
            "units",
            f"{len(plan.layout.units)} ({blocks} blocks of {plan.layout.fold}, "
            f"{trailing} after them), {done} already done",
        ),
        ("batches", f"{plan.batch_rows * plan.context:,} tokens, {plan.footprint.policy.value}"),
        ("arithmetic left", f"{plan.flops:.3g} FLOP of sums"),
        (
            "memory",
            f"{size(plan.worker_bytes)} of {size(plan.memory)} in each of {workers} workers, "
            + (f"{passes} passes over a unit" if passes > 1 else "one pass over a unit"),
        ),
        (
            "to write",
            f"{size(plan.bytes_to_write)}, of which {size(plan.bytes_kept)} stay as blocks, "
            f"{size(plan.peak_bytes(workers))} at once at most",
        ),
        *_time(plan, workers, speed),
    ]


def _time(plan: Plan, workers: int, speed: Speed | None) -> list[tuple[str, str]]:
    """Wall time for 1, 2, 4 ... workers and for those asked for."""
    if not plan.work:
        return []
    if speed is None:
        return [("time", "not known: set cluster.tflops to what one worker sustains")]
    counts = sorted({2**k for k in range(workers.bit_length())} | {workers})
    each = {n: speed.seconds(float(plan.flops), n, len(plan.work)) for n in counts}
    times = ", ".join(
        f"{duration(seconds)} on {n} worker{'s' if n > 1 else ''}" for n, seconds in each.items()
    )
    hours = each[1] / 3600
    kind = "GPU" if plan.footprint.device is Device.cuda else "worker"
    return [("time", f"{times}; {hours:.2g} {kind}-hours at {speed.source}")]
