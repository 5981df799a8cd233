"""The stage of the profile: statistics of neurons, scores of features, families and tables."""

from collections.abc import Iterator, Sequence
from typing import Any

from universal_ray.features.bank import choose
from universal_ray.features.vocabulary import read_vocabulary
from universal_ray.planning.capacity import worker_memory
from universal_ray.planning.costs import Cost
from universal_ray.planning.items import Model, marker
from universal_ray.planning.shards import Shard, layer_groups
from universal_ray.runtime.measure import forecast
from universal_ray.runtime.progress import Forecast
from universal_ray.runtime.task import Batch, Task, call
from universal_ray.stages.assignment import assign, check_made
from universal_ray.stages.correlations import artifacts as correlations
from universal_ray.stages.inputs import Inputs, Outline
from universal_ray.stages.profile.artifacts import stand, tables_fingerprint
from universal_ray.stages.profile.bank import bank_options, make_bank, make_topics
from universal_ray.stages.profile.plan import cost, describe
from universal_ray.stages.profile.prepare import make_plan, prepare
from universal_ray.stages.profile.reduce import reduce_layer, reduce_weights
from universal_ray.stages.profile.summary import assemble
from universal_ray.stages.profile.worker import ProfileAssignment, ProfileWorker
from universal_ray.storage import checked, finished
from universal_ray.storage.store import Store


class ProfileStage:
    """The bank of features and each shard's labels once, then every model over every shard; then
    scores and tables.
    """

    name = finished.PROFILE
    worker: type = ProfileWorker

    def __init__(self, inputs: Inputs, store: Store):
        self.inputs, self.store = inputs, store
        self.recipe = prepare(inputs, store)
        self.fingerprint = tables_fingerprint(inputs, store)

    @staticmethod
    def describe(found: Outline, store: Store) -> list[tuple[str, str]]:
        """The plan as rows of a table on screen."""
        plan = make_plan(found, store)
        bank = checked.marker_of(plan.recipe.bank_file)
        return describe(plan, checked.told(store, bank).get("features"), found.site.unit)

    @staticmethod
    def cost(found: Outline, store: Store) -> Cost:
        """What it takes, of what is left of it by the names of what is there."""
        plan, stored = make_plan(found, store), set(store.list("profile"))
        left = [
            (model, shard)
            for model in dict.fromkeys(plan.recipe.models)
            for shard in plan.recipe.shards
            if marker(plan.recipe.shard_folder(model, shard)) not in stored
        ]
        unscored = [
            (model, layer)
            for model, layer in plan.recipe.layers
            if checked.marker_of(plan.recipe.layer_file(model, layer)) not in stored
        ]
        return cost(plan, left, unscored, done=stand(found, store))

    def forecast(self) -> Forecast:
        return forecast(self.cost(self.inputs, self.store), self.inputs.study, self.store)

    def begin(self) -> ProfileAssignment | None:
        """Raises MissingError where the correlations are not there."""
        store, inputs = self.store, self.inputs
        made = correlations.stand(inputs, store)
        check_made(store, finished.CORRELATIONS, made, before=self.name)
        if stand(inputs, store):
            return None
        self._assignment = assign(
            ProfileAssignment,
            inputs,
            store,
            sites=inputs.site.pair(),
            excluded=self.recipe.excluded,
            recipe=self.recipe,
            vocabulary=read_vocabulary(inputs.tokenizer, inputs.vocabulary),
            chosen=choose(bank_options(inputs.study.taxonomy)),
        )
        return self._assignment

    def batches(self, memory: list[tuple[str, float]]) -> Iterator[Batch]:
        recipe, inputs, stored = self.recipe, self.inputs, set(self.store.list("profile"))
        models = dict.fromkeys(recipe.models)

        def missing(path: str) -> bool:
            return checked.marker_of(path) not in stored

        left = self._left(stored)
        labels = [
            Task(f"label-{shard.index}", f"labels of shard {shard.index}", "label", (shard,))
            for shard in recipe.shards
            if missing(recipe.labels_file(shard))
        ]
        shifts = [
            Task(f"shift-{model.short}", f"shift of {model.name}", "shift", (model,))
            for model in dict.fromkeys(model for model, _ in left)
            if missing(recipe.shift_file(model))
        ]
        weights = [
            call(reduce_weights, f"weights-{m.short}", recipe, m, inputs.sources[m.identity])
            for m in models
            if recipe.weightless is None and missing(recipe.weights_file(m))
        ]
        no_bank = missing(recipe.bank_file)
        topics = [self._topics()] if missing(recipe.topics_file) and (labels or no_bank) else []
        yield Batch("topics and weights", [*topics, *shifts, *weights])
        yield Batch("features and labels", [*([self._bank()] if no_bank else []), *labels])
        left = self._left(stored)
        bytes_each = worker_memory(memory, inputs.study.cluster)
        groups = {
            model: layer_groups(
                model, recipe.vocabulary, memory=bytes_each, footprint=inputs.footprint,
                more=recipe.histogram_bytes,
            )
            for model, _ in left
        }
        sums = [
            Task(
                f"profile-{shard.index}-{model.short}",
                f"shard {shard.index} of {model.name}",
                "profile",
                (model, shard, groups[model]),
                tokens=float((shard.stop - shard.start) * recipe.context),
            )
            for model, shard in left
        ]
        yield Batch("statistics", sums, len(models) * len(recipe.shards) - len(sums))
        scores = [
            call(reduce_layer, f"scores-{model.short}-{layer}", recipe, model, layer)
            for model, layer in recipe.layers
            if missing(recipe.layer_file(model, layer))
        ]
        yield Batch("scores", scores, len(recipe.layers) - len(scores))
        told = (recipe, inputs.references, inputs.study.taxonomy.features, inputs.corpus)
        yield Batch("tables", [call(assemble, "tables-of-profile", *told, self.fingerprint)])

    def _topics(self) -> Task:
        inputs, vocabulary = self.inputs, self._assignment.vocabulary
        told = (self.recipe, inputs.corpus, vocabulary, inputs.study.taxonomy.topics)
        return call(make_topics, "topics", *told)

    def _bank(self) -> Task:
        inputs, told = self.inputs, self._assignment
        source = inputs.sources[self.recipe.models[0].identity]
        options = bank_options(inputs.study.taxonomy)
        bank = (self.recipe, inputs.corpus, told.vocabulary, options, told.chosen, source)
        return call(make_bank, "features", *bank)

    def _left(self, stored: set[str]) -> list[tuple[Model, Shard]]:
        """Shards without sums, or whose sums are of something else by their own word, or of a shift
        that was made anew and is another; a model's follow each other, as a worker holds one model
        at a time.
        """
        recipe, store = self.recipe, self.store

        def stale(model: Model, shard: Shard) -> bool:
            path = marker(recipe.shard_folder(model, shard))
            if path not in stored:
                return True
            told = checked.told(store, path)
            shift = checked.checksum(store, recipe.shift_file(model))
            return told.get("of") != recipe.of(model) or shift not in (None, told.get("shift"))

        return [
            (model, shard)
            for model in dict.fromkeys(recipe.models)
            for shard in recipe.shards
            if stale(model, shard)
        ]

    def finished(self, task: Task, result: Any) -> Sequence[Task]:
        return ()

    def end(self) -> None:
        finished.Draft(self.store, self.name, self.fingerprint).swap_in()
        kept = tuple(f"{folder}/" for folder in self.recipe.folders)
        for path in self.store.list("profile"):
            if not path.startswith(kept):
                self.store.delete(path)
