"""What work will take: time by what it goes into, disk, memory of a worker. Pure.

What is counted are operations. How fast they go is measured of one kind, products of sums, and for
the others follows from it by the ratios here, which are rough (docs/speed.md).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter

from universal_ray.config.study import Device, ForwardType, Policy
from universal_ray.planning.capacity import duration, size
from universal_ray.planning.items import Model

PRODUCTS, FORWARD, SINGLE, DOUBLE, TRAFFIC, HOST = (
    "products", "forward", "single", "double", "traffic", "host",
)
"""Kinds of work, in FLOP but for the last two: bytes that pass through a device's memory, and
seconds of one of a worker's CPU threads."""

HALF = {Policy.fp16: 1.0, Policy.split: 1 / 3, Policy.fp32: 0.09}
"""What the products of a policy come to on a GPU, of those of half precision."""
FORWARD_SHARE = {
    ForwardType.float32: 0.077,
    ForwardType.tfloat32: 0.24,
    ForwardType.bfloat16: 0.35,
    ForwardType.float16: 0.35,
}
"""The same of a forward pass. Estimated of an H200: 48 TFLOP/s without tensor cores beside 625 of
half-precision products; with them attention, norms and activations pass through memory still."""
GPU_SHARE = {SINGLE: 0.077, DOUBLE: 0.05, TRAFFIC: 0.004}
"""The same of other work on a GPU, by kind; traffic in bytes to a FLOP."""
CPU_SHARE = {PRODUCTS: 0.97, FORWARD: 0.6, SINGLE: 0.6, DOUBLE: 0.45, TRAFFIC: 0.25}
"""Of a plain float32 product on a CPU, by kind, measured on one."""

TABLE_SECONDS = 6e-5
"""Of one CPU thread for a row of a stage's tables: 1.4 s for the 11,520 neurons of the default
study, each of which is in two."""
LIBRARIES = 6 * 2**30
"""Bytes of a worker's host beside what is planned: Python, torch, a GPU's context, Ray's."""


def forward_flops(model: Model, context: int) -> int:
    """Of one token's way through all blocks of a model, in rows of `context`; of what comes after
    these nothing is computed.
    """
    mlp = (3 if model.gated else 2) * model.d_model * model.d_mlp
    attention = 4 * model.d_model**2 + context * model.d_model  # half of each row is masked
    encoded = model.neurons * model.reads
    return round(2 * (model.blocks * (attention + mlp) + encoded) * model.stretch)


@dataclass(frozen=True, kw_only=True)
class Share:
    """Work of one kind that goes into one thing."""

    name: str
    """for people"""
    batch: str
    """of its stage's, that it is done in"""
    kind: str
    amount: int | float
    """FLOP, bytes or seconds, as its kind has it"""
    steps: int
    """tasks of one size that workers share"""


def table_share(rows: int) -> Share:
    """Of a stage's tables."""
    return Share(name="tables", batch="tables", kind=HOST, amount=TABLE_SECONDS * rows, steps=1)


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a stage takes, of what is left of it."""

    work: Sequence[Share] = ()
    kept: int | float = 0
    """bytes that it leaves in the store, what is there already among them"""
    passing: int | float = 0
    """bytes beside these that the store holds meanwhile"""
    device: Mapping[str, int | float] = field(default_factory=dict)
    """bytes of a worker's device, by what takes them, one after the other"""
    host: Mapping[str, int | float] = field(default_factory=dict)
    """the same of the memory of the host of a worker with a GPU"""


