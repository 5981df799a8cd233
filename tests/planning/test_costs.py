"""What a command takes in all: time with its parts, disk at once, memory; what is written of it."""

from pathlib import Path

import pytest
from helpers_experiments import SHAPES, costs
from helpers_tiers import tiers

from universal_ray.config.study import Device, ForwardType, Policy
from universal_ray.planning.capacity import GIB, duration, size
from universal_ray.planning.costs import (
    CPU_SHARE,
    FORWARD,
    GPU_SHARE,
    HOST,
    PRODUCTS,
    Cost,
    Share,
    Speed,
    cpu_rates,
    describe_total,
    device_bytes,
    disk_at_once,
    gpu_rates,
    host_bytes,
    seconds_of,
)
from universal_ray.stages import registry
from universal_ray.stages.correlations.prepare import make_plan
from universal_ray.stages.total import downloads
from universal_ray.storage.finished import CORRELATIONS
from universal_ray.storage.store import Store

ROOT = Path(__file__).parents[2]
TFLOPS = 300
SIZES = [
    ("gpt2_small", 1, 40), ("gpt2_small", 1, 80), ("gpt2_medium", 4, 80), ("pythia_160m", 1, 40),
    ("gpt2_medium_all", 8, 80), ("pythia_410m", 8, 80),
]  # fmt: skip
"""Experiment, GPUs and GB of each, as deploy/README.md has them."""


def sizes_row(name: str, gpus: int, memory: int, folder: Path) -> str:
    """Of the table of deploy/README.md."""
    options = f"cluster.workers={gpus}", f"cluster.memory={memory * 1e9 / GIB}"
    found, taken = costs(name, folder, *options)
    plan = make_plan(found, frozenset())
    policy, dtype = plan.footprint.policy, found.study.models.dtype
    speed = Speed(gpu_rates(TFLOPS * 1e12, policy, dtype, found.study.cluster.threads), "")
    spent = seconds_of(taken, gpus, speed)
    flops = " and ".join(f"{each:.2g}".replace("e+", "e") for each in
                         (plan.flops, plan.forward_flops))  # fmt: skip
    return (
        f"| `{name}` | {gpus} of {memory} GB | {sum(map(len, plan.groups))} and "
        f"{plan.forward_passes} | {flops} | {size(device_bytes(taken))} | "
        f"{size(host_bytes(taken))} | {size(disk_at_once(taken))} | "
        f"{duration(sum(spent.values()))} |"
    )


def test_sizes_of_the_experiments_are_those_of_their_plans(tmp_path):
    """To write them anew: take the rows that this finds missing."""
    text = (ROOT / "deploy" / "README.md").read_text(encoding="utf-8")
    rows = [sizes_row(*each, tmp_path / str(place)) for place, each in enumerate(SIZES)]
    assert [row for row in rows if row not in text] == []
    assert f"{TFLOPS} TFLOP/s" in text


def study_row(name: str, folder: Path) -> str:
    """Of the other table there: on one GPU of 80 GB, correlations alone and all stages."""
    memory = f"cluster.memory={80e9 / GIB}"
    found, alone = costs(name, folder, memory, "cluster.workers=1", stages=[CORRELATIONS])
    store = Store(str(folder / "run"))
    taken = [alone]
    if not found.apart:
        every = registry.possible(found.study.models.site)
        taken.append({each: registry.stage(each).cost(found, store) for each in every})
    policy, dtype = found.footprint.policy, found.study.models.dtype
    speed = Speed(gpu_rates(TFLOPS * 1e12, policy, dtype, found.study.cluster.threads), "")
    ends = [
        f"{size(disk_at_once(each))}, {duration(sum(seconds_of(each, 1, speed).values()))}"
        for each in taken
    ]
    (_, told), *_ = downloads(found, store)
    pairs = sum(len(item.models) == 2 and not item.shift for item in found.items)
    models, revisions = len(found.everyone), len(found.study.models.revisions)
    each = f"{models // revisions} at {revisions} steps" if revisions else f"{models}"
    ends += ["not defined"] * bool(found.apart)
    return f"| `{name}` | {each} | {pairs} | {told.split(' of ')[0]} | {' | '.join(ends)} |"


@pytest.mark.parametrize("name", tiers(SHAPES, ["polypythias_14m"]))
def test_what_a_study_takes_is_what_its_plan_says(name, tmp_path):
    """To write them anew: take the rows that this finds missing."""
    row = study_row(name, tmp_path)
    assert row in (ROOT / "deploy" / "README.md").read_text(encoding="utf-8"), row


def test_the_plan_is_of_all_revisions(tmp_path):
    found, whole = costs("polypythias_14m", tmp_path / "all")
    steps = found.study.models.revisions
    one, alone = costs("polypythias_14m", tmp_path / "one", f"models.revisions=[{steps[-1]}]")
    assert len(found.everyone) == len(steps) * len(one.everyone) == 9 * len(steps)
    for stage, cost in whole.items():
        shared = alone[stage].kept if stage != "profile" else alone[stage].kept - 16 * 10_000_000
        assert cost.kept == pytest.approx(len(steps) * shared, rel=0.01), stage
    for name in ("products", "forward passes", "reductions", "roles", "tables"):
        of, each = (
            sum(share.amount for cost in taken.values() for share in cost.work
                if share.name == name)
            for taken in (whole, alone)
        )  # fmt: skip
        assert of == pytest.approx(len(steps) * each, rel=0.01), name
    (_, told), *_ = downloads(found, Store(str(tmp_path / "all")))
    assert f"of {9 * len(steps)} models" in told


