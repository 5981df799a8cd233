"""The stage of the roles: scores from weights, responses to tokens, interventions, tables."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from universal_ray.config.hashing import fingerprint
from universal_ray.corpus.rows import TokenCorpus, excluded_ids
from universal_ray.errors import ConfigurationError, MissingError
from universal_ray.maths.roles.frequency import unigram
from universal_ray.models.decoder import ARCHITECTURES
from universal_ray.models.site import Ask
from universal_ray.planning.capacity import worker_memory
from universal_ray.planning.items import Model, marker
from universal_ray.planning.shards import layer_groups
from universal_ray.runtime.task import Batch, Task, call
from universal_ray.stages.profile.stage import PreparedProfile, ProfileStage
from universal_ray.stages.roles.assemble import (
    assemble_roles,
    shard_folder,
    statistics,
    universal,
    universality,
)
from universal_ray.stages.roles.declare import Declaration, declare
from universal_ray.stages.roles.plan import FOLDER, MEANING, RolesOrder, role_shards
from universal_ray.stages.roles.scores import score_weights
from universal_ray.stages.roles.worker import RolesAssignment, RolesWorker
from universal_ray.storage import checked, finished
from universal_ray.storage.store import Store

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PreparedRoles:
    """What the roles of a study are told from, all of it found and fitting together."""

    profile: PreparedProfile
    order: RolesOrder

    def describe(self) -> list[tuple[str, str]]:
        """The plan as rows of a table on screen."""
        order, options = self.order, self.order.options
        intervened = sum(model.identity not in order.untouched for model in order.references)
        neurons = 2 * options.candidates + options.controls
        most = 1 + neurons * (len(options.sweep) + 3)
        tokens = order.shards[-1].stop * order.profile.plan.context
        return [
            ("roles", f"of {sum(m.neurons for m in order.models):,} neurons, from weights and "
             f"{order.profile.plan.tokens:,} tokens"),
            ("interventions", f"on {intervened} model{'s' if intervened != 1 else ''}: up to "
             f"{most:,} on single neurons, the universal ones ablated beside {options.sets} random "
             f"sets, {options.paths} paths; {tokens:,} tokens in {len(order.shards)} shards"),
        ]  # fmt: skip


def prepare_roles(profile: PreparedProfile, store: Store) -> PreparedRoles:
    """Everything that can be wrong with the roles, found before any model runs.

    Raises ConfigurationError for options that do not fit the corpus, ModelError for units that have
    no roles.
    """
    inputs, study = profile.inputs, profile.inputs.study
    inputs.site.check_has(Ask.roles)
    options, context = study.roles, inputs.context
    rows = min(-(-options.tokens // context), inputs.rows)
    if rows < 2:
        raise ConfigurationError(
            f"roles.tokens ({options.tokens}) is less than two rows of {context} tokens, and one "
            "row has no spread: raise it"
        )
    unigram(torch.from_numpy(profile.counts_V))
    untouched = {}
    for source in inputs.sources.values():
        if source.kind not in ARCHITECTURES:
            untouched[source.identity] = (
                f"models of type {source.kind} are not intervened on, nor their attention read: "
                f"interventions know {' and '.join(ARCHITECTURES)}"
            )
    bos, no_bos = _begin(inputs.tokenizer, inputs.corpus, rows)
    for reason in sorted({*untouched.values(), *([no_bos] if no_bos else [])}):
        log.warning("not measured: %s", reason)
    special = excluded_ids("special", inputs.tokenizer)
    order = RolesOrder(
        profile=ProfileStage(profile, store).order,
        references=inputs.references,
        untouched=untouched,
        shards=role_shards(rows, context),
        counts_V=profile.counts_V,
        bos=bos,
        no_bos=no_bos,
        excluded=tuple(sorted({*special, *profile.excluded})),
        options=options,
        device=study.cluster.device.value,
    )
    return PreparedRoles(profile, order)


def _begin(tokenizer: Any, corpus: TokenCorpus, rows: int) -> tuple[int | None, str | None]:
    """The id that rows are to begin with, as `tokenise` has it, and why they do not, if so."""
    bos = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    if bos is None:
        return None, "the tokenizer has no token that begins a text"
    other = int((corpus.read(0, rows)[:, 0] != bos).sum())
    if other == 0:
        return bos, None
    return bos, (
        f"{other:,} of the {rows:,} rows for interventions do not begin with the token that begins "
        f"a text (id {bos})"
    )


class RolesStage:
    """Scores of every model; then responses by layers; then interventions by shard; then tables."""

    name = finished.ROLES
    worker: type = RolesWorker

    def __init__(self, found: PreparedRoles, store: Store):
        self.found, self.order, self.store = found, found.order, store
        self._profile = ProfileStage(found.profile, store)

    @property
    def fingerprint(self) -> str:
        """Of all that the tables are made from."""
        order = self.order
        return fingerprint(
            [self._profile.fingerprint, order.scores_path(order.models[0]),
             [vars(shard) for shard in order.shards], list(order.excluded)]
        )

    def begin(self) -> RolesAssignment | None:
        """Raises MissingError where the profile is not there."""
        store, order = self.store, self.order
        profile = self.found.profile
        inputs, study = profile.inputs, profile.inputs.study
        if not self._profile.stands():
            raise MissingError(
                f"{store.url} holds no profile of its neurons that is whole and of these options: "
                "make it first, by stages=[profile] with the same options"
            )
        if finished.stand(store, self.name, self.fingerprint):
            return None
        self._folders: set[str] = set()
        return RolesAssignment(
            store_url=store.url,
            nonce=store.write_nonce(),
            corpus=inputs.corpus,
            sources=inputs.sources,
            excluded=order.excluded,
            sites=inputs.site.pair(),
            dtype=study.models.dtype.value,
            batch_rows=inputs.batch_rows,
            threads=study.cluster.threads,
            device=study.cluster.device.value,
            order=order,
        )

    def batches(self, memory: list[tuple[str, float]]) -> Iterator[Batch]:
        order, stored = self.order, set(self.store.list(FOLDER))
        profile = self.found.profile
        sources = profile.inputs.sources
        scores = [
            call(score_weights, f"scores-{model.short}", order, model, sources[model.identity])
            for model in dict.fromkeys(order.models)
            if checked.marker_of(order.scores_path(model)) not in stored
        ]
        yield Batch("role scores", scores, len(set(order.models)) - len(scores))
        yield self._responses(memory, stored)
        declarations = {
            model.name: self._declared(model)
            for model in order.references
            if model.identity not in order.untouched
        }
        wanted = {  # by folder: the same may be declared of a model at two revisions
            shard_folder(folder, shard.index): (model, shard, declared)
            for model in order.references
            if model.name in declarations
            for declared, folder in [declarations[model.name]]
            for shard in order.shards
        }
        plan = order.profile.plan
        left = {
            folder: each
            for folder, each in wanted.items()
            if checked.told(self.store, marker(folder)).get("of") != plan.of(each[0])
        }
        tasks = [
            Task(
                f"intervene-{place}-{model.short}",
                f"interventions on {model.name}, shard {shard.index}",
                "intervene",
                (model, shard, declared, folder),
                tokens=float((shard.stop - shard.start) * order.profile.plan.context),
            )
            for place, (folder, (model, shard, declared)) in enumerate(left.items())
        ]
        yield Batch("interventions", tasks, len(wanted) - len(tasks))
        told = (order, declarations, profile.vocabulary, self.fingerprint)
        yield Batch("tables", [call(assemble_roles, "tables-of-roles", *told)])

    def _responses(self, memory: list[tuple[str, float]], stored: set[str]) -> Batch:
        """As many layers to a task as fit, and no more than leave work for all workers."""
        order = self.order
        inputs = self.found.profile.inputs
        bytes_each = worker_memory(memory, inputs.study.cluster)
        tasks = []
        for model in dict.fromkeys(order.models):
            for layers in layer_groups(
                model, order.profile.plan.vocabulary, memory=bytes_each, footprint=inputs.footprint
            ):
                paths = [
                    order.responses_path(model, layer)
                    for layer in range(layers.start, layers.stop)
                ]
                if not stored.issuperset(map(checked.marker_of, paths)):
                    name = f"respond-{model.short}-{layers.start}"
                    label = f"responses of {model.name}"
                    tasks.append(Task(name, label, "respond", (model, layers)))
        self._folders |= {
            order.responses_path(model, 0).rsplit("/", 2)[0] for model in order.models
        }
        return Batch("responses", tasks)

    def _declared(self, model: Model) -> tuple[Declaration, str]:
        """What is done to a model, and where its sums go: the same choice leads to the same place.

        Small: scores of one model, and a few of its statistics.
        """
        order, store = self.order, self.store
        scores = checked.get_tensors(store, order.scores_path(model))
        means_N = statistics(store, order, model)["post_mean"]
        universal_N = universal(universality(store, model))
        found = declare(scores, means_N, universal_N, model.width, order.options)
        plan = order.profile.plan
        units = [
            unit.name
            for unit in self.found.profile.inputs.layout.units
            if unit.start < order.shards[-1].stop
        ]
        decided = [
            found.key, units, [vars(shard) for shard in order.shards], plan.context,
            list(order.excluded), order.counts_V.tolist(), order.device, MEANING,
        ]  # fmt: skip
        folder = f"{FOLDER}/effects-{fingerprint(decided)[:12]}"
        self._folders.add(folder)
        return found, f"{folder}/{model.short}"

    def finished(self, task: Task, result: Any) -> Sequence[Task]:
        return ()

    def end(self) -> None:
        finished.Draft(self.store, self.name, self.fingerprint).swap_in()
        self._folders.add(self.order.scores_path(self.order.models[0]).rsplit("/", 1)[0])
        for path in self.store.list(FOLDER):
            if not path.startswith(tuple(self._folders)):
                self.store.delete(path)
