"""The stage that makes the sums: units to compute, blocks to fold; what is left of them."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from universal_ray import folding
from universal_ray.items import calibration_file, marker
from universal_ray.plan import Work
from universal_ray.preflight import Prepared
from universal_ray.scheduler import Task
from universal_ray.store import Store
from universal_ray.study import Device
from universal_ray.worker import MomentsAssignment, MomentsWorker


class MomentsStage:
    """Calibrations first, then units; each block folds when the last of its units is there."""

    name = "sums"
    actor: type = MomentsWorker

    def __init__(self, prepared: Prepared, store: Store):
        study, plan = prepared.study, prepared.plan
        self.prepared, self.store, self.plan = prepared, store, plan
        self.assignment = MomentsAssignment(
            store_url=store.url,
            nonce=store.write_nonce(),
            corpus=prepared.corpus,
            sources=prepared.sources,
            excluded=prepared.excluded,
            activations=(study.models.activation.value,),
            dtype=study.models.dtype.value,
            policy=plan.footprint.policy.value,
            batch_rows=plan.batch_rows,
            threads=study.cluster.threads,
            device=study.cluster.device.value,
        )
        self._done = set(plan.done)
        self._folded: set[tuple[str, int]] = set()
        self._flops = sum(item.flops(1) for item in plan.items)
        self._foldable = self._folds()

    @property
    def steps(self) -> int:
        return len(self.plan.work) or len(self._foldable)

    @property
    def steps_done(self) -> int:
        return len(self.plan.groups) * len(self.plan.layout.units) - len(self.plan.work)

    def batches(self, memory: list[tuple[str, float]]) -> Iterator[Sequence[Task]]:
        if self.plan.work:
            yield self._calibrations()
            if self.prepared.study.cluster.memory is None:
                # What fixes the bits stays; which sums are held together may change.
                smallest = smallest_memory(memory, self.prepared.study.cluster.device)
                self.plan = replace(self.plan, memory=smallest)
        yield [*self._foldable, *map(self._unit, self.plan.work)]

    def finished(self, task: Task, result: Any) -> Sequence[Task]:
        if task.method != "compute":
            return ()
        (work,) = task.arguments
        self._done |= {(work.unit.index, item.key) for item in work.items}
        return self._folds()

    def _calibrations(self) -> list[Task]:
        """Shift and scale of every model, once in the life of a run."""
        rows = self.prepared.calibration_rows
        return [
            Task(f"calibrate-{m.short}", f"calibration of {m.name}", "calibrate", (m, rows))
            for m in self.plan.models
            if not self.store.exists(calibration_file(m))
        ]

    def _unit(self, work: Work) -> Task:
        """Its tokens count by the share of their sums that the work makes."""
        share = sum(item.flops(1) for item in work.items) / self._flops
        return Task(
            f"unit-{work.unit.name}-{work.group}",
            f"unit {work.name}",
            "compute",
            (work,),
            tokens=self.plan.tokens(work.unit) * share,
        )

    def _folds(self) -> list[Task]:
        """Blocks whose units are all there, each once."""
        found = []
        for block in self.plan.layout.blocks:
            for item in self.plan.items:
                key = (item.key, block.index)
                if key in self._folded or not all(
                    (unit.index, item.key) in self._done for unit in block.units
                ):
                    continue
                self._folded.add(key)
                if self.store.exists(marker(item.block_folder(block))):
                    # A fold that was cut short may have left its units behind.
                    folding.drop(self.store, [item.unit_folder(unit) for unit in block.units])
                    continue
                found.append(
                    Task(
                        f"fold-{block.index}-{item.key}",
                        f"fold of block {block.index} of {item.key}",
                        "fold",
                        (item, block),
                        beside=True,
                    )
                )
        return found


def smallest_memory(found: list[tuple[str, float]], device: Device) -> float:
    """Bytes that every worker has to itself: workers on one host share its memory, not its GPUs."""
    hosts = [host for host, _ in found]
    shared = device is Device.cpu
    return min(memory / (hosts.count(host) if shared else 1) for host, memory in found)
