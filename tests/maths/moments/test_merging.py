"""Sums of disjoint tokens merge to those of all of them, in any grouping."""

import copy
from itertools import pairwise

import hypothesis
import hypothesis.strategies as st
import numpy as np
import torch

from universal_ray.maths.moments.accumulate import POLICIES, LayerSums, ModelMoments, merge

quickly = hypothesis.settings(
    max_examples=25, deadline=None, database=None, derandomize=True
)


def random_sums(seed: int) -> LayerSums:
    rng = np.random.default_rng(seed)
    model = ModelMoments(1, 4, "cpu")
    u_TN = torch.from_numpy(rng.standard_normal((rng.integers(1, 30), 4))).float()
    model.update(u_TN, torch.from_numpy(rng.random(len(u_TN)) < 0.9), "fp32")
    return {**model.layer_sums(0), "cross": torch.from_numpy(rng.standard_normal((4, 6)))}


@quickly
@hypothesis.given(seeds=st.lists(st.integers(0, 10**6), min_size=3, max_size=6), at=st.data())
def test_merging_is_associative_and_leaves_its_inputs(seeds, at):
    parts = [random_sums(seed) for seed in seeds]
    before = copy.deepcopy(parts)
    cut = at.draw(st.integers(1, len(parts) - 1))
    whole = merge(parts)
    prefix_first = merge([merge(parts[:cut]), *parts[cut:]])
    nested = merge([merge(parts[:cut]), merge(parts[cut:])])
    for name, value in whole.items():
        assert value.dtype == torch.float64
        assert torch.equal(prefix_first[name], value)
        torch.testing.assert_close(nested[name], value, rtol=1e-14, atol=1e-13)
        every = torch.stack([part[name].double() for part in parts])
        extreme = {"minimum": every.amin(0), "maximum": every.amax(0)}.get(name)
        torch.testing.assert_close(value, every.sum(0) if extreme is None else extreme)
    whole["sum"] += 1
    for part, old in zip(parts, before, strict=True):
        for name in part:
            assert torch.equal(part[name], old[name])


@quickly
@hypothesis.given(
    seed=st.integers(0, 10**6),
    cuts=st.sets(st.integers(1, 59), max_size=6),
    policy=st.sampled_from(POLICIES),
)
def test_any_split_of_the_tokens_gives_the_same_sums(seed, cuts, policy):
    rng = np.random.default_rng(seed)
    u_TN = torch.from_numpy(rng.integers(-50, 50, (60, 6))).float()  # sums of integers are exact
    kept_T = torch.from_numpy(rng.random(60) < 0.7)

    def sums(edges):
        parts = []
        for start, stop in pairwise(edges):
            model = ModelMoments(2, 3, "cpu")
            model.update(u_TN[start:stop].clone(), kept_T[start:stop], policy)
            parts.append([model.layer_sums(layer) for layer in range(2)])
        return [merge(layer) for layer in zip(*parts, strict=True)]

    for one, other in zip(sums([0, 60]), sums([0, *sorted(cuts), 60]), strict=True):
        for name in one:
            assert torch.equal(one[name], other[name])
