"""The stage of the report: windows of every neuron, its partners in them, tables."""

from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import zip_longest
from typing import Any

from universal_ray.models.site import Ask
from universal_ray.planning.capacity import worker_memory
from universal_ray.planning.costs import Cost
from universal_ray.planning.items import Model
from universal_ray.planning.shards import layer_groups
from universal_ray.runtime.measure import expected_memory, forecast
from universal_ray.runtime.progress import Forecast
from universal_ray.runtime.task import Batch, Task, call
from universal_ray.stages.assignment import assign, check_made
from universal_ray.stages.inputs import Inputs, Outline
from universal_ray.stages.profile import artifacts as profile
from universal_ray.stages.profile.artifacts import Bank
from universal_ray.stages.report.artifacts import (
    FOLDER,
    groups_file,
    partners_file,
    stand,
    tables_fingerprint,
)
from universal_ray.stages.report.earlier import best_partners, chosen, order
from universal_ray.stages.report.labels import Chosen
from universal_ray.stages.report.plan import cost, describe, make_plan, row_shards
from universal_ray.stages.report.prepare import prepare
from universal_ray.stages.report.reduce import choose_windows, partner_rows
from universal_ray.stages.report.summary import Read, assemble
from universal_ray.stages.report.worker import (
    DESCRIPTIONS,
    WINDOWS,
    ReportAssignment,
    ReportWorker,
)
from universal_ray.stages.roles import artifacts as roles
from universal_ray.storage import checked, finished
from universal_ray.storage.kept import Kept
from universal_ray.storage.store import Store


