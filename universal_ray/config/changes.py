"""What a change of each key means for a run that exists, and what of a study fixes the bits."""

from typing import Any

from universal_ray.config.study import Study, value_of

REFUSED = "refused"
REDUCED = "reduce alone"
ADDED = "adds units"
FREE = "no new work"
PROFILED = "statistics again"
RETOLD = "tables again"
REPLAYED = "roles again"

CHANGES = {
    "models.reference": ADDED,
    "models.compared": ADDED,
    "models.pairs": ADDED,
    "models.revisions": ADDED,
    "models.tokenizer": FREE,
    "models.activation": REFUSED,
    "models.dtype": REFUSED,
    "corpus.path": FREE,
    "corpus.context": REFUSED,
    "corpus.tokens": ADDED,
    "corpus.exclude": REFUSED,
    "corpus.seed": REFUSED,
    "corpus.text": REFUSED,
    "units.tokens": REFUSED,
    "units.batch": REFUSED,
    "units.fold": REFUSED,
    "cluster.address": FREE,
    "cluster.workers": FREE,
    "cluster.threads": REFUSED,
    "cluster.device": REFUSED,
    "cluster.memory": FREE,
    "cluster.tflops": FREE,
    "precision.moments": REFUSED,
    "baseline.rotations": REDUCED,
    "baseline.kind": REDUCED,
    "baseline.seed": REDUCED,
    "universal.threshold": REDUCED,
    "taxonomy.tokens": PROFILED,
    "taxonomy.exclude": PROFILED,
    "taxonomy.convention": RETOLD,
    "taxonomy.syntax": PROFILED,
    "taxonomy.topics": PROFILED,
    "taxonomy.words": PROFILED,
    "taxonomy.unigram_ids": RETOLD,
    "taxonomy.unigram_occurrences": RETOLD,
    "taxonomy.minimum_support": RETOLD,
    "taxonomy.examples": PROFILED,
    "taxonomy.features": RETOLD,
    "roles.tokens": REPLAYED,
    "roles.sweep": REPLAYED,
    "roles.candidates": REPLAYED,
    "roles.controls": REPLAYED,
    "roles.sets": REPLAYED,
    "roles.paths": REPLAYED,
    "roles.kurtosis": REPLAYED,
    "roles.partition": REPLAYED,
    "roles.null_share": REPLAYED,
    "roles.frequency": REPLAYED,
    "roles.seed": REPLAYED,
}
"""What a change of each key means for a run directory that holds results already.

A path or a name may change freely as long as what it leads to is the same: tokens and models are
known by their content.
"""


SUMS = "universal_ray 2: shifts of few bits"
"""What this project's own arithmetic makes of the sums; another text where their bits change."""


def bits(study: Study, context: int, excluded: tuple[int, ...]) -> dict[str, Any]:
    """Everything but models and tokens that decides the bits of a unit's sums."""
    refused = [key for key, change in CHANGES.items() if change == REFUSED]
    skipped = {"corpus.text", "corpus.seed", "corpus.context", "corpus.exclude"}
    fixed = {key: value_of(study, key) for key in refused if key not in skipped}
    return {**fixed, "corpus.context": context, "corpus.exclude": list(excluded), "sums": SUMS}
