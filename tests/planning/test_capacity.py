"""What fits in memory together, how long units and batches are, and that every experiment fits."""

from functools import cache
from itertools import pairwise, product
from pathlib import Path

import hypothesis
import hypothesis.strategies as st
import pytest
import torch
import yaml
from helpers_experiments import SHAPES, outlined
from helpers_models import gpt2_shape
from helpers_tiers import tiers

from universal_ray.config.study import Device, Pairs, Policy, UnitsConfig
from universal_ray.errors import ConfigurationError
from universal_ray.planning import capacity
from universal_ray.planning.capacity import (
    ADDITIONS,
    GIB,
    GPU_GIB,
    LEAST_BATCHES,
    OPERAND_BYTES,
    USABLE,
    Footprint,
    Part,
    choose,
    duration,
)
from universal_ray.planning.items import make_items
from universal_ray.stages.correlations.plan import Plan
from universal_ray.stages.correlations.prepare import make_plan
from universal_ray.stages.correlations.sums import Sums

CONF = Path(__file__).parents[2] / "conf"
SMALL = [gpt2_shape(name, name * 12, 3, 8) for name in "abcd"]
PAPERS = list(product(["gpt2_small", "gpt2_medium", "pythia_160m"], ["split", "fp32"]))
quickly = hypothesis.settings(max_examples=60, deadline=None, database=None, derandomize=True)


@pytest.fixture(scope="module")
def planned(tmp_path_factory):
    """The plan of an experiment, from its configuration and its models' shapes."""
    folder = tmp_path_factory.mktemp("experiments")

    @cache
    def planned(name: str, *options: str) -> Plan:
        return make_plan(outlined(name, folder, *options)[0], frozenset())

    return planned


def experiments() -> list[str]:
    return sorted(path.stem for path in (CONF / "experiment").glob("*.yaml"))


def test_every_experiment_is_planned_here():
    files = {name: CONF / "experiment" / f"{name}.yaml" for name in experiments()}
    keys = {name: yaml.safe_load(path.read_text()) for name, path in files.items()}
    cuda = {name for name, own in keys.items() if own.get("cluster", {}).get("device") == "cuda"}
    as_these = {name for name, own in keys.items() if cuda & {*map(str, own.get("defaults", ()))}}
    assert cuda | as_these == set(SHAPES)


@pytest.mark.parametrize(
    ("name", "policy"),
    tiers(product(sorted(SHAPES), [None, "split", "fp32"]), [*product(SHAPES, [None]), *PAPERS]),
)
def test_every_experiment_fits_a_gpu_of_80_gb(planned, name, policy):
    plan = planned(name, *([f"precision.moments={policy}"] if policy else []))
    eighty = 80e9
    if policy is None:
        assert plan.footprint.policy is Policy.fp16
        assert plan.worker_bytes <= eighty
    assert plan.worker_bytes <= USABLE * GPU_GIB * GIB
    parts = [part for group in plan.groups for held in group for part in held]
    whole = [(part.item.key, layer) for part in parts for layer in range(part.start, part.stop)]
    assert len(set(whole)) == len(whole)
    assert set(whole) == {(i.key, layer) for i in plan.items for layer in range(i.layers)}
    units = plan.layout.units
    tokens = plan.tokens(units[0])
    assert len(units) >= plan.workers
    assert len(plan.layout.blocks) >= capacity.BLOCKS - 1
    assert tokens % (plan.batch_rows * plan.context) == 0
    assert LEAST_BATCHES[Device.cuda] <= tokens / plan.footprint.batch_tokens <= ADDITIONS
    # Copying sums of 4 bytes at 20 GB/s against making them at 600 TFLOP/s of half precision, a
    # third of that by three products, or 60 in float32.
    rate = {Policy.fp16: 600e12, Policy.split: 200e12, Policy.fp32: 60e12}
    assert (4 / 20e9) / (2 * tokens / rate[plan.footprint.policy]) < 0.05


def test_ten_medium_pairs_are_ten_passes_and_four_small_ones_are_one(planned):
    medium, small = planned("gpt2_medium_all"), planned("gpt2_small")
    pairs = [sum(len(part.item.models) == 2 for part in held)
             for group in medium.groups for held in group]
    assert sum(pairs) == 10 and max(pairs) == 1
    assert len(small.groups) == 1
    larger = planned("gpt2_medium_all", "cluster.memory=140")
    assert len(larger.groups) < len(medium.groups)


def test_the_papers_small_study_is_planned_to_the_byte_and_the_flop(planned):
    plan = planned("gpt2_small")
    neurons, tokens = 36_864, 195_313 * 512
    assert plan.flops == tokens * (4 * 2 * neurons**2 + 5 * neurons * 3072)
    assert sum(item.sums_bytes for item in plan.pairs) == 4 * 4 * neurons**2


@pytest.mark.parametrize("policy", Policy)
def test_planned_bytes_are_those_of_the_tensors(policy):
    """Of the sums of a pass, and of the operands of a batch."""
    items = make_items([SMALL[:2]], Pairs.reference)
    held = tuple(Part(item, 0, item.layers) for item in items)
    sums = Sums(held, "cpu")
    stored = [sums.of(part, layer) for part in held for layer in range(part.start, part.stop)]
    counts = sum(tensors.pop("n").nbytes for tensors in stored)
    assert counts == 8 * len(stored)
    bytes_stored = sum(tensor.nbytes for tensors in stored for tensor in tensors.values())
    assert bytes_stored == sum(part.sums_bytes for part in held)
    u_TN = torch.randn(16, SMALL[0].neurons)
    factors = sums.add_model(SMALL[0], u_TN, torch.ones(16, dtype=torch.bool), policy.value)
    each = OPERAND_BYTES[Device.cpu][policy]
    assert sum(factor.nbytes for factor in factors) == each * u_TN.numel()


