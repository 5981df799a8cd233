"""The stage of the profile: statistics of neurons, scores of features, families and tables."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from universal_ray.config.hashing import fingerprint
from universal_ray.config.study import plain
from universal_ray.corpus.rows import TokenCorpus, count_kept, excluded_ids
from universal_ray.errors import ConfigurationError, MissingError
from universal_ray.features.bank import BankOptions, FeatureBank, feature_bank
from universal_ray.features.families import FamilyOptions, neuron_family
from universal_ray.features.features import TokenRows
from universal_ray.features.semantics import Topics, find_topics
from universal_ray.features.vocabulary import Vocabulary, read_vocabulary
from universal_ray.models.site import Ask
from universal_ray.models.weights import embedding_norms
from universal_ray.planning.capacity import GIB, size, worker_memory
from universal_ray.planning.items import Model, marker
from universal_ray.planning.shards import VERSION, Shard, layer_groups, make_shards
from universal_ray.runtime.measure import expected_memory
from universal_ray.runtime.task import Batch, Task, call
from universal_ray.stages.correlations import artifacts as correlations
from universal_ray.stages.inputs import Inputs
from universal_ray.stages.profile.assemble import Texts, assemble_profile
from universal_ray.stages.profile.plan import PAPER_TOKENS, ProfilePlan
from universal_ray.stages.profile.reduce import (
    WEIGHTS_FOLDER,
    ProfileOrder,
    reduce_layer,
    reduce_weights,
)
from universal_ray.stages.profile.worker import ProfileAssignment, ProfileWorker
from universal_ray.storage import checked, finished
from universal_ray.storage.store import Store

TOPIC_TOKENS = 2_000_000
"""Tokens that topics are found in, the first of the corpus."""
ROWS = 4096


@dataclass(frozen=True)
class PreparedProfile:
    """What the profile of a study is made of, all of it found and fitting together."""

    inputs: Inputs
    plan: ProfilePlan
    vocabulary: Vocabulary
    bank: FeatureBank
    counts_V: np.ndarray
    """how often the corpus has each id where it can be predicted: in no row's first place"""
    excluded: tuple[int, ...]
    topics_folder: str
    topics: Topics

    def describe(self) -> list[tuple[str, str]]:
        """The plan as rows of a table on screen."""
        plan, bank = self.plan, self.bank
        ids, rows = len(bank.id_features), len(bank.row_columns())
        held, size_V = self.inputs, plan.vocabulary
        memory = expected_memory(held.study.cluster)
        groups = max(
            len(layer_groups(m, size_V, memory=memory, footprint=held.footprint))
            for m in plan.models
        )
        return [
            ("profile", f"{len(plan.models)} models, {sum(m.neurons for m in plan.models):,} "
             f"neurons, {plan.tokens:,} tokens in {len(plan.shards)} shards"),
            ("features", f"{ids} of the token id, each on two tokens, and {rows} of the row"),
            ("sums", f"{size(plan.bytes)} on disk; {groups} reading{'s' if groups > 1 else ''} of "
             "each shard"),
        ]


