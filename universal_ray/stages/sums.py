"""The sums that every study starts from: what decides their bits."""

from collections.abc import Mapping
from typing import Any

from universal_ray.config.hashing import fingerprint
from universal_ray.config.site import as_fingerprinted
from universal_ray.storage.artifacts import Artifact

SUMS = Artifact(
    name="sums over tokens",
    version="universal_ray 2: shifts of few bits",
    depends_on=(
        "models.site",
        "models.dtype",
        "corpus.context",
        "corpus.exclude",
        "units.tokens",
        "units.batch",
        "units.fold",
        "cluster.threads",
        "cluster.device",
        "precision.moments",
    ),
    grows_with=(
        "models.reference",
        "models.compared",
        "models.pairs",
        "models.revisions",
        "corpus.tokens",
    ),
)
"""A run directory holds those of one recipe: under another its sums could not be added up."""


def bits(settled: Mapping[str, Any]) -> dict[str, Any]:
    """Everything but models and tokens that decides the bits of a unit's sums."""
    return {**{key: settled[key] for key in SUMS.keys}, "sums": SUMS.version}


def bits_fingerprint(decided: Mapping[str, Any]) -> str:
    """Of what `bits` gave."""
    return fingerprint(as_fingerprinted(decided))
