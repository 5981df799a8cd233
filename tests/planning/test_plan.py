"""Planning: which units and items there are, what they are called, cost, and what is left."""

import hashlib
from itertools import permutations

import hypothesis
import hypothesis.strategies as st
import pytest
from helpers_models import gpt2_shape

from universal_ray.config.study import Device, ModelsConfig, Pairs, Policy
from universal_ray.errors import ConfigurationError
from universal_ray.planning.capacity import GIB, Footprint, size
from universal_ray.planning.items import (
    Layout,
    Model,
    calibration_file,
    layer_file,
    make_items,
    make_units,
    marker,
    unit_rows,
)
from universal_ray.stages.correlations.plan import Plan, describe

quickly = hypothesis.settings(max_examples=40, deadline=None, database=None, derandomize=True)

CONTEXT = 16


def model(name: str, layers: int = 2, width: int = 8, identity: str | None = None) -> Model:
    return gpt2_shape(name, identity or hashlib.sha256(name.encode()).hexdigest(), layers, width)


MODELS = [model("a"), model("b"), model("c", layers=3), model("d", width=6)]


def units_of(rows: int, step: int, settings: str = "settings", changed: int | None = None):
    """Units over `rows` rows, the content of each row being its number; one row may differ."""
    ranges = unit_rows(rows, CONTEXT, step * CONTEXT)
    hashes = [
        str([-1 if row == changed else row for row in range(start, stop)])
        for start, stop in ranges
    ]
    return make_units(ranges, hashes, bits_fingerprint=settings, step=step)


def plan_of(rows=21, step=4, fold=2, done=(), pairs=Pairs.reference) -> Plan:
    items = make_items([MODELS], pairs)
    layout = Layout(units_of(rows, step), fold)
    return make_plan(MODELS, items, layout, done)


def make_plan(models, items, layout, done=(), memory=1.0 * GIB) -> Plan:
    footprint = Footprint(2 * CONTEXT, Device.cpu, Policy.fp32)
    return Plan(
        models=tuple(models),
        references=(models[0],),
        items=items,
        layout=layout,
        context=CONTEXT,
        footprint=footprint,
        memory=memory,
        workers=3,
        done=frozenset(done),
    )


# Units


@quickly
@hypothesis.given(
    rows=st.integers(1, 200), context=st.integers(1, 50), extra=st.integers(0, 49),
    step=st.integers(1, 40),
)
def test_units_cover_every_row_once_and_in_order(rows, context, extra, step):
    ranges = unit_rows(rows, context, step * context + min(extra, context - 1))
    assert [row for start, stop in ranges for row in range(start, stop)] == list(range(rows))
    assert all(stop - start == step for start, stop in ranges[:-1])
    assert 1 <= ranges[-1][1] - ranges[-1][0] <= step


def test_a_unit_shorter_than_a_row_is_refused():
    with pytest.raises(ConfigurationError, match=r"units.tokens \(15\) is less than one row of 16"):
        unit_rows(10, 16, 15)


def test_only_a_short_last_unit_is_not_full():
    assert [unit.full for unit in units_of(9, 4)] == [True, True, False]
    assert [unit.full for unit in units_of(8, 4)] == [True, True]


def test_names_change_with_content_and_settings_only():
    before = [unit.name for unit in units_of(12, 4)]
    assert [unit.name for unit in units_of(12, 4)] == before
    assert [unit.name for unit in units_of(23, 4)][:3] == before  # appended tokens
    assert set(before).isdisjoint(unit.name for unit in units_of(12, 4, "other settings"))
    altered = [unit.name for unit in units_of(12, 4, changed=5)]
    assert [one == other for one, other in zip(before, altered, strict=True)] == [
        True, False, True,
    ]
    partial, completed = units_of(10, 4)[-1], units_of(12, 4)[-1]
    assert partial.index == completed.index and partial.name != completed.name
    assert len(set(before)) == 3 and sorted(before) == before


# Blocks and folders


