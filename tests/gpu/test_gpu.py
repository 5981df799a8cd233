"""The kernel on a GPU against float64: every policy, long chunks, pairs with r near 1."""

import pytest
import torch

from universal_ray.benchmark.exactness import activations, correlations, exact_correlations
from universal_ray.benchmark.loop import SUMS, Means, Shape, make_study, measure
from universal_ray.config.study import Device, ForwardType, Policy
from universal_ray.planning.capacity import BATCH
from universal_ray.runtime.scheduler import Scheduler

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")

BOUNDS = {"fp32": 1e-6, "split": 1e-6, "fp16": 1e-5}
LAYERS, WIDTH = 2, 512


@pytest.mark.parametrize(
    ("policy", "chunk"),
    [(policy, chunk) for policy in BOUNDS
     for chunk in sorted({1024, 4096, BATCH[Device.cuda][Policy(policy)]})],
)
def test_every_policy_keeps_its_bound_at_every_chunk_and_r(policy, chunk):
    x_TN, y_TM = activations(262_144, LAYERS, WIDTH, "cuda")
    exact_NM = exact_correlations(x_TN, y_TM)
    error_NM = (correlations(x_TN, y_TM, LAYERS, policy, chunk) - exact_NM).abs()
    for low, high in [(0, 0.5), (0.5, 0.99), (0.99, 0.9999), (0.9999, 1.01)]:
        inside_NM = (exact_NM.abs() >= low) & (exact_NM.abs() < high)
        assert inside_NM.any()
        assert error_NM[inside_NM].max() < BOUNDS[policy]


def test_the_reference_on_a_gpu_is_that_of_the_cpu():
    x_TN, y_TM = activations(8_192, LAYERS, 16, "cuda")
    torch.testing.assert_close(
        exact_correlations(x_TN, y_TM).cpu(), exact_correlations(x_TN.cpu(), y_TM.cpu()),
        rtol=0, atol=1e-12,
    )


def test_what_is_computed_twice_has_the_same_bits():
    x_TN, y_TM = activations(32_768, LAYERS, WIDTH, "cuda")
    first, second = (correlations(x_TN, y_TM, LAYERS, "fp16", 16_384) for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize("policy", Policy)
def test_a_worker_takes_no_more_memory_than_is_planned(policy, tmp_path):
    means = Means(Device.cuda, 1, policy, ForwardType.float32)
    shape = Shape(layers=4, width=1024, seeds=3, tokens=65_536, context=512)
    study = make_study(tmp_path, shape, means)
    # As in a study, where one unit is written while the next is computed.
    timing, stage = measure(study, Scheduler(study.cluster), SUMS)
    assert timing.peak_bytes < stage.plan.worker_bytes + 2**28  # and what libraries take
