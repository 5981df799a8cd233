"""What memory and speed allow: tokens of a batch and a unit, what is held together, time. Pure.

Everything that fixes the bits (tokens of a unit and of a batch, units of a block, the policy) is
chosen from the study alone, once; what a worker's memory decides (which sums are held together) may
differ from run to run, and changes no bit.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from universal_ray.config.study import ClusterConfig, Device, Policy, UnitsConfig
from universal_ray.errors import ConfigurationError
from universal_ray.planning.items import Item, Model

GIB = 2**30
BATCH = {
    Device.cpu: dict.fromkeys(Policy, 4096),
    Device.cuda: {Policy.fp32: 4096, Policy.fp16: 16384, Policy.split: 4096},
}
"""Raw tokens of one forward pass and of one product: long enough for the products to run at full
rate, short enough that what a GPU truncates stays below the policy's error."""
ADDITIONS = 256
"""Products that add up in float32 before they are stored, at most (error of r below 1e-6)."""
UNITS = {Device.cpu: 16, Device.cuda: 64}
"""About as many units as this: enough workers can share a study, and little is lost; fewer are
longer, and less of the time goes into writing their sums."""
LEAST_BATCHES = {Device.cpu: 4, Device.cuda: 112}
"""Batches of a unit at least: storing its sums takes less than 5 % of the time of making them
(a GPU at 600 TFLOP/s that copies 20 GB/s; a CPU core at 100 GFLOP/s that writes 300 MB/s)."""
BLOCKS = 8
"""About as many blocks as this: the jackknife leaves them out one by one, the disk holds them."""
FOLD = 8
"""Units of a block, at most."""
POLICY = {Device.cpu: Policy.fp32, Device.cuda: Policy.fp16}
"""The fastest policy whose error of r stays below 1e-5."""
OPERAND_BYTES = {
    Device.cpu: {Policy.fp32: 4, Policy.fp16: 4, Policy.split: 8},
    Device.cuda: {Policy.fp32: 4, Policy.fp16: 2, Policy.split: 4},
}
"""Bytes of one activation as it is multiplied."""
USABLE = 0.9
"""Share of a device's memory that is planned for; the rest is the libraries'."""
GPU_GIB = 80.0
"""Memory of a worker's GPU where none could be asked."""