@quickly
@hypothesis.given(rows=st.integers(1, 120), step=st.integers(1, 7), fold=st.integers(1, 9))
def test_blocks_then_trailing_units_hold_every_unit_once(rows, step, fold):
    hypothesis.assume(rows >= step)
    layout = Layout(units_of(rows, step), fold)
    in_order = [unit for block in layout.blocks for unit in block.units] + list(layout.trailing)
    assert in_order == list(layout.units)
    assert all(len(block.units) == fold for block in layout.blocks)
    assert all(unit.full for block in layout.blocks for unit in block.units)
    assert sum(unit.full for unit in layout.trailing) < fold
    item = make_items([MODELS], Pairs.reference)[0]
    folders = layout.folders(item)
    assert len({folder for folder, _ in folders}) == len(layout.blocks) + len(layout.trailing)
    assert [unit for folder, units in folders for unit in units or [folder]] == [
        item.unit_folder(unit) for unit in layout.units
    ]


def test_blocks_keep_their_names_when_tokens_are_appended():
    before, after = Layout(units_of(18, 4), 2), Layout(units_of(40, 4), 2)
    assert [b.name for b in before.blocks] == [b.name for b in after.blocks][:2]
    assert len(after.blocks) == 5
    other = Layout(units_of(18, 4, changed=0), 2)
    assert other.blocks[0].name != before.blocks[0].name
    assert other.blocks[1].name == before.blocks[1].name


def test_paths_do_not_meet():
    layout = Layout(units_of(18, 4), 2)
    items = make_items([MODELS], Pairs.all)
    paths = [calibration_file(m) for m in MODELS]
    for item in items:
        for folder, units in layout.folders(item):
            for place in [folder, *units]:
                paths += [marker(place), *(layer_file(place, k) for k in range(item.layers))]
    assert len(set(paths)) == len(paths)
    assert all(" " not in path and ":" not in path for path in paths)


# Items


def test_reference_pairs_and_all_pairs():
    reference, every = make_items([MODELS], Pairs.reference), make_items([MODELS], Pairs.all)
    assert [item.models for item in reference[:4]] == [(m,) for m in MODELS]
    assert {frozenset(m.name for m in item.models) for item in reference[4:]} == {
        frozenset("ab"), frozenset("ac"), frozenset("ad"),
    }
    assert len(every) == 4 + 6
    assert {item.key for item in reference} < {item.key for item in every}
    assert len({item.key for item in every}) == len(every)


@pytest.mark.parametrize("pairs", Pairs)
def test_items_are_the_same_whoever_is_reference_and_in_any_order(pairs):
    together = {item.key: item for item in make_items([MODELS], Pairs.all)}
    for order in permutations(MODELS):
        for item in make_items([list(order)], pairs):
            assert together[item.key] == item  # the same rows first, so the same files


def test_items_are_known_by_content_not_by_name():
    renamed = [gpt2_shape(f"/elsewhere/{m.name}", m.identity, m.layers, m.width) for m in MODELS]
    assert [item.key for item in make_items([renamed], Pairs.all)] == [
        item.key for item in make_items([MODELS], Pairs.all)
    ]


# Cost and what is left


def test_bytes_and_flops_are_those_of_the_sums():
    every = make_items([MODELS], Pairs.all)
    items = {frozenset(m.name for m in item.models): item for item in every}
    a, pair = items[frozenset("a")], items[frozenset("cd")]
    assert a.sums_bytes == 4 * (2 * 8 * 8) + (8 + 4 + 4) * 16  # Grams; Σu, minimum, maximum
    assert a.flops(100) == 100 * 2 * 8 * 8  # half of a symmetric matrix
    assert pair.sums_bytes == 4 * (3 * 8) * (2 * 6)
    assert pair.flops(100) == 2 * 100 * (3 * 8) * (2 * 6)
    assert pair.layers == pair.models[0].layers


def test_bytes_of_the_papers_own_study():
    first, second = (model(name, layers=12, width=3072) for name in "xy")
    pair = make_items([[first, second]], Pairs.reference)[2]
    assert pair.sums_bytes == 4 * 36_864**2


