"""The profile of every neuron: what is read, in which shards, where its sums go. Pure.

A *shard* is a range of token rows; over it the statistics of one model are summed, layer by layer.
Everything lies in a folder named by what it depends on, so that changed settings start afresh and
unchanged ones find what is done.
"""

from dataclasses import dataclass
from typing import Any

from universal_ray.planning.items import Model
from universal_ray.planning.shards import Shard, layer_bytes

PAPER_TOKENS = 10_000_000
"""Tokens that the paper explains neurons on (arXiv 2401.12181, section 4.3)."""


@dataclass(frozen=True)
class ProfilePlan:
    """What the statistics of a study are made of, and where they lie."""

    models: tuple[Model, ...]
    shards: tuple[Shard, ...]
    context: int
    vocabulary: int
    subsets: tuple[str, ...]
    examples: int
    sums_key: str
    """fingerprint of all that decides the sums"""

    @property
    def tokens(self) -> int:
        return self.shards[-1].stop * self.context

    @property
    def bytes(self) -> int:
        """Of all sums by token id, on disk."""
        return sum(
            layer_bytes(model, self.vocabulary) * model.layers
            for model in dict.fromkeys(self.models)
        ) * len(self.shards)

    def of(self, model: Model) -> dict[str, Any]:
        """What the sums of a model say that they are of."""
        return {"models": [model.identity], "sums": self.sums_key}

    @property
    def folder(self) -> str:
        return f"profile/{self.sums_key[:12]}"

    def labels_file(self, shard: Shard) -> str:
        return f"{self.folder}/labels/shard-{shard.index:02d}.safetensors"

    def shift_file(self, model: Model) -> str:
        return f"{self.folder}/{model.short}/shift.safetensors"

    def shard_folder(self, model: Model, shard: Shard) -> str:
        return f"{self.folder}/{model.short}/shard-{shard.index:02d}"

    def missing(self, stored: set[str]) -> list[tuple[Model, Shard]]:
        """Models and shards whose marker is not among the files that are stored; a model's shards
        follow each other, as a worker holds one model at a time.
        """
        return [
            (model, shard)
            for model in dict.fromkeys(self.models)
            for shard in self.shards
            if f"{self.shard_folder(model, shard)}/done.json" not in stored
        ]
