"""A sweep in stacked passes against one full pass of a plain model per neuron and value."""

from collections.abc import Iterator

import pytest
import torch

from universal_ray.benchmark.loop import Means, Shape
from universal_ray.benchmark.sweep import beside
from universal_ray.config.study import Device, ForwardType, Policy

GPT2_SMALLS_DEPTH = Shape(layers=12, width=512, seeds=1, tokens=64, context=64)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Threads that wait for each other count as busy."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


MEANS = Means(Device.cpu, 1, Policy.fp32, ForwardType.float32)


@pytest.mark.thorough
def test_a_sweep_of_late_neurons_has_the_losses_of_full_passes():
    shape = Shape(layers=3, width=64, seeds=1, tokens=16, context=16)
    assert beside(shape, MEANS)["largest_difference"] < 1e-5


@pytest.mark.speed
@pytest.mark.usefixtures("one_thread")
def test_a_sweep_of_late_neurons_is_three_times_as_fast_as_full_passes():
    found = beside(GPT2_SMALLS_DEPTH, MEANS)
    assert found["largest_difference"] < 1e-5
    assert found["ratio"] >= 3, f"{found['ratio']:.2f} times as fast"