def test_work_left_is_what_is_not_done():
    plan = plan_of()  # five full units and a partial one; four models and three pairs
    assert [(work.unit.index, len(work.items)) for work in plan.work] == [(i, 7) for i in range(6)]
    every = [(unit.index, item.key) for unit in plan.layout.units for item in plan.items]
    kept = plan.items[5]
    some = plan_of(done=[e for e in every if e[0] < 2] + [(3, kept.key)])
    assert [work.unit.index for work in some.work] == [2, 3, 4, 5]
    assert kept not in some.work[1].items and len(some.work[1].items) == 6
    assert some.flops == sum(
        item.flops(some.tokens(unit))
        for unit in some.layout.units for item in some.items
        if unit.index >= 2 and (unit.index, item.key) != (3, kept.key)
    )
    one = sum(item.sums_bytes for item in plan.items)
    assert some.bytes_to_write == 4 * one - kept.sums_bytes
    finished = plan_of(done=every)
    assert (finished.work, finished.flops, finished.bytes_to_write) == ([], 0, 0)


def test_adding_a_model_or_tokens_leaves_only_theirs_to_do():
    items = make_items([MODELS[:3]], Pairs.all)
    old = make_plan(MODELS[:3], items, Layout(units_of(20, 4), 2))
    done = [(unit.index, item.key) for unit in old.layout.units for item in old.items]
    left = plan_of(20, done=done, pairs=Pairs.all).work
    new = {item.key for work in left for item in work.items}
    assert all(MODELS[3].short in key for key in new) and len(new) == 4
    grown = make_plan(old.models, old.items, Layout(units_of(28, 4), 2), done)
    assert [work.unit.index for work in grown.work] == [5, 6]


def test_totals():
    plan = plan_of(rows=21, step=4, fold=2)
    assert plan.total_tokens == 21 * CONTEXT
    assert sum(plan.tokens(unit) for unit in plan.layout.units) == plan.total_tokens
    assert plan.flops == sum(item.flops(plan.total_tokens) for item in plan.items)
    one = sum(item.sums_bytes for item in plan.items)
    assert plan.bytes_kept == one * (2 * 2 + 2)  # two float64 blocks, two float32 units
    assert plan.worker_bytes > one
    assert [len(item.models) for item in plan.pairs] == [2, 2, 2]


def test_describe_says_what_will_be_done():
    plan = plan_of(done=[(0, item.key) for item in plan_of().items])
    named = ModelsConfig(reference="a", compared=["b", "c", "d"])
    rows = dict(describe(plan, named, "neuron"))
    assert rows["reference"] == "a" and rows["compared"] == "b, c, d" and "revisions" not in rows
    assert rows["site"] == "mlp_post"
    assert rows["neurons"] == "2 x 8 = 16 in the reference, 68 in all"
    assert rows["tokens"] == "336 in rows of 16"
    assert rows["units"] == "6 (2 blocks of 2, 2 after them), 1 already done"
    assert rows["batches"] == "32 tokens, fp32"
    assert rows["pairs"] == "3, both directions of each"
    # Five of six units are left, one of a single row; a model's Gram is half of a product.
    tokens, products = (4 * 4 + 1) * 16, 2 * 16 * (16 + 24 + 12)
    flops = tokens * (products + 2 * 16 * 8 + 24 * 8 + 12 * 6)
    assert plan.flops == flops
    # A block of width 8 has a stream of 2: four matrices of attention, two of the MLP.
    forward = tokens * sum(
        2 * m.layers * (4 * m.d_model**2 + CONTEXT * m.d_model + 2 * m.d_model * m.width)
        for m in MODELS
    )
    assert rows["arithmetic left"] == (
        f"{flops:.3g} FLOP of sums, {forward:.3g} of forward passes"
    )
    assert rows["passes"] == "1 over each unit, with 4 forward passes of models"
    model_bytes = 2 * 4 * 16 * (8 + 4) + 4 * 24 * (8 + 4) + 4 * 12 * (6 + 4)
    one = model_bytes + 4 * 16 * (16 + 24 + 12)
    kept = one * (2 * 2 + 2)
    assert rows["to write"] == f"{size(5 * one)}, of which {size(kept)} stay as blocks"
    assert plan.passing_bytes == one * 6  # all units, where as many may wait and be written


def test_size_is_for_people():
    assert [size(n) for n in (0, 1023, 1024, 1536 * 1024, 5 * 2**30, 3 * 2**40, 5000 * 2**40)] == [
        "0 B", "1023 B", "1.0 KiB", "1.5 MiB", "5.0 GiB", "3.0 TiB", "5000.0 TiB",
    ]
