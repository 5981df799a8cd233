"""The stage of the correlations: sums over units of tokens, then reductions, then the tables."""

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import yaml

from universal_ray.planning.capacity import worker_memory
from universal_ray.planning.costs import Cost
from universal_ray.planning.items import Item, calibration_file, marker, same_weights
from universal_ray.runtime.measure import forecast
from universal_ray.runtime.progress import Forecast
from universal_ray.runtime.task import Batch, Task, call
from universal_ray.stages.assignment import assign
from universal_ray.stages.correlations import folding, reduce, similarity
from universal_ray.stages.correlations.artifacts import (
    Reduction,
    reduction,
    stand,
    tables_fingerprint,
)
from universal_ray.stages.correlations.plan import Plan, Work, cost, describe, shifts_of
from universal_ray.stages.correlations.prepare import claimed, find_done, make_plan
from universal_ray.stages.correlations.summary import assemble
from universal_ray.stages.correlations.worker import MomentsAssignment, MomentsWorker
from universal_ray.stages.inputs import Inputs, Outline
from universal_ray.stages.segments import told_of
from universal_ray.storage import checked, finished
from universal_ray.storage.names import STUDY_FILE
from universal_ray.storage.store import Store

log = logging.getLogger(__name__)


def left_to_reduce(
    recipe: Reduction, plan: Plan, reduced: Iterable[str]
) -> list[tuple[Item, int]]:
    """Layers of pairs without correlations among the paths of what is `reduced`."""
    there = set(reduced)
    return [
        (pair, layer)
        for pair in plan.pairs
        for layer in range(pair.layers)
        if checked.marker_of(recipe.rows_file(pair, layer)) not in there
    ]


def left_to_match(
    recipe: Reduction, plan: Plan, made: Iterable[str]
) -> tuple[list[Item], list[tuple[Item, int]]]:
    """Pairs that are not matched, and layers of pairs that no measure is of, among the paths of
    what is `made`.
    """
    there = set(made)
    return (
        [p for p in plan.pairs if checked.marker_of(recipe.matched_file(p)) not in there],
        [
            (pair, layer)
            for pair in plan.pairs
            for layer in range(pair.layers)
            if recipe.measures
            and checked.marker_of(recipe.similar_file(pair, layer)) not in there
        ],
    )


