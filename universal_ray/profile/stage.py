"""The stage of the profile: statistics of neurons, scores of features, families and tables."""

import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from universal_ray.capacity import GIB
from universal_ray.corpus import TokenCorpus, count_kept, excluded_ids
from universal_ray.correlation_stage import TABLES_MARKER, worker_memory
from universal_ray.errors import ConfigurationError, MissingError
from universal_ray.plan import size
from universal_ray.preflight import Prepared
from universal_ray.profile.assemble import PATHS, Texts, assemble_profile
from universal_ray.profile.plan import (
    PAPER_TOKENS,
    VERSION,
    ProfilePlan,
    layer_groups,
    make_shards,
)
from universal_ray.profile.reduce import WEIGHTS_FOLDER, ProfileOrder, reduce_layer, reduce_weights
from universal_ray.profile.worker import POST, PRE, ProfileAssignment, ProfileWorker
from universal_ray.scheduler import Batch, Task, call
from universal_ray.store import Store
from universal_ray.study import fingerprint, plain
from universal_ray.taxonomy.assign import FamilyOptions, neuron_family
from universal_ray.taxonomy.bank import BankOptions, FeatureBank, feature_bank
from universal_ray.taxonomy.features import TokenRows
from universal_ray.taxonomy.semantics import Topics, find_topics
from universal_ray.taxonomy.vocabulary import Vocabulary, read_vocabulary
from universal_ray.weights import embedding_norms

TOPIC_TOKENS = 2_000_000
"""Tokens that topics are found in, the first of the corpus."""
PROFILE_MARKER = "tables/profile.json"
ROWS = 4096


@dataclass(frozen=True)
class PreparedProfile:
    """What the profile of a study is made of, all of it found and fitting together."""

    prepared: Prepared
    plan: ProfilePlan
    vocabulary: Vocabulary
    bank: FeatureBank
    counts_V: np.ndarray
    """how often the corpus has each id where it can be predicted: in no row's first place"""
    excluded: tuple[int, ...]
    topics_path: str
    topics: Topics

    def describe(self) -> list[tuple[str, str]]:
        """The plan as rows of a table on screen."""
        plan, bank = self.plan, self.bank
        ids, rows = len(bank.id_features), len(bank.row_columns())
        held, size_V = self.prepared.plan, plan.vocabulary
        groups = max(
            len(layer_groups(m, size_V, held.memory, held.footprint)) for m in plan.models
        )
        return [
            ("profile", f"{len(plan.models)} models, {sum(m.neurons for m in plan.models):,} "
             f"neurons, {plan.tokens:,} tokens in {len(plan.shards)} shards"),
            ("features", f"{ids} of the token id, each on two tokens, and {rows} of the row"),
            ("sums", f"{size(plan.bytes)} on disk; {groups} reading{'s' if groups > 1 else ''} of "
             "each shard"),
        ]