class ReportStage:
    """Candidates for windows of every reference model; then its windows; then partners in them;
    then tables.
    """

    name = finished.REPORT
    worker: type = ReportWorker

    def __init__(self, inputs: Inputs, store: Store):
        self.inputs, self.store = inputs, store
        self.recipe = prepare(inputs, store)
        self.fingerprint = tables_fingerprint(inputs, store)
        self._kept = Kept(store, FOLDER)
        self._chosen: dict[str, tuple[Chosen, str]] = {}

    @cached_property
    def _bank(self) -> Bank:
        return self.recipe.profile.read_bank(self.store)

    @staticmethod
    def describe(found: Outline, store: Store) -> list[tuple[str, str]]:
        """The plan as rows of a table on screen."""
        plan = make_plan(found, profile.profile(found, store).rows)
        return describe(plan, found.study.report, found.site.unit)

    @staticmethod
    def cost(found: Outline, store: Store) -> Cost:
        """What it takes; all of it unless its tables stand."""
        plan = make_plan(found, profile.profile(found, store).rows)
        memory = expected_memory(found.study.cluster)
        return cost(plan, found, memory, done=stand(found, store))

    def forecast(self) -> Forecast:
        return forecast(self.cost(self.inputs, self.store), self.inputs.study, self.store)

    def begin(self) -> ReportAssignment | None:
        """Raises MissingError where the profile is not there, or the roles of units that have some.
        """
        store, inputs = self.store, self.inputs
        check_made(store, finished.PROFILE, profile.stand(inputs, store), before=self.name)
        if Ask.roles not in inputs.site.lacks:
            check_made(store, finished.ROLES, roles.stand(inputs, store), before=self.name)
        if stand(inputs, store):
            return None
        return assign(
            ReportAssignment,
            inputs,
            store,
            sites=inputs.site.pair(),
            excluded=self.recipe.excluded,
            recipe=self.recipe,
        )

    def batches(self, memory: list[tuple[str, float]]) -> Iterator[Batch]:
        recipe, store, corpus = self.recipe, self.store, self.inputs.corpus
        described = recipe.plan.described
        models = list(dict.fromkeys(each.model for each in described))
        stored = set(store.list(FOLDER))
        missing = [
            call(choose_windows, f"windows-{model.short}", recipe, model, corpus)
            for model in models
            if checked.marker_of(self._kept.whole(recipe.windows_file(model))) not in stored
        ]
        self._chosen = {model.identity: self._choose(model) for model in models}
        yield self._candidates(memory, models, stored)
        yield Batch("windows", missing, len(models) - len(missing))
        windows = {each.model.name: recipe.read_windows(store, each.model) for each in described}
        orders = {each.model.name: order(store, each.model) for each in described}
        rows = partner_rows(recipe, windows, orders)
        partners = {each.model.name: best_partners(store, each) for each in described}
        read = Read(rows, {}, partners, self._chosen, {})
        yield self._partners_(read, len(memory))
        told = (recipe, corpus, read, self.fingerprint)
        yield Batch("tables", [call(assemble, "tables-of-report", *told)])

    def _choose(self, model: Model) -> tuple[Chosen, str]:
        """Whose activations are told by what tokens are, and where."""
        recipe, bank = self.recipe, self._bank
        named = [layer * model.width + neuron for layer, neuron in recipe.plan.named]
        found = chosen(self.store, model, bank, named)
        return found, recipe.groups_folder(model, found, [each.name for each in bank.columns])

    def _candidates(
        self, memory: list[tuple[str, float]], models: Sequence[Model], stored: set[str]
    ) -> Batch:
        recipe, context = self.recipe, self.recipe.plan.context
        bytes_each = worker_memory(memory, self.inputs.study.cluster)
        tokens = len(recipe.plan.sample) * context
        tasks, done = [], 0
        for model in models:
            parts = layer_groups(
                model, tokens, memory=bytes_each, footprint=self.inputs.footprint,
                workers=min(len(memory), model.layers),
            )
            for layers in parts:
                asked = frozenset(
                    what
                    for what, path in (
                        (WINDOWS, recipe.sample_file), (DESCRIPTIONS, recipe.descriptions_file),
                    )
                    for layer in range(layers.start, layers.stop)
                    if checked.marker_of(self._kept.whole(path(model, layer))) not in stored
                )  # fmt: skip
                if not asked:
                    done += 1
                    continue
                told = (model, layers, asked)
                name, label = f"sample-{layers.start}-{model.short}", f"sample of {model.name}"
                tasks.append(Task(name, label, "sample", told, tokens=float(tokens)))
            neurons, folder = self._chosen[model.identity]
            for shard in recipe.profile.shards:
                peaks, groups = (
                    checked.marker_of(self._kept.whole(path)) not in stored
                    for path in (recipe.peaks_file(model, shard), groups_file(folder, shard))
                )
                if not (peaks or groups):
                    done += 1
                    continue
                mine = (model, shard, peaks, (neurons, folder) if groups else None)
                name, label = f"survey-{shard.index}-{model.short}", f"examples of {model.name}"
                length = float((shard.stop - shard.start) * context)
                tasks.append(Task(name, label, "survey", mine, tokens=length))
        return Batch("examples", tasks, done)

    def _partners_(self, read: Read, workers: int) -> Batch:
        """In every other model, on its rows and on the sample, so many models side by side that
        each worker stays with one; `read` takes note of where that lies.
        """
        recipe, plan = self.recipe, self.recipe.plan
        stored = set(self.store.list(FOLDER))
        by_model: list[list[Task]] = []
        done = 0
        sampled = float(len(plan.sample) * plan.context)
        for other in plan.partners:
            mine = {
                each.model: read.partners[each.model.name][one.name]
                for each in plan.described
                for one in each.others
                if one == other
            }
            neurons = {model.identity: partner_N for model, partner_N in mine.items()}
            wanted = tuple(mine.items())
            folder = self._kept.whole(recipe.partners_folder(other, read.rows, neurons))
            read.folders[other.identity] = folder
            path = self._kept.whole(recipe.transfer_file(other, neurons))
            tasks: list[Task] = []
            read.transfer[other.identity] = path
            if checked.marker_of(path) in stored:
                done += 1
            else:
                name, label = f"transfer-{other.short}", f"descriptions in {other.name}"
                tasks.append(Task(name, label, "transfer", (other, path, wanted), tokens=sampled))
            for shard in row_shards(len(read.rows), plan.context):
                if checked.marker_of(partners_file(folder, shard)) in stored:
                    done += 1
                    continue
                name = f"partners-{shard.index}-{other.short}"
                told = (other, shard, read.rows, folder, wanted)
                length = float((shard.stop - shard.start) * plan.context)
                label = f"partners in {other.name}, shard {shard.index}"
                tasks.append(Task(name, label, "partners", told, tokens=length))
            by_model.append(tasks)
        beside = [
            task
            for first in range(0, len(by_model), workers)
            for some in zip_longest(*by_model[first : first + workers])
            for task in some
            if task is not None
        ]
        return Batch("partners", beside, done)

    def finished(self, task: Task, result: Any) -> Sequence[Task]:
        return ()

    def end(self) -> None:
        finished.Draft(self.store, self.name, self.fingerprint).swap_in()
        self._kept.drop_others()