def prepare_profile(inputs: Inputs, store: Store) -> PreparedProfile:
    """Everything that can be wrong with the profile, found before any model runs.

    Raises ConfigurationError for options that do not fit the corpus or the workers' memory,
    ModelError for units that have no such profile.
    """
    study, corpus = inputs.study, inputs.corpus
    inputs.site.check_has(Ask.token_statistics, Ask.weights, Ask.pre_activation)
    options = study.taxonomy
    rows = inputs.rows
    wanted = options.tokens or min(PAPER_TOKENS, rows * corpus.context)
    rows = min(rows, -(-wanted // corpus.context))
    excluded = excluded_ids(options.exclude.value, inputs.tokenizer)
    if count_kept(corpus, excluded, start=0, stop=rows) == 0:
        raise ConfigurationError(
            f"taxonomy.exclude={options.exclude.value} leaves no token of the first {rows} rows of "
            f"{corpus.path}: exclude fewer"
        )
    vocabulary = read_vocabulary(inputs.tokenizer, inputs.vocabulary)
    content = [unit.name for unit in inputs.layout.units if unit.start < rows]
    # What a token says and what a row is from: labels are made of them beside the ids.
    said = [inputs.tokenizer_identity, len(vocabulary), corpus.subsets_hash(0, rows)]
    topics_folder, topics = _topics(inputs, store, vocabulary, rows, [content, said])
    subsets = tuple(sorted(set(corpus.subsets(0, rows) or ())))
    first_V, counts_V = _counts(corpus, rows, len(vocabulary))
    bank = feature_bank(
        vocabulary,
        first_V + counts_V,
        BankOptions(
            syntax=options.syntax,
            unigram_ids=options.unigram_ids,
            unigram_occurrences=options.unigram_occurrences,
            words=tuple(options.words),
        ),
        subsets=subsets,
        topics=topics,
        norm_V=embedding_norms(inputs.sources[inputs.everyone[0].identity], len(vocabulary)),
    )
    settings = study.cluster
    decided = [
        VERSION, inputs.bits, content, said, rows, plain(options.exclude), options.examples,
        [column.name for column in bank.row_columns()], _content(topics), options.syntax,
    ]  # fmt: skip
    plan = ProfilePlan(
        models=inputs.everyone,
        shards=make_shards(rows, inputs.batch_rows),
        context=corpus.context,
        vocabulary=len(vocabulary),
        subsets=subsets,
        examples=options.examples,
        sums_key=fingerprint(decided),
    )
    if settings.memory is not None:
        for model in plan.models:
            layer_groups(
                model, plan.vocabulary, memory=settings.memory * GIB, footprint=inputs.footprint
            )
    return PreparedProfile(
        inputs, plan, vocabulary, bank, counts_V, excluded, topics_folder, topics
    )


def _topics(
    inputs: Inputs, store: Store, vocabulary: Vocabulary, rows: int, content: list
) -> tuple[str, Topics]:
    """Topics as the run has them already, else found now: another machine might differ in bits."""
    count, corpus = inputs.study.taxonomy.topics, inputs.corpus
    rows = min(rows, -(-TOPIC_TOKENS // corpus.context))
    folder = f"profile/topics-{fingerprint([content, rows, count])[:12]}"
    receipt = checked.receipts(store, marker(folder)).get(_topics_file(folder))
    if receipt and store.verify(receipt):
        found = store.get_json(receipt.path)
        return folder, Topics(
            group_V=np.array(found["group_V"]),
            words=tuple(found["words"]),
            rarity_G=np.array(found["rarity_G"]),
            weights_KG=np.array(found["weights_KG"]),
        )  # fmt: skip
    return folder, find_topics(TokenRows(corpus.read(0, rows), vocabulary), count)


def _topics_file(folder: str) -> str:
    return f"{folder}/topics.json"


def _content(topics: Topics) -> dict[str, Any]:
    """Topics as they are stored."""
    return {
        "group_V": topics.group_V.tolist(),
        "words": list(topics.words),
        "rarity_G": topics.rarity_G.tolist(),
        "weights_KG": topics.weights_KG.tolist(),
    }


def _counts(corpus: TokenCorpus, rows: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """How often the corpus has each id in the first place of a row, and in all others.

    The first, BOS where the rows have one, is what no model is asked to predict.
    """
    first_V, counts_V = (np.zeros(size, dtype=np.int64) for _ in range(2))
    for start in range(0, rows, ROWS):
        tokens_BP = corpus.read(start, min(start + ROWS, rows))
        first_V += np.bincount(tokens_BP[:, 0], minlength=size)
        counts_V += np.bincount(tokens_BP[:, 1:].ravel(), minlength=size)
    return first_V, counts_V


class ProfileStage:
    """Each shard's labels once, then every model over every shard; then scores and tables."""

    name = finished.PROFILE
    worker: type = ProfileWorker

    def __init__(self, found: PreparedProfile, store: Store):
        study = found.inputs.study
        self.found, self.store = found, store
        self.order = ProfileOrder(
            store.url,
            found.plan,
            found.bank,
            study.taxonomy.convention.value,
            study.taxonomy.minimum_support,
        )
        self._correlations = correlations.tables_fingerprint(found.inputs, store)
        self._layers = [
            (model, layer)
            for model in dict.fromkeys(found.plan.models)
            for layer in range(model.layers)
        ]

    @property
    def fingerprint(self) -> str:
        """Of all that the tables are made from."""
        found = self.found
        return fingerprint(
            [self._correlations, self.order.layer_path(found.plan.models[0], 0),
             self.order.weights_path(found.plan.models[0]),
             found.inputs.study.taxonomy.features,
             vars(FamilyOptions()), [neuron_family(column) for column in self.order.columns]]
        )

    def stands(self) -> bool:
        """Whether the tables are there, and what later stages read beside them."""
        stored, order = set(self.store.list("profile")), self.order
        kept = [order.weights_path(model) for model in order.plan.models]
        kept += [order.layer_path(*layer) for layer in self._layers]
        return stored.issuperset(map(checked.marker_of, kept)) and finished.stand(
            self.store, self.name, self.fingerprint
        )

    def begin(self) -> ProfileAssignment | None:
        """Raises MissingError where the correlations are not there."""
        store, found = self.store, self.found
        inputs, study = found.inputs, found.inputs.study
        if not finished.stand(store, finished.CORRELATIONS, self._correlations):
            raise MissingError(
                f"{store.url} holds no tables of correlations that are whole and of these "
                "options: make them first, by stages=[correlations] with the same options"
            )
        if self.stands():
            return None
        path = _topics_file(found.topics_folder)
        receipt = store.put_json(path, _content(found.topics))
        checked.finish(store, marker(found.topics_folder), [receipt])
        return ProfileAssignment(
            store_url=store.url,
            nonce=store.write_nonce(),
            corpus=inputs.corpus,
            sources=inputs.sources,
            excluded=found.excluded,
            sites=inputs.site.pair(),
            dtype=study.models.dtype.value,
            batch_rows=inputs.batch_rows,
            threads=study.cluster.threads,
            device=study.cluster.device.value,
            plan=found.plan,
            vocabulary=found.vocabulary,
            bank=found.bank,
        )

    def batches(self, memory: list[tuple[str, float]]) -> Iterator[Batch]:
        found, order, stored = self.found, self.order, set(self.store.list("profile"))
        plan, study = found.plan, found.inputs.study
        left = self._left(stored)
        labels = [
            Task(f"label-{shard.index}", f"labels of shard {shard.index}", "label", (shard,))
            for shard in dict.fromkeys(shard for _, shard in left)
            if checked.marker_of(plan.labels_file(shard)) not in stored
        ]
        shifts = [
            Task(f"shift-{model.short}", f"shift of {model.name}", "shift", (model,))
            for model in dict.fromkeys(model for model, _ in left)
            if checked.marker_of(plan.shift_file(model)) not in stored
        ]
        weights = [
            call(reduce_weights, f"weights-{m.short}", order, m, found.inputs.sources[m.identity])
            for m in dict.fromkeys(plan.models)
            if checked.marker_of(order.weights_path(m)) not in stored
        ]
        yield Batch("labels and weights", [*labels, *shifts, *weights])
        left = self._left(stored)
        bytes_each = worker_memory(memory, study.cluster)
        footprint = found.inputs.footprint
        sums = [
            Task(
                f"profile-{shard.index}-{model.short}",
                f"shard {shard.index} of {model.name}",
                "profile",
                (
                    model,
                    shard,
                    layer_groups(model, plan.vocabulary, memory=bytes_each, footprint=footprint),
                ),
                tokens=float((shard.stop - shard.start) * plan.context),
            )
            for model, shard in left
        ]
        yield Batch("statistics", sums, len(set(plan.models)) * len(plan.shards) - len(sums))
        scores = [
            call(reduce_layer, f"scores-{model.short}-{layer}", order, model, layer)
            for model, layer in self._layers
            if checked.marker_of(order.layer_path(model, layer)) not in stored
        ]
        yield Batch("scores", scores, len(self._layers) - len(scores))
        texts = Texts(found.inputs.corpus, found.vocabulary)
        told = (order, found.inputs.references, study.taxonomy.features, texts)
        tables = call(assemble_profile, "tables-of-profile", *told, self.fingerprint)
        yield Batch("tables", [tables])

    def _left(self, stored: set[str]) -> list[tuple[Model, Shard]]:
        """Shards without sums, or whose sums are of something else by their own word, or of a shift
        that was made anew and is another.
        """
        plan, store = self.found.plan, self.store
        left = plan.missing(stored)
        now = {model: checked.checksum(store, plan.shift_file(model)) for model, _ in left}

        def stale(model: Model, shard: Shard) -> bool:
            told = checked.told(store, marker(plan.shard_folder(model, shard)))
            other = told.get("of") != plan.of(model)
            return other or (now.get(model) is not None and told.get("shift") != now[model])

        return [
            (model, shard)
            for model in dict.fromkeys(plan.models)
            for shard in plan.shards
            if (model, shard) in left or stale(model, shard)
        ]

    def finished(self, task: Task, result: Any) -> Sequence[Task]:
        return ()

    def end(self) -> None:
        found = self.found
        finished.Draft(self.store, self.name, self.fingerprint).swap_in()
        for path in self.store.list("profile"):
            if not path.startswith((found.plan.folder, found.topics_folder, WEIGHTS_FOLDER)):
                self.store.delete(path)
