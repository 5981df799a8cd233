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
ENCODING = 12
"""Bytes of one latent of a layer that is being encoded: itself, what selects it, its copy."""
USABLE = 0.9
"""Share of a device's memory that is planned for; the rest is the libraries'."""
GPU_GIB = 80.0
"""Memory of a worker's GPU where none could be asked."""
BUFFERS, BUFFER_BYTES = 2, 2**26
"""Page-locked memory that a GPU's sums pass through on their way to the host: while one buffer
fills, the one before is emptied. A power of two, as torch takes no less."""
RING_BYTES = BUFFERS * BUFFER_BYTES


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


def _whole(item: Item) -> Part:
    return Part(item, 0, item.layers)


def models_of(held: Sequence[Part]) -> list[Model]:
    """Those that a pass runs, each once."""
    return list({m.identity: m for part in held for m in part.item.models}.values())


def _identities(held: Sequence[Part]) -> set[str]:
    return {model.identity for model in models_of(held)}


def weight_bytes(model: Model) -> int:
    """Of a model's blocks in float32: four matrices of attention, two of an MLP, three with a gate;
    and of encoders beside it.

    Embeddings, norms and biases are small beside its sums.
    """
    mlp = (3 if model.gated else 2) * model.d_model * model.d_mlp
    return 4 * model.blocks * (4 * model.d_model**2 + mlp) + 4 * model.neurons * model.reads


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
            extra * self.batch_tokens * m.neurons
            + round(32 * self.batch_tokens * m.stretch) * m.d_mlp
            + (round(ENCODING * self.batch_tokens * m.stretch) * m.width if m.reads else 0)
            for m in models
        )

    def bytes_of(self, parts: Sequence[Part]) -> int:
        """Of one pass."""
        models = models_of(parts)
        sums = self.copies * sum(part.sums_bytes for part in parts)
        return sums + sum(self.model_bytes(m) for m in models) + self.working_bytes(models)

    def groups(self, items: Sequence[Item], memory: float) -> tuple[tuple[Pass, ...], ...]:
        """The items in passes that each fit `memory` bytes, those of a pair that is cut together.

        Every pass reads each of its models once, which costs a forward pass. So a model's own sums
        ride with the first pair of it, and a pass takes next the pair that adds the fewest models;
        a pair too large for a pass is cut by rows into layers. Whatever is held together, each part
        adds up the same tokens in the same order: no bit depends on it.
        Raises ConfigurationError where not even one layer fits.
        """
        allowed = USABLE * memory
        own = {
            item.models[0].identity: _whole(item) for item in items if len(item.models) == 1
        }
        pairs = [item for item in items if len(item.models) == 2]
        found: list[list[Pass]] = []
        while pairs:
            held = self._filled_(pairs, own, allowed)
            found.append([held] if held else self._by_layers(_whole(pairs.pop(0)), allowed))
        for identity, part in list(own.items()):  # where a pair of it left room, else by themselves
            for group in found:
                for place, held in enumerate(group):
                    room = self.bytes_of([*held, part]) <= allowed
                    if identity in own and identity in _identities(held) and room:
                        group[place] = (own.pop(identity), *held)
        for part in own.values():
            last = found[-1] if found else []
            alone = len(last) == 1 and all(len(each.item.models) == 1 for each in last[0])
            if alone and self.bytes_of([*last[0], part]) <= allowed:
                last[0] = (*last[0], part)
            elif self.bytes_of([part]) <= allowed:
                found.append([(part,)])
            else:
                found.append(self._by_layers(part, allowed))
        return tuple(map(tuple, found))

    def _filled_(self, pairs: list[Item], own: dict[str, Part], allowed: float) -> Pass:
        """What one pass holds: taken out of `pairs` and `own`; nothing where no pair fits."""
        held: Pass = ()
        while True:
            there = _identities(held)
            for pair in sorted(pairs, key=lambda pair: len(_identities((_whole(pair),)) - there)):
                rides = tuple(own[m.identity] for m in pair.models if m.identity in own)
                wanted = (*held, *rides, _whole(pair))
                if not held and self.bytes_of(wanted) > allowed:
                    wanted, rides = (_whole(pair),), ()
                if self.bytes_of(wanted) <= allowed:
                    break
            else:
                return held
            held = wanted
            pairs.remove(pair)
            for part in rides:
                del own[part.item.models[0].identity]

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