def test_every_stage_is_in_the_time_and_on_the_disk(tmp_path):
    found, taken = costs("gpt2_small", tmp_path)
    assert list(taken) == list(registry.STAGES)
    assert all(cost.work and cost.kept and cost.device and cost.host for cost in taken.values())
    speed = Speed(gpu_rates(3e14, Policy.fp16, ForwardType.tfloat32, 8), "a guess")
    rows = dict(describe_total(
        taken, room=None, workers=1, memory=80 * GIB, device=Device.cuda, speed=speed
    ))  # fmt: skip  # fmt: skip
    of_stages = ("products", "forward passes", "reductions", "profile", "roles", "report", "tables")
    for name in of_stages:
        assert name in rows["of which"]
    assert "of the memory of its host" in rows["memory"]
    ids, neurons, shards = 50_257, 5 * 12 * 3072, 4
    sums_by_id = 20 * ids * neurons * shards
    assert taken["profile"].kept > sums_by_id
    assert disk_at_once(taken) > sums_by_id + make_plan(found, frozenset()).bytes_kept


def test_float32_forward_passes_take_as_long_as_products_on_a_gpu(tmp_path):
    """As docs/speed.md says; with tensor cores a third of that."""
    shares = {}
    for dtype in (ForwardType.float32, ForwardType.tfloat32):
        _, taken = costs("gpt2_small", tmp_path / dtype.value)
        speed = Speed(gpu_rates(6.25e14, Policy.fp16, dtype, 8), "")
        spent = seconds_of(taken, 1, speed)
        shares[dtype] = spent["forward passes"] / spent["products"]
    assert 0.9 < shares[ForwardType.float32] < 1.1
    assert 0.25 < shares[ForwardType.tfloat32] < 0.4


def share(name: str, kind: str, amount: float, steps: int) -> Share:
    return Share(name=name, batch="sums", kind=kind, amount=amount, steps=steps)


def test_time_is_that_of_the_longest_share_and_adds_up():
    speed = Speed({PRODUCTS: 1e12, FORWARD: 5e11, HOST: 2}, "a guess")
    products = share("products", PRODUCTS, 6e12, 6)
    assert [speed.seconds(products, workers) for workers in (1, 4, 6, 60)] == [6, 2, 1, 1]
    taken = {
        "one": Cost(work=[products, share("forward passes", FORWARD, 3e12, 6)],
                    device={"sums": 5.0}, host={"sums": 1.0}),
        "two": Cost(work=[share("tables", HOST, 8, 1)], device={"x": 7.0}, host={"x": 3.0}),
    }  # fmt: skip
    assert seconds_of(taken, 4, speed) == {"products": 2, "forward passes": 2, "tables": 4}
    rows = dict(describe_total(
        taken, room=None, workers=4, memory=10, device=Device.cpu, speed=speed
    ))  # fmt: skip
    assert rows["time"].startswith("about 16 s on 1 worker, 10 s on 2 workers, 8 s on 4 workers; ")
    assert rows["of which"].startswith("products 25 %, forward passes 25 %, tables 50 %")
    assert rows["memory"] == "7 B of 10 B in each of 4 workers"
    unknown = dict(describe_total(
        taken, room=3 * GIB, workers=4, memory=10, device=Device.cuda, speed=None
    ))  # fmt: skip
    assert "cluster.tflops" in unknown["time"]
    assert unknown["disk"].endswith(" at the end; there is room for 3.0 GiB")
    nothing = {"one": Cost(kept=5, device={"sums": 5.0}, host={"sums": 1.0})}
    told = dict(describe_total(
        nothing, room=None, workers=1, memory=10, device=Device.cpu, speed=speed
    ))  # fmt: skip
    assert told["time"] == "nothing is left but to look"


@pytest.mark.parametrize(
    ("costs_of", "most"),
    [
        ([(100, 50), (10, 0)], 150),
        ([(100, 50), (80, 0)], 180),
        ([(100, 50), (30, 40)], 170),
    ],
)
def test_disk_at_once_has_what_earlier_stages_leave(costs_of, most):
    taken = {str(n): Cost(kept=kept, passing=passing)
             for n, (kept, passing) in enumerate(costs_of)}  # fmt: skip
    assert disk_at_once(taken) == most


@pytest.mark.parametrize("policy", Policy)
def test_every_kind_of_work_has_a_rate(policy):
    kinds = {PRODUCTS, FORWARD, HOST, *GPU_SHARE}
    assert set(gpu_rates(1e14, policy, ForwardType.float32, 8)) == kinds
    assert set(cpu_rates(1e11, policy, 2)) == kinds == {*CPU_SHARE, HOST}