def prepare_profile(prepared: Prepared, store: Store) -> PreparedProfile:
    """Everything that can be wrong with the profile, found before any model runs.

    Raises ConfigurationError for options that do not fit the corpus or the workers' memory.
    """
    study, corpus = prepared.study, prepared.corpus
    options = study.taxonomy
    rows = prepared.plan.layout.units[-1].stop
    wanted = options.tokens or min(PAPER_TOKENS, rows * corpus.context)
    rows = min(rows, -(-wanted // corpus.context))
    excluded = excluded_ids(options.exclude.value, prepared.tokenizer)
    if count_kept(corpus, excluded, 0, rows) == 0:
        raise ConfigurationError(
            f"taxonomy.exclude={options.exclude.value} leaves no token of the first {rows} rows of "
            f"{corpus.path}: exclude fewer"
        )
    sources = list(prepared.sources.values())
    # No token lies beyond the smallest of them, or it would not be every model's.
    vocabulary = read_vocabulary(prepared.tokenizer, min(source.vocabulary for source in sources))
    content = [unit.name for unit in prepared.plan.layout.units if unit.start < rows]
    # What a token says and what a row is from: labels are made of them beside the ids.
    said = [prepared.record["corpus"]["tokenizer"], len(vocabulary), corpus.subsets_hash(0, rows)]
    topics_path, topics = _topics(prepared, store, vocabulary, rows, [content, said])
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
        norm_V=embedding_norms(prepared.sources[prepared.plan.models[0].identity], len(vocabulary)),
    )
    settings = study.cluster
    decided = [
        VERSION, prepared.plan.bits, content, said, rows, plain(options.exclude), options.examples,
        [column.name for column in bank.row_columns()], topics_path, options.syntax,
    ]  # fmt: skip
    plan = ProfilePlan(
        models=prepared.plan.models,
        shards=make_shards(rows, prepared.plan.batch_rows),
        context=corpus.context,
        vocabulary=len(vocabulary),
        subsets=subsets,
        examples=options.examples,
        sums_key=fingerprint(decided),
    )
    if settings.memory is not None:
        for model in plan.models:
            layer_groups(
                model, plan.vocabulary, settings.memory * GIB, prepared.plan.footprint
            )
    return PreparedProfile(
        prepared, plan, vocabulary, bank, counts_V, excluded, topics_path, topics
    )


def _topics(
    prepared: Prepared, store: Store, vocabulary: Vocabulary, rows: int, content: list
) -> tuple[str, Topics]:
    """Topics as the run has them already, else found now: another machine might differ in bits."""
    count, corpus = prepared.study.taxonomy.topics, prepared.corpus
    rows = min(rows, -(-TOPIC_TOKENS // corpus.context))
    path = f"profile/topics-{fingerprint([content, rows, count])[:12]}.json"
    if store.exists(path):
        found = store.get_json(path)
        return path, Topics(
            np.array(found["group_V"]), tuple(found["words"]), np.array(found["rarity_G"]),
            np.array(found["weights_KG"]),
        )  # fmt: skip
    return path, find_topics(TokenRows(corpus.read(0, rows), vocabulary), count)


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

    name = "profile"
    worker: type = ProfileWorker

    def __init__(self, found: PreparedProfile, store: Store):
        study = found.prepared.study
        self.found, self.store = found, store
        self.order = ProfileOrder(
            store.url,
            found.plan,
            found.bank,
            study.taxonomy.convention.value,
            study.taxonomy.minimum_support,
        )

    def begin(self) -> ProfileAssignment | None:
        """Raises MissingError where the correlations are not there yet."""
        store, found = self.store, self.found
        prepared, study = found.prepared, found.prepared.study
        if not store.exists(TABLES_MARKER):
            raise MissingError(
                f"{store.url} holds no tables of correlations: make them first, by "
                "jobs/correlate.py with the same options"
            )
        self._tables = fingerprint(
            [store.get_json(TABLES_MARKER), self.order.layer_path(found.plan.models[0], 0),
             self.order.weights_path(found.plan.models[0]), study.taxonomy.features,
             vars(FamilyOptions()), [neuron_family(column) for column in self.order.columns]]
        )
        standing = all(map(store.exists, (PROFILE_MARKER, *PATHS)))
        if standing and store.get_json(PROFILE_MARKER)["fingerprint"] == self._tables:
            return None
        topics = found.topics
        store.put_json(
            found.topics_path,
            {
                "group_V": topics.group_V.tolist(),
                "words": list(topics.words),
                "rarity_G": topics.rarity_G.tolist(),
                "weights_KG": topics.weights_KG.tolist(),
            },
        )
        return ProfileAssignment(
            store_url=store.url,
            nonce=store.write_nonce(),
            corpus=prepared.corpus,
            sources=prepared.sources,
            excluded=found.excluded,
            activations=(PRE, POST),
            dtype=study.models.dtype.value,
            batch_rows=prepared.plan.batch_rows,
            threads=study.cluster.threads,
            device=study.cluster.device.value,
            plan=found.plan,
            vocabulary=found.vocabulary,
            bank=found.bank,
        )

    def batches(self, memory: list[tuple[str, float]]) -> Iterator[Batch]:
        found, order, stored = self.found, self.order, set(self.store.list("profile"))
        plan, study = found.plan, found.prepared.study
        left = plan.missing(stored)
        labels = [
            Task(f"label-{shard.index}", f"labels of shard {shard.index}", "label", (shard,))
            for shard in dict.fromkeys(shard for _, shard in left)
            if plan.labels_file(shard) not in stored
        ]
        shifts = [
            Task(f"shift-{model.short}", f"shift of {model.name}", "shift", (model,))
            for model in dict.fromkeys(model for model, _ in left)
            if plan.shift_file(model) not in stored
        ]
        weights = [
            call(reduce_weights, f"weights-{m.short}", order, m, found.prepared.sources[m.identity])
            for m in plan.models
            if order.weights_path(m) not in stored
        ]
        yield Batch("labels and weights", [*labels, *shifts, *weights])
        bytes_each = worker_memory(memory, study.cluster)
        footprint = found.prepared.plan.footprint
        sums = [
            Task(
                f"profile-{shard.index}-{model.short}",
                f"shard {shard.index} of {model.name}",
                "profile",
                (model, shard, layer_groups(model, plan.vocabulary, bytes_each, footprint)),
                tokens=float((shard.stop - shard.start) * plan.context),
            )
            for model, shard in left
        ]
        yield Batch("statistics", sums, len(plan.models) * len(plan.shards) - len(sums))
        layers = [(model, layer) for model in plan.models for layer in range(model.layers)]
        scores = [
            call(reduce_layer, f"scores-{model.short}-{layer}", order, model, layer)
            for model, layer in layers
            if order.layer_path(model, layer) not in stored
        ]
        yield Batch("scores", scores, len(layers) - len(scores))
        texts = Texts(found.prepared.corpus, found.vocabulary)
        told = (order, found.prepared.plan.references, study.taxonomy.features, texts)
        yield Batch("tables", [call(assemble_profile, "tables-of-profile", *told)])

    def finished(self, task: Task, result: Any) -> Sequence[Task]:
        return ()

    def end(self) -> None:
        found, told = self.found, {"fingerprint": self._tables, "making": uuid.uuid4().hex}
        self.store.finish(PROFILE_MARKER, told)
        for path in self.store.list("profile"):
            if not path.startswith((found.plan.folder, found.topics_path, WEIGHTS_FOLDER)):
                self.store.delete(path)
