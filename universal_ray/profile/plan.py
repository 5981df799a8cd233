"""The profile of every neuron: what is read, in which shards, where its sums go. Pure.

A *shard* is a range of token rows; over it the statistics of one model are summed, layer by layer.
Everything lies in a folder named by what it depends on, so that changed settings start afresh and
unchanged ones find what is done.
"""

from dataclasses import dataclass
from typing import Any

from universal_ray.capacity import GIB, USABLE, Footprint, weight_bytes
from universal_ray.errors import ConfigurationError
from universal_ray.items import Model

VERSION = 2
"""Of labels and sums: raised when they mean something else, so that no older ones are taken."""
SHARDS = 4
"""As many at most: the sums by token id are large, and workers share models as well as shards."""
PAPER_TOKENS = 10_000_000
"""Tokens that the paper explains neurons on (arXiv 2401.12181, section 4.3)."""
SUM_BYTES, EXTREME_BYTES = 16, 4
"""Bytes by token id of one neuron: two sums in float64, and each extreme in float32."""

BATCH_BYTES = 64
"""Bytes that a batch takes for one token and neuron of a layer, in a forward pass or in sums."""


@dataclass(frozen=True)
class Shard:
    """Token rows [start, stop)."""

    index: int
    start: int
    stop: int


def make_shards(rows: int, batch_rows: int) -> tuple[Shard, ...]:
    """At most `SHARDS` shards of whole batches, the last may be shorter."""
    batches = -(-rows // batch_rows)
    step = -(-batches // SHARDS) * batch_rows
    return tuple(
        Shard(index, start, min(start + step, rows))
        for index, start in enumerate(range(0, rows, step))
    )


@dataclass(frozen=True)
class Layers:
    """Layers [start, stop) whose sums are held together."""

    start: int
    stop: int


def layer_bytes(model: Model, vocabulary: int) -> int:
    """Bytes of the sums of one layer."""
    extremes = 2 if model.gated else 1
    return (SUM_BYTES + extremes * EXTREME_BYTES) * vocabulary * model.width


def layer_groups(
    model: Model, vocabulary: int, memory: float, footprint: Footprint
) -> tuple[Layers, ...]:
    """Layers in groups whose sums fit `memory` bytes beside the model and a batch; each group is
    one more reading of the tokens.

    Raises ConfigurationError where not even one layer fits.
    """
    one = footprint.copies * layer_bytes(model, vocabulary)
    # A forward pass of a batch holds a few times a layer's activations, float32.
    beside = weight_bytes(model) + BATCH_BYTES * footprint.batch_tokens * model.width
    count = int((USABLE * memory - beside) // one)
    if count < 1:
        need = (beside + one) / USABLE
        raise ConfigurationError(
            f"the statistics of one layer of {model.name} take {need / GIB:.1f} GiB and a worker "
            f"has {memory / GIB:.1f} GiB: use workers with more memory (cluster.memory)"
        )
    count = -(-model.layers // -(-model.layers // count))
    return tuple(
        Layers(start, min(start + count, model.layers))
        for start in range(0, model.layers, count)
    )


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
