"""What the profile stores, and where: features, labels, sums, statistics, scores, tables.

The types of what it stores lie in `stored`; later stages know them by their names here.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor

from universal_ray.config.hashing import fingerprint
from universal_ray.corpus.rows import excluded_ids
from universal_ray.features.bank import Column
from universal_ray.features.families import FAMILY_OF_FEATURES, FamilyOptions
from universal_ray.features.features import CURRENT
from universal_ray.features.semantics import Topics
from universal_ray.features.words import contents
from universal_ray.maths.statistics.activations import BINS
from universal_ray.models.site import Ask, Site
from universal_ray.planning.items import Model, layer_file
from universal_ray.planning.shards import Shard, layer_bytes, make_shards
from universal_ray.stages.correlations import artifacts as correlations
from universal_ray.stages.inputs import Inputs, Outline
from universal_ray.stages.profile.stored import SEEN, StoredBank, StoredLabels, StoredTopics
from universal_ray.stages.profile.stored import Bank as Bank
from universal_ray.stages.profile.stored import LayerStatistics as LayerStatistics
from universal_ray.stages.profile.stored import WeightStatistics as WeightStatistics
from universal_ray.stages.sums import SUMS
from universal_ray.storage import artifacts, checked, finished
from universal_ray.storage.artifacts import Artifact
from universal_ray.storage.store import Store

PAPER_TOKENS = 10_000_000
"""Tokens that the paper explains neurons on (arXiv 2401.12181, section 4.3)."""
TOPIC_TOKENS = 2_000_000
"""Tokens that topics are found in, the first of the corpus."""
POSITION = Column("position_one_hot", "position", "variance between positions of the row", CURRENT)

TOPICS = Artifact(
    name="topics",
    version=1,
    depends_on=("taxonomy.topics",),
    grows_with=("corpus.tokens", "taxonomy.tokens"),
)
BANK = Artifact(
    name="feature bank",
    version=2,
    depends_on=(
        TOPICS,
        "taxonomy.syntax",
        "taxonomy.words",
        "taxonomy.unigram_ids",
        "taxonomy.unigram_occurrences",
    ),
    # Of the first reference embeddings are measured.
    grows_with=("models.reference", "models.revisions", "corpus.tokens", "taxonomy.tokens"),
)
LABELS = Artifact(
    name="labels of tokens",
    version=3,
    depends_on=(TOPICS, "taxonomy.syntax", "units.batch"),  # shards are of whole batches
    grows_with=("corpus.tokens", "taxonomy.tokens"),
)
SHIFTS = Artifact(
    name="shifts of neurons", version=1, depends_on=(SUMS,), grows_with=("taxonomy.tokens",)
)
STATISTICS_SUMS = Artifact(
    name="sums of statistics",
    version=3,
    depends_on=(
        SHIFTS, LABELS, "taxonomy.exclude", "taxonomy.examples", "taxonomy.subset_histograms",
    ),
)
WEIGHTS = Artifact(
    name="statistics of weights",
    version=4,
    depends_on=("taxonomy.convention", "taxonomy.listed"),
    grows_with=("models.reference", "models.compared", "models.revisions"),
)
SCORES = Artifact(
    name="scores of features",
    version=2,
    depends_on=(STATISTICS_SUMS, BANK, "taxonomy.minimum_support", "taxonomy.listed"),
)
TABLES = Artifact(
    name="tables of the profile",
    version=2,
    depends_on=(SCORES, WEIGHTS, correlations.TABLES, "taxonomy.features"),
)
ARTIFACTS = (TOPICS, BANK, LABELS, SHIFTS, STATISTICS_SUMS, WEIGHTS, SCORES, TABLES)


@dataclass(frozen=True, kw_only=True)
class Profile:
    """What every task of a profile is told, and where its results lie."""

    store_url: str
    site: Site
    """what its units are"""
    models: tuple[Model, ...]
    shards: tuple[Shard, ...]
    context: int
    batch_rows: int
    vocabulary: int
    """ids of the tokenizer"""
    excluded: tuple[int, ...]
    """ids that do not count, sorted"""
    subsets: tuple[str, ...]
    """labels that rows of the corpus have"""
    settled: dict[str, Any]
    """by configuration key; ids and word lists by their content"""
    text: tuple[Any, ...]
    """what tokens say and which rows they are in: JSON-able"""
    units: tuple[tuple[int, str], ...]
    """first row and name, which changes with the content, of the units that are read"""

    @property
    def rows(self) -> int:
        return self.shards[-1].stop

    @property
    def tokens(self) -> int:
        return self.rows * self.context

    @property
    def topic_rows(self) -> int:
        return min(self.rows, -(-TOPIC_TOKENS // self.context))

    @property
    def shift_rows(self) -> int:
        return min(self.rows, self.batch_rows)

    @property
    def minimum_support(self) -> int:
        return int(self.settled["taxonomy.minimum_support"])

    @property
    def by_subset(self) -> bool:
        """Whether there is a histogram of each subset."""
        return bool(self.settled["taxonomy.subset_histograms"] and self.subsets)

    @property
    def histogram_bytes(self) -> int:
        """Of those of one neuron, while they are summed."""
        return 4 * BINS * len(self.subsets) if self.by_subset else 0

    def layer_bytes(self, model: Model) -> int:
        """Of the sums of one layer."""
        return layer_bytes(model, self.vocabulary, self.histogram_bytes)

    @property
    def listed(self) -> int:
        """Entries of a neuron's lists of tokens and heads."""
        return int(self.settled["taxonomy.listed"])

    @property
    def examples(self) -> int:
        """Of each neuron."""
        return int(self.settled["taxonomy.examples"])

    @property
    def weightless(self) -> str | None:
        """Why its units have no statistics of weights, None where they have."""
        return self.site.lacks.get(Ask.weights)

    @property
    def convention(self) -> str:
        return str(self.settled["taxonomy.convention"])

    @property
    def syntax(self) -> str | None:
        syntax: str | None = self.settled["taxonomy.syntax"]
        return syntax

    def _read(self, rows: int) -> list[Any]:
        """What the first rows are."""
        return [rows, [name for start, name in self.units if start < rows], list(self.text)]

    @cached_property
    def topics_key(self) -> str:
        return TOPICS.fingerprint(self.settled, self._read(self.topic_rows))

    @cached_property
    def bank_key(self) -> str:
        measured = self.models[0].identity
        return BANK.fingerprint(self.settled, self.topics_key, self._read(self.rows), measured)

    @cached_property
    def labels_key(self) -> str:
        shards = [vars(shard) for shard in self.shards]
        return LABELS.fingerprint(self.settled, self.topics_key, self._read(self.rows), shards)

    @cached_property
    def shifts_key(self) -> str:
        return SHIFTS.fingerprint(self.settled, self._read(self.shift_rows))

    @cached_property
    def sums_key(self) -> str:
        """Of all that the sums of activations come from but the model."""
        return STATISTICS_SUMS.fingerprint(self.settled, self.labels_key, self.shifts_key)

    @cached_property
    def scores_key(self) -> str:
        return SCORES.fingerprint(self.settled, self.sums_key, self.bank_key, SEEN)

    @cached_property
    def weights_key(self) -> str:
        # Ids that only pad a vocabulary do not count.
        return WEIGHTS.fingerprint(self.settled, self.vocabulary)

    def of(self, model: Model) -> dict[str, Any]:
        """What the sums of a model say that they are of."""
        return {"models": [model.identity], "sums": self.sums_key}

    @property
    def topics_file(self) -> str:
        return f"profile/topics-{self.topics_key[:12]}/topics.safetensors"

    @property
    def bank_file(self) -> str:
        return f"profile/bank-{self.bank_key[:12]}/bank.safetensors"

    def labels_file(self, shard: Shard) -> str:
        return f"profile/labels-{self.labels_key[:12]}/shard-{shard.index:02d}.safetensors"

    def shift_file(self, model: Model) -> str:
        return f"profile/shifts-{self.shifts_key[:12]}/{model.short}.safetensors"

    def shard_folder(self, model: Model, shard: Shard) -> str:
        return f"profile/sums-{self.sums_key[:12]}/{model.short}/shard-{shard.index:02d}"

    def weights_file(self, model: Model) -> str:
        return f"profile/weights-{self.weights_key[:12]}/{model.short}.safetensors"

    def layer_file(self, model: Model, layer: int) -> str:
        return layer_file(f"profile/scores-{self.scores_key[:12]}/{model.short}", layer)

    @property
    def folders(self) -> frozenset[str]:
        """Of all that stands."""
        model, shard = self.models[0], self.shards[0]
        files = (
            self.topics_file, self.bank_file, self.labels_file(shard), self.shift_file(model),
            self.shard_folder(model, shard), self.weights_file(model), self.layer_file(model, 0),
        )  # fmt: skip
        return frozenset("/".join(each.split("/")[:2]) for each in files)

    @property
    def layers(self) -> tuple[tuple[Model, int], ...]:
        """Every layer of every model, once."""
        return tuple(
            (model, layer) for model in dict.fromkeys(self.models) for layer in range(model.layers)
        )

    def read_topics(self, store: Store) -> Topics:
        return artifacts.get(store, self.topics_file, StoredTopics).topics()

    def read_bank(self, store: Store) -> Bank:
        return Bank.of(artifacts.get(store, self.bank_file, StoredBank))

    def read_labels(self, store: Store, shard: Shard) -> Tensor:
        """Bool [T, E]: labels of a shard's tokens by the features of the row."""
        return artifacts.get(store, self.labels_file(shard), StoredLabels).labels()

    def read_weights(self, store: Store, model: Model) -> WeightStatistics:
        return artifacts.get(store, self.weights_file(model), WeightStatistics)

    def read_layer(self, store: Store, model: Model, layer: int) -> LayerStatistics:
        return artifacts.get(store, self.layer_file(model, layer), LayerStatistics)


