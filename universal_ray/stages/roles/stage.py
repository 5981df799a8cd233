"""The stage of the roles: scores from weights, responses to tokens, interventions, tables."""

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

from universal_ray.errors import MissingError
from universal_ray.maths.roles.frequency import unigram
from universal_ray.planning.capacity import worker_memory
from universal_ray.planning.items import Model, marker
from universal_ray.planning.shards import layer_groups
from universal_ray.runtime.task import Batch, Task, call
from universal_ray.stages.assignment import assign
from universal_ray.stages.inputs import Inputs, Outline
from universal_ray.stages.profile import artifacts as profile
from universal_ray.stages.profile.artifacts import Bank
from universal_ray.stages.roles.artifacts import (
    FOLDER,
    classes_key,
    shard_folder,
    stand,
    tables_fingerprint,
)
from universal_ray.stages.roles.declare import Declaration, declare, universal, universality
from universal_ray.stages.roles.plan import describe, make_plan
from universal_ray.stages.roles.prepare import prepare
from universal_ray.stages.roles.scores import score_weights
from universal_ray.stages.roles.summary import assemble
from universal_ray.stages.roles.worker import RolesAssignment, RolesWorker
from universal_ray.storage import checked, finished
from universal_ray.storage.store import Store

LABELS = {"intervene": "interventions on", "ablate": "paths of"}
"""For people, by the worker's method."""


class RolesStage:
    """Scores of every model; then responses by layers; then interventions by shard; then tables."""

    name = finished.ROLES
    worker: type = RolesWorker

    def __init__(self, inputs: Inputs, store: Store):
        self.inputs, self.store = inputs, store
        self.recipe = prepare(inputs, store)
        self.fingerprint = tables_fingerprint(inputs, store)
        self._folders: set[str] = set()

    @staticmethod
    def describe(found: Outline, store: Store) -> list[tuple[str, str]]:
        """The plan as rows of a table on screen."""
        tokens = profile.profile(found, store).tokens
        return describe(make_plan(found), found.study.roles, tokens)

    @cached_property
    def _bank(self) -> Bank:
        return self.recipe.profile.read_bank(self.store)

    def begin(self) -> RolesAssignment | None:
        """Raises MissingError where the profile is not there, ConfigurationError where its tokens
        have no frequency that differs.
        """
        store, inputs = self.store, self.inputs
        if not profile.stand(inputs, store):
            raise MissingError(
                f"{store.url} holds no profile of its neurons that is whole and of these options: "
                "make it first, by stages=[profile] with the same options"
            )
        if stand(inputs, store):
            return None
        unigram(self._bank.counts_V)
        return assign(
            RolesAssignment,
            inputs,
            store,
            sites=inputs.site.pair(),
            excluded=self.recipe.excluded,
            recipe=self.recipe,
        )

    def batches(self, memory: list[tuple[str, float]]) -> Iterator[Batch]:
        recipe, plan = self.recipe, self.recipe.plan
        models = list(dict.fromkeys(plan.models))
        stored = self._stored()
        scores = [
            call(score_weights, f"scores-{model.short}", recipe, model, source)
            for model in models
            if checked.marker_of(self._stands(recipe.scores_file(model))) not in stored
            for source in [self.inputs.sources[model.identity]]
        ]
        yield Batch("role scores", scores, len(models) - len(scores))
        yield Batch("responses", self._responses(memory, models))
        declarations = {model.name: self._declared(model) for model in plan.intervened}
        yield self._interventions(declarations)
        told = (recipe, declarations, self.fingerprint)
        yield Batch("tables", [call(assemble, "tables-of-roles", *told)])

    def _stored(self) -> set[str]:
        return set(self.store.list(FOLDER))

    def _stands(self, path: str) -> str:
        """Of a file, or a folder of one model, that these options make: it stays."""
        self._folders.add("/".join(path.split("/")[:2]))
        return path

    def _responses(self, memory: list[tuple[str, float]], models: Sequence[Model]) -> list[Task]:
        """As many layers to a task as fit, and no more than leave work for all workers."""
        recipe, stored = self.recipe, self._stored()
        bytes_each = worker_memory(memory, self.inputs.study.cluster)
        vocabulary, footprint = recipe.profile.vocabulary, self.inputs.footprint
        tasks = []
        for model in models:
            scores = recipe.read_scores(self.store, model)
            classes = classes_key(scores, self._bank.membership_VF)
            for layers in layer_groups(model, vocabulary, memory=bytes_each, footprint=footprint):
                paths = [
                    self._stands(recipe.responses_file(model, classes, layer))
                    for layer in range(layers.start, layers.stop)
                ]
                if not stored.issuperset(map(checked.marker_of, paths)):
                    name = f"respond-{model.short}-{layers.start}"
                    label = f"responses of {model.name}"
                    tasks.append(Task(name, label, "respond", (model, layers)))
        return tasks

    def _declared(self, model: Model) -> Declaration:
        """What is done to a model. Small: scores of it, and a few of its statistics."""
        recipe, store = self.recipe, self.store
        return declare(
            recipe.read_scores(store, model),
            recipe.read_activations(store, model).mean_N,
            universal(universality(store, model)),
            model.width,
            recipe.options,
        )

    def _interventions(self, declarations: dict[str, Declaration]) -> Batch:
        """By folder, since the same may be declared of a model at two revisions."""
        recipe, plan = self.recipe, self.recipe.plan
        wanted: dict[str, tuple[str, tuple[Any, ...]]] = {}
        for model in plan.intervened:
            declared = declarations[model.name]
            effects = recipe.effects_folder(model, declared.done, self._bank.counts_V)
            paths = recipe.paths_folder(model, declared.paths)
            for shard in plan.shards:
                done = (model, shard, declared.done, self._stands(effects))
                wanted[shard_folder(effects, shard)] = ("intervene", done)
                if declared.paths:
                    cut = (model, shard, declared.paths, self._stands(paths))
                    wanted[shard_folder(paths, shard)] = ("ablate", cut)
        tasks: list[Task] = []
        for folder, (method, arguments) in wanted.items():
            model, shard, *_ = arguments
            if checked.told(self.store, marker(folder)).get("of") == recipe.of(model, shard):
                continue
            name = f"{method}-{len(tasks)}-{model.short}"
            label = f"{LABELS[method]} {model.name}, shard {shard.index}"
            tokens = float((shard.stop - shard.start) * plan.context)
            tasks.append(Task(name, label, method, arguments, tokens=tokens))
        return Batch("interventions", tasks, len(wanted) - len(tasks))

    def finished(self, task: Task, result: Any) -> Sequence[Task]:
        return ()

    def end(self) -> None:
        finished.Draft(self.store, self.name, self.fingerprint).swap_in()
        for path in self.store.list(FOLDER):
            if "/".join(path.split("/")[:2]) not in self._folders:
                self.store.delete(path)