class CorrelationsStage:
    """Calibrations first, then units; each block folds when the last of its units is there."""

    name = finished.CORRELATIONS
    worker: type = MomentsWorker

    def __init__(self, inputs: Inputs, store: Store):
        done, self._damaged = find_done(store, inputs.items, inputs.layout)
        self.inputs, self.store = inputs, store
        self.plan = make_plan(inputs, done)
        self.recipe = reduction(inputs, store)
        self.fingerprint = tables_fingerprint(inputs, store)
        self._done = set(done)
        self._folded: set[tuple[str, int]] = set()
        self._flops = sum(item.flops(1) for item in inputs.items)

    @staticmethod
    def describe(found: Outline, store: Store) -> list[tuple[str, str]]:
        """The plan as rows of a table on screen."""
        plan, study = make_plan(found, claimed(found, store)), found.study
        rows = describe(plan, study.models, found.site.unit)
        baseline = shifts_of(study.baseline.shifts, found.calibration_rows)
        return [*rows, *baseline, *told_of(found.apart, study.corpus.pool)]

    @staticmethod
    def cost(found: Outline, store: Store) -> Cost:
        """What it takes, of what is left of it."""
        plan, recipe = make_plan(found, claimed(found, store)), reduction(found, store)
        reductions = left_to_reduce(recipe, plan, store.list("reduce"))
        matchings, layers = left_to_match(recipe, plan, store.list("similarity"))
        taken = cost(
            plan, recipe.rotations, recipe.measures, shifted=bool(recipe.shifts),
            reductions=reductions, matchings=matchings, similarities=layers,
        )  # fmt: skip
        return replace(taken, work=()) if not plan.work and stand(found, store) else taken

    def forecast(self) -> Forecast:
        return forecast(self.cost(self.inputs, self.store), self.inputs.study, self.store)

    def begin(self) -> MomentsAssignment | None:
        inputs, store = self.inputs, self.store
        store.put(STUDY_FILE, yaml.safe_dump(inputs.record, sort_keys=False).encode())
        store.sweep()
        finished.clear(store)
        self._drop(self._damaged)
        if not self.plan.work and finished.stand(store, self.name, self.fingerprint):
            return None
        return assign(
            MomentsAssignment,
            inputs,
            store,
            sites=[inputs.site],
            excluded=inputs.excluded,
            policy=self.plan.footprint.policy.value,
            segments=inputs.segments,
        )

    def _drop(self, damaged: Sequence[str]) -> None:
        """Let go of sums that were altered, and of all that was made of sums."""
        for folder in damaged:
            log.warning(
                "%s was cut or altered, or is of something else: it is computed again", folder
            )
        folding.drop(self.store, list(damaged))
        if damaged:
            for path in self._made():
                self.store.delete(path)

    def _made(self) -> list[str]:
        """All that was made of sums."""
        return [*self.store.list("reduce"), *self.store.list("similarity")]

    def batches(self, memory: list[tuple[str, float]]) -> Iterator[Batch]:
        study = self.inputs.study
        if self.plan.work or self._unreduced():
            calibrations = self._calibrations()
            yield Batch("calibration", calibrations)
            self._check_apart()
            if calibrations:  # sums of others than these are there no more
                stored, damaged = find_done(self.store, self.plan.items, self.plan.layout)
                self._drop(damaged)
                self.plan, self._done = replace(self.plan, done=stored), set(stored)
            # What fixes the bits stays; which sums are held together may change.
            self.plan = replace(self.plan, memory=worker_memory(memory, study.cluster))
        plan = self.plan
        units = len(plan.layout.units)
        done = len(plan.groups) * units - len(plan.work) if plan.work else units
        sums = [*self._folds(), *map(self._unit, plan.work)]
        yield Batch("sums", sums, done, behind=len(plan.items))
        recipe, reduced = self.recipe, set(self.store.list("reduce"))
        single = [item for item in plan.items if len(item.models) == 1]
        models = [
            call(reduce.reduce_model, f"reduce-{item.key}", recipe, item)
            for item in self._unreduced()
        ]
        yield Batch("baselines", models, len(single) - len(models))
        rows = [
            call(reduce.reduce_rows, f"reduce-{pair.key}-{layer}", recipe, pair, layer)
            for pair, layer in left_to_reduce(recipe, plan, reduced)
        ]
        every = sum(pair.layers for pair in plan.pairs)
        yield Batch("correlations", rows, every - len(rows))
        matchings, similarities = left_to_match(recipe, plan, self.store.list("similarity"))
        match = [
            call(similarity.match, f"match-{pair.key}", recipe, pair) for pair in matchings
        ]
        yield Batch("matchings", match, len(plan.pairs) - len(match))
        layers = [
            call(similarity.similar_rows, f"similar-{pair.key}-{layer}", recipe, pair, layer)
            for pair, layer in similarities
        ]
        yield Batch("similarities", layers, (every if recipe.measures else 0) - len(layers))
        told = (recipe, plan, study.models, study.universal.threshold, self.fingerprint)
        yield Batch("tables", [call(assemble, "tables-of-correlations", *told)])

    def finished(self, task: Task, result: Any) -> Sequence[Task]:
        if task.method != "compute":
            return ()
        (work,) = task.arguments
        self._done |= {(work.unit.index, item.key) for item in work.items}
        return self._folds()

    def end(self) -> None:
        finished.Draft(self.store, self.name, self.fingerprint).swap_in()
        fresh = self.recipe.folders(self.plan.items)
        for path in self._made():
            if "/".join(path.split("/")[:2]) not in fresh:
                self.store.delete(path)

    def _calibrations(self) -> list[Task]:
        """Shift and scale of every model, once in the life of a run."""
        rows = self.inputs.calibration_rows
        return [
            Task(f"calibrate-{m.short}", f"calibration of {m.name}", "calibrate", (m, rows))
            for m in dict.fromkeys(self.plan.models)
            if not checked.receipts(self.store, checked.marker_of(calibration_file(m)))
        ]

    def _check_apart(self) -> None:
        """Raise ConfigurationError where two models make the same activations, whatever files their
        weights lie in: saved once as safetensors, once as .bin, or in other parts.
        """
        for pair in self.plan.pairs:
            first, second = (
                checked.checksum(self.store, calibration_file(model)) for model in pair.models
            )
            if first == second:
                raise same_weights(*(model.name for model in pair.models))

    def _unreduced(self) -> list[Item]:
        """Models whose sums are not reduced yet, as items."""
        stored = set(self.store.list("reduce"))
        return [
            item
            for item in self.plan.items
            if len(item.models) == 1
            and checked.marker_of(self.recipe.model_file(*item.models)) not in stored
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
                if checked.receipts(self.store, marker(item.block_folder(block))):
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
