"""The stage that sums the statistics of neurons: labels of tokens first, then models and shards."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from universal_ray.capacity import GIB
from universal_ray.corpus import TokenCorpus, count_kept, excluded_ids
from universal_ray.errors import ConfigurationError
from universal_ray.correlation_stage import smallest_memory
from universal_ray.plan import size
from universal_ray.preflight import Prepared
from universal_ray.profile.plan import PAPER_TOKENS, ProfilePlan, layer_groups, make_shards
from universal_ray.profile.worker import ProfileAssignment, ProfileWorker
from universal_ray.scheduler import Task
from universal_ray.store import Store
from universal_ray.study import fingerprint, plain
from universal_ray.taxonomy.bank import BankOptions, FeatureBank, feature_bank
from universal_ray.taxonomy.features import TokenRows
from universal_ray.taxonomy.semantics import Topics, find_topics
from universal_ray.taxonomy.vocabulary import Vocabulary, read_vocabulary
from universal_ray.weights import embedding_norms

TOPIC_TOKENS = 2_000_000
"""Tokens that topics are found in, the first of the corpus."""
ROWS = 4096
PRE, POST = "pre", "post"


@dataclass(frozen=True)
class PreparedProfile:
    """What the profile of a study is made of, all of it found and fitting together."""

    prepared: Prepared
    plan: ProfilePlan
    vocabulary: Vocabulary
    bank: FeatureBank
    excluded: tuple[int, ...]
    topics_path: str
    topics: Topics

    def describe(self) -> list[tuple[str, str]]:
        """The plan as rows of a table on screen."""
        plan, bank = self.plan, self.bank
        ids, rows = len(bank.id_features), len(bank.row_columns())
        memory = self.prepared.plan.memory
        groups = max(len(layer_groups(m, plan.vocabulary, memory)) for m in plan.models)
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
    vocabulary = read_vocabulary(prepared.tokenizer, max(source.vocabulary for source in sources))
    content = [unit.name for unit in prepared.plan.layout.units if unit.start < rows]
    topics_path, topics = _topics(prepared, store, vocabulary, rows, content)
    subsets = tuple(sorted(set(corpus.subsets(0, rows) or ())))
    bank = feature_bank(
        vocabulary,
        _counts(corpus, rows, len(vocabulary)),
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
        prepared.plan.bits, content, rows, plain(options.exclude), options.examples,
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
            layer_groups(model, plan.vocabulary, settings.memory * GIB)
    return PreparedProfile(prepared, plan, vocabulary, bank, excluded, topics_path, topics)


def _topics(
    prepared: Prepared, store: Store, vocabulary: Vocabulary, rows: int, content: list[str]
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


def _counts(corpus: TokenCorpus, rows: int, size: int) -> np.ndarray:
    """How often the corpus has each id."""
    counts_V = np.zeros(size, dtype=np.int64)
    for start in range(0, rows, ROWS):
        tokens_BP = corpus.read(start, min(start + ROWS, rows))
        counts_V += np.bincount(tokens_BP.ravel(), minlength=size)
    return counts_V


class ProfileStage:
    """Each shard's labels once, then every model over every shard."""

    name = "profile"
    actor: type = ProfileWorker

    def __init__(self, found: PreparedProfile, store: Store):
        prepared, study = found.prepared, found.prepared.study
        self.found, self.store = found, store
        self.assignment = ProfileAssignment(
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
        self._left = found.plan.missing(set(store.list(found.plan.folder)))
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

    @property
    def steps(self) -> int:
        return len(self._left)

    @property
    def steps_done(self) -> int:
        return len(self.found.plan.models) * len(self.found.plan.shards) - len(self._left)

    def batches(self, memory: list[tuple[str, float]]) -> Iterator[Sequence[Task]]:
        plan, settings = self.found.plan, self.found.prepared.study.cluster
        bytes_each = (
            smallest_memory(memory, settings.device)
            if settings.memory is None
            else settings.memory * GIB
        )
        yield [
            Task(f"label-{shard.index}", f"labels of shard {shard.index}", "label", (shard,))
            for shard in dict.fromkeys(shard for _, shard in self._left)
            if not self.store.exists(plan.labels_file(shard))
        ]
        yield [
            Task(
                f"profile-{shard.index}-{model.short}",
                f"shard {shard.index} of {model.name}",
                "profile",
                (model, shard, layer_groups(model, plan.vocabulary, bytes_each)),
                tokens=float((shard.stop - shard.start) * plan.context),
            )
            for model, shard in self._left
        ]

    def finished(self, task: Task, result: Any) -> Sequence[Task]:
        return ()
