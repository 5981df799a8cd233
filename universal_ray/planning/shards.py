"""Ranges of token rows and of layers whose sums are held together. Pure."""

from dataclasses import dataclass

from universal_ray.errors import ConfigurationError
from universal_ray.planning.capacity import GIB, USABLE, Footprint, weight_bytes
from universal_ray.planning.items import Model

SHARDS = 4
"""As many at most: the sums by token id are large, and workers share models as well as shards."""
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


def layer_bytes(model: Model, vocabulary: int, more: int = 0) -> int:
    """Bytes of the sums of one layer; `more`: of each neuron beside those by token id."""
    extremes = 2 if model.signed else 1
    return ((SUM_BYTES + extremes * EXTREME_BYTES) * vocabulary + more) * model.width


def beside_layers(model: Model, footprint: Footprint) -> int:
    """Bytes of a model and of a forward pass of a batch, which holds a few times a layer's
    activations, float32: of its units, or of its MLP where that has more.
    """
    widest = max(model.width, model.d_mlp)
    return weight_bytes(model) + BATCH_BYTES * footprint.batch_tokens * widest


def layer_groups(
    model: Model, vocabulary: int, *, memory: float, footprint: Footprint, more: int = 0,
    workers: int = 1,
) -> tuple[Layers, ...]:  # fmt: skip
    """Layers in groups whose sums fit `memory` bytes beside the model and a batch, none longer than
    an equal share of so many `workers`; each group is one more reading of the tokens.

    Raises ConfigurationError where not even one layer fits.
    """
    one = footprint.copies * layer_bytes(model, vocabulary, more)
    beside = beside_layers(model, footprint)
    count = int((USABLE * memory - beside) // one)
    if count < 1:
        need = (beside + one) / USABLE
        raise ConfigurationError(
            f"the statistics of one layer of {model.name} take {need / GIB:.1f} GiB and a worker "
            f"has {memory / GIB:.1f} GiB: use workers with more memory (cluster.memory)"
        )
    count = -(-model.layers // max(workers, -(-model.layers // count)))
    return tuple(
        Layers(start, min(start + count, model.layers))
        for start in range(0, model.layers, count)
    )