def choose(
    units: UnitsConfig, *, total_tokens: int, context: int, device: Device, policy: Policy
) -> UnitsConfig:
    """Fill in what the study leaves open, from the study alone.

    A unit is a whole number of batches, a share of the study, at most `ADDITIONS` batches. Raises
    ConfigurationError where a batch is less than one row of `context` tokens.
    """
    usual = BATCH[device][policy]
    batch = units.batch or max(context, min(usual, units.tokens or usual))
    if batch < context:
        raise ConfigurationError(
            f"units.batch ({batch}) is less than one row of {context} tokens: raise it"
        )
    whole = batch // context * context
    share = -(-total_tokens // (UNITS[device] * whole))
    batches = min(max(share, LEAST_BATCHES[device]), ADDITIONS)
    tokens = units.tokens or batches * whole
    count = -(-total_tokens // tokens)
    fold = units.fold or min(max(count // BLOCKS, 2), FOLD)
    return replace(units, batch=batch, tokens=tokens, fold=fold)


@dataclass(frozen=True)
class Part:
    """Layers [start, stop) of an item's rows."""

    item: Item
    start: int
    stop: int

    @property
    def sums_bytes(self) -> int:
        return self.item.sums_bytes * (self.stop - self.start) // self.item.layers


Pass = tuple[Part, ...]
"""What one reading of a unit's tokens sums up, held in memory together."""


def weight_bytes(model: Model) -> int:
    """Of a model's blocks in float32: four matrices of attention, two of an MLP, three with a gate.

    Embeddings, norms and biases are small beside its sums.
    """
    mlp = (3 if model.gated else 2) * model.d_model * model.d_mlp
    return 4 * model.layers * (4 * model.d_model**2 + mlp)


@dataclass(frozen=True)
class Footprint:
    """What decides how much memory a pass takes."""

    batch_tokens: int
    device: Device
    policy: Policy

    @property
    def copies(self) -> int:
        """Of sums: on a CPU those made before are still being written while others are made."""
        return 2 if self.device is Device.cpu else 1

    def model_bytes(self, model: Model) -> int:
        """Weights and one batch of operands."""
        operand = OPERAND_BYTES[self.device][self.policy]
        return weight_bytes(model) + operand * self.batch_tokens * model.neurons

    def working_bytes(self, models: Sequence[Model]) -> int:
        """A forward pass and its activations before they are operands: one model at a time."""
        extra = 4 if self.policy is Policy.fp32 else 8
        return max(
            extra * self.batch_tokens * m.neurons + 32 * self.batch_tokens * m.d_mlp for m in models
        )

    def bytes_of(self, parts: Sequence[Part]) -> int:
        """Of one pass."""
        models = list({m.identity: m for part in parts for m in part.item.models}.values())
        sums = self.copies * sum(part.sums_bytes for part in parts)
        return sums + sum(self.model_bytes(m) for m in models) + self.working_bytes(models)

    def passes(self, items: Sequence[Item], memory: float) -> tuple[Pass, ...]:
        """The items in passes that each fit `memory` bytes.

        Pairs are taken in order and a pass is filled as far as it goes; a model's own sums belong
        to the first pass that reads it; a pair too large for a pass is cut by rows into layers.
        Raises ConfigurationError where not even one layer fits.
        """
        allowed = USABLE * memory
        found: list[Pass] = []
        current: list[Part] = []
        for part in self._parts(items):
            if self.bytes_of([*current, part]) <= allowed:
                current.append(part)
                continue
            if current:
                found.append(tuple(current))
                current = []
            if self.bytes_of([part]) <= allowed:
                current = [part]
                continue
            found += self._by_layers(part, allowed)
        return (*found, tuple(current)) if current else tuple(found)

    def _parts(self, items: Sequence[Item]) -> list[Part]:
        """Whole items; a model just before the first pair that has it."""
        ordered: list[Item] = []
        alone = {item.models[0].identity: item for item in items if len(item.models) == 1}
        for item in items:
            if len(item.models) == 2:
                for model in item.models:
                    if model.identity in alone:
                        ordered.append(alone.pop(model.identity))
                ordered.append(item)
        return [Part(item, 0, item.layers) for item in [*ordered, *alone.values()]]

    def _by_layers(self, part: Part, allowed: float) -> list[Pass]:
        item = part.item
        layers = item.layers
        while layers > 1 and self.bytes_of([Part(item, 0, layers)]) > allowed:
            layers -= 1
        need = self.bytes_of([Part(item, 0, layers)])
        if need > allowed:
            names = " and ".join(model.name for model in item.models)
            raise ConfigurationError(
                f"one layer of {names} takes {need / USABLE / GIB:.1f} GiB and a worker has "
                f"{allowed / USABLE / GIB:.1f} GiB: lower units.batch ({self.batch_tokens} "
                "tokens) in a new run, or use workers with more memory (cluster.memory)"
            )
        return [
            (Part(item, start, min(start + layers, item.layers)),)
            for start in range(0, item.layers, layers)
        ]


@dataclass(frozen=True)
class Speed:
    """How fast one worker multiplies."""

    flops: float
    """floating point operations of sums per second"""
    source: str
    """where the figure comes from, for people"""

    def seconds(self, flops: float, workers: int, steps: int) -> float:
        """Wall time of work in `steps` equal steps, each on one worker at a time."""
        rounds = -(-steps // workers) / max(steps, 1)
        return flops * rounds / self.flops


def duration(seconds: float) -> str:
    """Seconds for people."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def size(count: int | float) -> str:
    """Bytes for people."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def worker_memory(found: list[tuple[str, float]], settings: ClusterConfig) -> float:
    """Bytes that every worker may use: as configured, or what the smallest has to itself."""
    if settings.memory is not None:
        return settings.memory * GIB
    return smallest_memory(found, settings.device)


def smallest_memory(found: list[tuple[str, float]], device: Device) -> float:
    """Bytes that every worker has to itself: workers on one host share its memory, not its GPUs."""
    hosts = [host for host, _ in found]
    shared = device is Device.cpu
    return min(memory / (hosts.count(host) if shared else 1) for host, memory in found)