def profile(found: Outline, store: Store) -> Profile:
    """Of a study. Raises what is wrong with its word lists.

    Names of files are those that will be where `found` are inputs; an outline knows neither tokens
    that no run has recorded nor the subsets that they come from.
    """
    options = found.study.taxonomy
    wanted = options.tokens or min(PAPER_TOKENS, found.rows * found.context)
    rows = min(found.rows, -(-wanted // found.context))
    excluded = excluded_ids(options.exclude.value, found.tokenizer)
    labels = found.corpus.subsets(0, rows) if isinstance(found, Inputs) else None
    return Profile(
        store_url=store.url,
        site=found.site,
        models=found.everyone,
        shards=make_shards(rows, found.batch_rows),
        context=found.context,
        batch_rows=found.batch_rows,
        vocabulary=found.vocabulary,
        excluded=excluded,
        subsets=tuple(sorted(set(labels or ()))),
        settled={
            **found.settled,
            "taxonomy.exclude": list(excluded),
            "taxonomy.words": contents(options.words),
        },
        text=(found.tokenizer_identity, found.vocabulary, fingerprint(labels)),
        units=tuple((unit.start, unit.name) for unit in found.layout.units if unit.start < rows),
    )


def tables_fingerprint(found: Outline, store: Store) -> str:
    """Of all that the tables are made from."""
    recipe = profile(found, store)
    return TABLES.fingerprint(
        recipe.settled,
        correlations.tables_fingerprint(found, store),
        recipe.scores_key,
        recipe.weights_key,
        vars(FamilyOptions()),
        FAMILY_OF_FEATURES,
    )


def stand(found: Outline, store: Store) -> bool:
    """Whether the tables of these options are there and whole, and what later stages read beside
    them.
    """
    recipe, stored = profile(found, store), set(store.list("profile"))
    kept = [recipe.bank_file]
    if recipe.weightless is None:
        kept += [recipe.weights_file(model) for model in recipe.models]
    kept += [recipe.labels_file(shard) for shard in recipe.shards]
    kept += [recipe.layer_file(*layer) for layer in recipe.layers]
    return stored.issuperset(map(checked.marker_of, kept)) and finished.stand(
        store, finished.PROFILE, tables_fingerprint(found, store)
    )
