"""What neurons are explained by, made once: topics found in the tokens, the bank of features."""

import numpy as np
import torch
from jaxtyping import Int64

from universal_ray.config.study import TaxonomyConfig
from universal_ray.corpus.rows import TokenCorpus
from universal_ray.features.bank import BankOptions, Chosen, feature_bank
from universal_ray.features.features import CURRENT, PREVIOUS, TokenRows
from universal_ray.features.semantics import find_topics
from universal_ray.features.vocabulary import Vocabulary
from universal_ray.models.source import ModelSource
from universal_ray.models.weights import embedding_norms
from universal_ray.stages.profile.artifacts import POSITION, Bank, Profile
from universal_ray.stages.profile.stored import StoredTopics
from universal_ray.storage import artifacts, checked
from universal_ray.storage.store import Store

ROWS = 4096
"""Rows counted together."""


def bank_options(options: TaxonomyConfig, *, syntax: bool = True) -> BankOptions:
    """What a user chooses of the bank; without `syntax`, whose pipeline takes time to load."""
    return BankOptions(
        syntax=options.syntax if syntax else None,
        unigram_ids=options.unigram_ids,
        unigram_occurrences=options.unigram_occurrences,
        words=tuple(options.words),
    )


def make_topics(recipe: Profile, corpus: TokenCorpus, vocabulary: Vocabulary, count: int) -> None:
    """Store the topics of the first tokens: once, as another machine might differ in bits."""
    rows = TokenRows(corpus.read(0, recipe.topic_rows), vocabulary)
    topics = StoredTopics.of(find_topics(rows, count))
    artifacts.put(Store(recipe.store_url), recipe.topics_file, topics)


def make_bank(
    recipe: Profile,
    corpus: TokenCorpus,
    vocabulary: Vocabulary,
    options: BankOptions,
    chosen: Chosen,
    source: ModelSource,
) -> None:
    """Store the bank of a study, whose topics are stored; `source`: whose embeddings are measured.
    """
    store = Store(recipe.store_url)
    first_V, counts_V = id_counts(corpus, recipe.rows, len(vocabulary))
    bank = feature_bank(
        vocabulary,
        first_V + counts_V,
        options,
        chosen=chosen,
        subsets=recipe.subsets,
        topics=recipe.read_topics(store),
        norm_V=embedding_norms(source, len(vocabulary)),
    )
    ids, rows = bank.id_columns(CURRENT), bank.row_columns()
    found = Bank(
        vocabulary=vocabulary,
        counts_V=torch.from_numpy(counts_V),
        membership_VF=bank.membership_VF,
        columns=(*ids, *bank.id_columns(PREVIOUS), *rows, POSITION),
        left_out=bank.left_out,
    )
    receipt = store.put_tensors(recipe.bank_file, artifacts.tensors(found.stored()))
    of = {"ids": len(ids), "rows": len(rows)}
    checked.finish(store, checked.marker_of(recipe.bank_file), [receipt], features=of)


def id_counts(
    corpus: TokenCorpus, rows: int, size: int
) -> tuple[Int64[np.ndarray, "V"], Int64[np.ndarray, "V"]]:
    """How often the corpus has each id in the first place of a row, and in all others.

    The first, BOS where the rows have one, is what no model is asked to predict.
    """
    first_V, counts_V = (np.zeros(size, dtype=np.int64) for _ in range(2))
    for start in range(0, rows, ROWS):
        tokens_BP = corpus.read(start, min(start + ROWS, rows))
        first_V += np.bincount(tokens_BP[:, 0], minlength=size)
        counts_V += np.bincount(tokens_BP[:, 1:].ravel(), minlength=size)
    return first_V, counts_V
