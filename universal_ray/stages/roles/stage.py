"""The stage of the roles: scores from weights, responses to tokens, interventions, tables."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

from universal_ray.config.study import RolesConfig
from universal_ray.maths.roles.frequency import unigram
from universal_ray.models.interventions import by_neurons
from universal_ray.planning.capacity import worker_memory
from universal_ray.planning.costs import Cost
from universal_ray.planning.items import Model
from universal_ray.planning.shards import Shard, layer_groups
from universal_ray.runtime.measure import expected_memory, forecast
from universal_ray.runtime.progress import Forecast
from universal_ray.runtime.task import Batch, Task, call
from universal_ray.stages.assignment import assign, check_made
from universal_ray.stages.inputs import Inputs, Outline
from universal_ray.stages.profile import artifacts as profile
from universal_ray.stages.profile.artifacts import Bank
from universal_ray.stages.roles.artifacts import (
    FOLDER,
    classes_key,
    group_key,
    path_key,
    piece_folder,
    pieces,
    stand,
    tables_fingerprint,
)
from universal_ray.stages.roles.declare import Declaration, declare, universal, universality
from universal_ray.stages.roles.plan import (
    Left,
    RolesPlan,
    cost,
    describe,
    make_plan,
    single,
)
from universal_ray.stages.roles.prepare import prepare
from universal_ray.stages.roles.scores import score_weights
from universal_ray.stages.roles.summary import assemble
from universal_ray.stages.roles.worker import RolesAssignment, RolesWorker
from universal_ray.storage import checked, finished
from universal_ray.storage.kept import Kept
from universal_ray.storage.store import Store

LABELS = {"intervene": "interventions on", "ablate": "paths of"}
"""For people, by the worker's method."""


def what_is_left(plan: RolesPlan, options: RolesConfig, store: Store) -> Left:
    """Told from names, and from what is done on the first shard."""
    stored, models = set(store.list(FOLDER)), list(dict.fromkeys(plan.models))

    def lacking(kind: str, files: int) -> tuple[Model, ...]:
        begin = f"{FOLDER}/{kind}-"
        paths = [path for path in stored if path.startswith(begin) and path.endswith(".json")]
        return tuple(m for m in models if sum(m.short in p for p in paths) < (files or m.layers))

    most = 1 + single(plan, options) + 2 * (1 + options.sets) * (1 + plan.models[0].layers)
    there = sum(
        count
        for path in stored
        if re.match(rf"{FOLDER}/effects-.*/shard-000-.*/done\.json$", path)
        for _, count in checked.told(store, path).get("groups", ())
    )
    share = max(0.0, 1 - there / (most * max(1, len(plan.intervened))))
    return Left(scores=lacking("scores", 1), responses=lacking("responses", 0), interventions=share)


def _weighed(tasks: Sequence[Task]) -> list[float]:
    """Tokens of each, that add up to those of its shard: by how much is done to the model there."""
    many: Counter[Any] = Counter()
    for task in tasks:
        model, shard, what, *_ = task.arguments
        many[model, shard] += len(what)
    return [task.tokens * len(task.arguments[2]) / many[task.arguments[:2]] for task in tasks]


class RolesStage:
    """Scores of every model; then responses by layers; then interventions by shard; then tables."""

    name = finished.ROLES
    worker: type = RolesWorker

    def __init__(self, inputs: Inputs, store: Store):
        self.inputs, self.store = inputs, store
        self.recipe = prepare(inputs, store)
        self.fingerprint = tables_fingerprint(inputs, store)
        self._kept = Kept(store, FOLDER)

    @staticmethod
    def describe(found: Outline, store: Store) -> list[tuple[str, str]]:
        """The plan as rows of a table on screen."""
        tokens = profile.profile(found, store).tokens
        return describe(make_plan(found), found.study.roles, tokens)

    @staticmethod
    def cost(found: Outline, store: Store) -> Cost:
        """What it takes, of what is left of it by the names of what is there: which neurons are
        intervened on is not known before they are.
        """
        plan, recipe = make_plan(found), profile.profile(found, store)
        memory = expected_memory(found.study.cluster)
        left = None if stand(found, store) else what_is_left(plan, found.study.roles, store)
        return cost(plan, found, recipe, memory, left)

    def forecast(self) -> Forecast:
        return forecast(self.cost(self.inputs, self.store), self.inputs.study, self.store)

    @cached_property
    def _bank(self) -> Bank:
        return self.recipe.profile.read_bank(self.store)

    def begin(self) -> RolesAssignment | None:
        """Raises MissingError where the profile is not there, ConfigurationError where its tokens
        have no frequency that differs.
        """
        store, inputs = self.store, self.inputs
        check_made(store, finished.PROFILE, profile.stand(inputs, store), before=self.name)
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
            if checked.marker_of(self._kept.whole(recipe.scores_file(model))) not in stored
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
                    self._kept.whole(recipe.responses_file(model, classes, layer))
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
        recipe = self.recipe
        declared: dict[tuple[str, str], tuple[Model, dict[str, tuple[Any, ...]]]] = {}
        for model in recipe.plan.intervened:
            told = declarations[model.name]
            effects = {group_key(group): group for group in by_neurons(told.done)}
            paths = {path_key(path): (path,) for path in told.paths}
            for method, folder, of_model in (
                ("intervene", recipe.effects_folder(model, self._bank.counts_V), effects),
                ("ablate", recipe.paths_folder(model), paths),
            ):
                _, groups = declared.setdefault((method, folder), (model, {}))
                groups |= of_model
        wanted: dict[str, Task | None] = {}  # None: it is there
        for (method, folder), (model, groups) in declared.items():
            if groups:
                wanted |= self._pieces(method, folder, model, groups)
        left = [task for task in wanted.values() if task]
        tasks = [
            replace(task, name=f"{task.name}-{place}", tokens=tokens)
            for place, (task, tokens) in enumerate(zip(left, _weighed(left), strict=True))
        ]
        return Batch("interventions", tasks, len(wanted) - len(tasks))

    def _pieces(
        self, method: str, folder: str, model: Model, groups: dict[str, tuple[Any, ...]]
    ) -> dict[str, Task | None]:
        """What some shards lack of the groups is one more piece of each of these."""
        recipe, wanted = self.recipe, dict[str, Task | None]()
        there = pieces(self.store, recipe, folder, model, self._stored())
        for shard in recipe.plan.shards:
            held = {key: piece for key, (piece, _) in there[shard.index].items() if key in groups}
            for piece in held.values():
                self._kept.piece(piece)
            new = {key: group for key, group in groups.items() if key not in held}
            place = self._kept.piece(piece_folder(folder, shard, list(new)))
            done = tuple(each for group in new.values() for each in group)
            wanted[place] = self._task(method, model, shard, done, place) if new else None
        return wanted

    def _task(self, method: str, model: Model, shard: Shard, *what: Any) -> Task:
        label = f"{LABELS[method]} {model.name}, shard {shard.index}"
        tokens = float((shard.stop - shard.start) * self.recipe.plan.context)
        name = f"{method}-{model.short}"
        return Task(name, label, method, (model, shard, *what), tokens=tokens)

    def finished(self, task: Task, result: Any) -> Sequence[Task]:
        return ()

    def end(self) -> None:
        finished.Draft(self.store, self.name, self.fingerprint).swap_in()
        self._kept.drop_others()