@dataclass(frozen=True)
class Speed:
    """How fast one worker is at each kind of work."""

    rates: Mapping[str, int | float]
    source: str
    """where they come from, for people"""

    def seconds(self, share: Share, workers: int) -> float:
        """Wall time: in equal steps, each on one worker at a time."""
        rounds = -(-share.steps // workers) / max(share.steps, 1)
        return share.amount * rounds / self.rates[share.kind]


def gpu_rates(
    products: float, policy: Policy, dtype: ForwardType, threads: int
) -> dict[str, int | float]:
    """By kind, of a worker whose GPU sustains some FLOP/s of sums."""
    half = products / HALF[policy]
    rates = {kind: share * half for kind, share in GPU_SHARE.items()}
    return {PRODUCTS: products, FORWARD: FORWARD_SHARE[dtype] * half, HOST: threads, **rates}


def cpu_rates(plain: float, policy: Policy, threads: int) -> dict[str, int | float]:
    """By kind, of a worker whose CPU threads make plain float32 products at some FLOP/s."""
    rates = {kind: share * plain for kind, share in CPU_SHARE.items()}
    products = rates[PRODUCTS] / (3 if policy is Policy.split else 1)
    return {**rates, PRODUCTS: products, HOST: threads}


def describe_total(
    costs: Mapping[str, Cost],
    *,
    room: int | None,
    workers: int,
    memory: int | float,
    device: Device,
    speed: Speed | None,
) -> list[tuple[str, str]]:
    """What stages take one after the other, as rows of a table on screen; `room`: bytes that the
    disk has for it, where that is known.
    """
    free = f"; there is room for {size(room)}" if room is not None else ""
    return [
        ("memory", _memory(costs, workers, memory, device)),
        ("disk", f"{size(disk_at_once(costs))} at once at most, "
         f"{size(sum(cost.kept for cost in costs.values()))} at the end{free}"),
        *_time(costs, workers, device, speed),
    ]  # fmt: skip


def disk_at_once(costs: Mapping[str, Cost]) -> float:
    """Bytes: what each stage keeps stays while those after it are made."""
    kept, most = 0.0, 0.0
    for cost in costs.values():
        kept += cost.kept
        most = max(most, kept + cost.passing)
    return most


def host_bytes(costs: Mapping[str, Cost]) -> float:
    """Of the host of one worker with a GPU, at once at most."""
    return float(LIBRARIES) + max(most for cost in costs.values() for most in cost.host.values())


def device_bytes(costs: Mapping[str, Cost]) -> float:
    """Of a worker's device, at once at most."""
    return float(max(most for cost in costs.values() for most in cost.device.values()))


def seconds_of(
    costs: Mapping[str, Cost],
    workers: int,
    speed: Speed,
    by: Callable[[Share], str] = attrgetter("name"),
) -> dict[str, float]:
    """Wall time by what it goes into, as people call it, or by something else of a share."""
    found: dict[str, float] = {}
    for cost in costs.values():
        for share in cost.work:
            found[by(share)] = found.get(by(share), 0) + speed.seconds(share, workers)
    return found


def _memory(costs: Mapping[str, Cost], workers: int, memory: int | float, device: Device) -> str:
    told = f"{size(device_bytes(costs))} of {size(memory)} in each of {workers} workers"
    if device is Device.cuda:
        told += f"; {size(host_bytes(costs))} of the memory of its host"
    return told


def _time(
    costs: Mapping[str, Cost], workers: int, device: Device, speed: Speed | None
) -> list[tuple[str, str]]:
    """Wall time for 1, 2, 4 ... workers and for those asked for, and what it goes into."""
    if not any(cost.work for cost in costs.values()):
        return [("time", "nothing is left but to look")]
    if speed is None:
        return [("time", "not known: set cluster.tflops to what one worker sustains of sums")]
    counts = sorted({2**k for k in range(workers.bit_length())} | {workers})
    each = {count: sum(seconds_of(costs, count, speed).values()) for count in counts}
    times = ", ".join(
        f"{duration(seconds)} on {n} worker{'s' if n > 1 else ''}" for n, seconds in each.items()
    )
    hours, kind = each[1] / 3600, "GPU" if device is Device.cuda else "worker"
    goes = seconds_of(costs, workers, speed)
    whole = sum(goes.values())
    parts = ", ".join(f"{name} {100 * spent / whole:.0f} %" for name, spent in goes.items())
    return [
        ("time", f"about {times}; {hours:.2g} {kind}-hours, with {speed.source}"),
        ("of which", f"{parts}; a disk that is too slow for it comes on top"),
    ]
