"""Shards and groups of layers: everything once, whole batches, within memory."""

from dataclasses import replace
from itertools import pairwise

import hypothesis
import hypothesis.strategies as st
import pytest
from helpers_models import gpt2_shape

from universal_ray.config.study import Device, Policy
from universal_ray.errors import ConfigurationError
from universal_ray.planning.capacity import GIB, USABLE, Footprint, weight_bytes
from universal_ray.planning.shards import SHARDS, layer_bytes, layer_groups, make_shards

quickly = hypothesis.settings(max_examples=60, deadline=None, database=None, derandomize=True)
SMALL = gpt2_shape("small", "s" * 12, 12, 3072)
GPU = Footprint(16_384, Device.cuda, Policy.fp16)


@quickly
@hypothesis.given(st.integers(1, 100_000), st.integers(1, 300))
def test_shards_are_whole_batches_and_hold_every_row_once(rows, batch_rows):
    shards = make_shards(rows, batch_rows)
    assert 1 <= len(shards) <= SHARDS
    assert [shard.index for shard in shards] == list(range(len(shards)))
    assert shards[0].start == 0 and shards[-1].stop == rows
    for before, after in pairwise(shards):
        assert before.stop == after.start
        assert (before.stop - before.start) % batch_rows == 0


@quickly
@hypothesis.given(gib=st.floats(12, 200), device=st.sampled_from(Device))
def test_groups_of_layers_fit_beside_the_model_and_are_even(gib, device):
    """On a CPU the sums of one group are written while those of the next are made."""
    groups = layer_groups(SMALL, 50257, memory=gib * GIB, footprint=replace(GPU, device=device))
    assert [layer for g in groups for layer in range(g.start, g.stop)] == list(range(12))
    copies = 2 if device is Device.cpu else 1
    for group in groups:
        sums = copies * (group.stop - group.start) * layer_bytes(SMALL, 50257)
        assert sums + weight_bytes(SMALL) + 2 * 4 * 16_384 * SMALL.width <= USABLE * gib * GIB


def test_gpt2_small_is_read_once_on_80_gb_and_medium_twice():
    assert len(layer_groups(SMALL, 50257, memory=80.0 * GIB, footprint=GPU)) == 1
    assert (
        len(
            layer_groups(
                gpt2_shape("medium", "m" * 12, 24, 4096), 50257, memory=80.0 * GIB, footprint=GPU
            )
        )
        == 2
    )


@pytest.mark.parametrize("workers", [1, 2, 5, 12])
def test_no_group_of_layers_is_longer_than_a_workers_share(workers):
    groups = layer_groups(SMALL, 50257, memory=80.0 * GIB, footprint=GPU, workers=workers)
    assert [group.start for group in groups[1:]] == [group.stop for group in groups[:-1]]
    assert (groups[0].start, groups[-1].stop) == (0, SMALL.layers)
    lengths = [group.stop - group.start for group in groups]
    assert max(lengths) == -(-SMALL.layers // workers)



def test_a_layer_that_does_not_fit_is_refused():
    with pytest.raises(ConfigurationError, match=r"one layer of small take \d\.\d GiB .* 2\.0 GiB"):
        layer_groups(SMALL, 50257, memory=2.0 * GIB, footprint=GPU)