# Lengths


@quickly
@hypothesis.given(
    total=st.integers(1, 10**9), context=st.sampled_from([16, 128, 512, 2048, 8192]),
    device=st.sampled_from(Device), policy=st.sampled_from(Policy),
)
def test_chosen_lengths_are_whole_batches_and_few_additions(total, context, device, policy):
    units = choose(UnitsConfig(), total_tokens=total, context=context, device=device, policy=policy)
    assert units.batch and units.tokens and units.fold
    rows = units.batch // context
    assert rows >= 1
    assert units.tokens % (rows * context) == 0
    assert 1 <= units.tokens // (rows * context) <= ADDITIONS
    assert 1 <= units.fold <= capacity.FOLD
    again = choose(units, total_tokens=10 * total, context=context, device=device, policy=policy)
    assert again == units  # what is set stays, however the study grows


def test_what_is_given_is_kept_and_the_rest_follows():
    units = choose(
        UnitsConfig(tokens=1000),
        total_tokens=10_000,
        context=100,
        device=Device.cpu,
        policy=Policy.fp32,
    )
    assert (units.tokens, units.batch, units.fold) == (1000, 1000, 2)
    units = choose(
        UnitsConfig(batch=200, fold=3),
        total_tokens=10_000,
        context=100,
        device=Device.cpu,
        policy=Policy.fp32,
    )
    assert (units.tokens, units.batch, units.fold) == (800, 200, 3)
    with pytest.raises(ConfigurationError, match=r"units.batch \(99\) is less than one row of 100"):
        choose(
            UnitsConfig(batch=99),
            total_tokens=10_000,
            context=100,
            device=Device.cpu,
            policy=Policy.fp32,
        )


# Passes


@quickly
@hypothesis.given(
    memory=st.floats(1e4, 1e6), pairs=st.sampled_from(Pairs), device=st.sampled_from(Device),
    policy=st.sampled_from(Policy),
)
def test_passes_hold_everything_once_and_fit(memory, pairs, device, policy):
    items = make_items([SMALL], pairs)
    footprint = Footprint(32, device, policy)
    try:
        passes = [held for group in footprint.groups(items, memory) for held in group]
    except ConfigurationError:
        one_layer = min(footprint.bytes_of([Part(item, 0, 1)]) for item in items)
        assert one_layer > USABLE * memory or one_layer * 3 > USABLE * memory
        return
    assert all(footprint.bytes_of(held) <= USABLE * memory for held in passes)
    seen = [(part.item.key, layer) for held in passes for part in held
            for layer in range(part.start, part.stop)]
    assert sorted(seen) == sorted((i.key, layer) for i in items for layer in range(i.layers))


def test_more_memory_never_takes_more_passes():
    items = make_items([SMALL], Pairs.all)
    footprint = Footprint(32, Device.cuda, Policy.fp16)
    least = max(footprint.bytes_of([Part(item, 0, 1)]) for item in items) / USABLE
    factors = 1.01, 1.5, 2, 4, 20
    counts = [len(sum(footprint.groups(items, least * factor), ())) for factor in factors]
    assert all(before >= after for before, after in pairwise(counts))
    assert counts[0] > len(items) and counts[-1] == 1


@pytest.mark.parametrize(
    ("name", "forward_passes"),
    [("gpt2_small", 5), ("gpt2_medium", 8), ("pythia_410m", 16), ("gpt2_medium_all", 20)],
)
def test_a_models_own_sums_cost_no_forward_pass_of_their_own(planned, name, forward_passes):
    """As many as the pairs alone need, which on 80 GB are one to a pass but for the small models.
    """
    plan = planned(name)
    assert plan.forward_passes == forward_passes
    counted = [{m.identity for part in held for m in part.item.models}
               for group in plan.groups for held in group]
    assert sum(map(len, counted)) == forward_passes


def test_pairs_that_are_held_together_share_their_models():
    items = make_items([SMALL], Pairs.all)
    footprint = Footprint(32, Device.cuda, Policy.fp16)
    triangle = [i for i in items if {m.name for m in i.models} <= {"a", "b", "c"}]
    memory = footprint.bytes_of([Part(item, 0, item.layers) for item in triangle]) / USABLE
    first, *_ = sum(footprint.groups(items, memory * 1.001), ())
    assert {part.item.key for part in first} == {item.key for item in triangle}


def test_own_sums_of_a_pair_that_is_cut_ride_where_there_is_room():
    deep = [gpt2_shape(name, name * 12, 8, 8) for name in "ab"]
    items = make_items([deep], Pairs.reference)
    footprint = Footprint(32, Device.cuda, Policy.fp16)
    *own, pair = items
    half = [*(Part(item, 0, item.layers) for item in own), Part(pair, 0, 4)]
    (group,) = footprint.groups(items, footprint.bytes_of(half) / USABLE * 1.001)
    assert len(group) > 1  # together, as one piece of work
    assert all(held[-1].item == pair for held in group)
    assert {part.item for held in group for part in held} == set(items)


def test_a_layer_that_does_not_fit_names_the_keys():
    items = make_items([SMALL], Pairs.reference)
    with pytest.raises(ConfigurationError, match=r"lower units.batch .* \(cluster.memory\)"):
        Footprint(10**6, Device.cuda, Policy.fp32).groups(items, 1e6)


def test_durations_are_for_people():
    assert [duration(s) for s in (3.4, 119.0, 600.0, 7300.0)] == ["3 s", "119 s", "10 min", "2.0 h"]
