"""The kernel on a GPU against float64: every policy, long chunks, pairs with r near 1."""

import numpy as np
import pytest
import torch

from universal_ray.benchmark.exactness import activations, correlations, exact_correlations
from universal_ray.benchmark.loop import (
    SUMS,
    Means,
    Shape,
    make_inputs,
    make_study,
    measure,
)
from universal_ray.config.study import Device, ForwardType, Policy
from universal_ray.errors import MemoryShortError
from universal_ray.models.capture import Capture
from universal_ray.models.source import resolve
from universal_ray.planning.capacity import BATCH, RING_BYTES
from universal_ray.runtime.scheduler import Scheduler
from universal_ray.runtime.staging import Staging
from universal_ray.runtime.worker import refused_memory
from universal_ray.stages.correlations.correlate import correlate

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")

BOUNDS = {"fp32": 1e-6, "split": 1e-6, "fp16": 1e-5}
LAYERS, WIDTH = 2, 512


def test_matrices_correlate_as_on_the_host():
    x_TN, y_TM = activations(16_384, LAYERS, 32, "cuda")
    found = correlate(x_TN, y_TM, layers=LAYERS, device="cuda", policy="fp32").pairs
    expected = correlate(x_TN.cpu(), y_TM.cpu(), layers=LAYERS).pairs
    for name in ("max_corr", "baseline_corr", "corr_se"):
        np.testing.assert_allclose(found[name], expected[name], atol=2e-6)


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


def test_copies_to_the_host_hold_no_page_locked_memory_but_the_ring():
    staging = Staging()
    before = torch.cuda.host_memory_stats()["allocated_bytes.current"]
    for size in (3, 2**20 + 1, 3 * 2**26 + 5):
        tensor = torch.randn(size, device="cuda")
        assert torch.equal(staging.copy(tensor), tensor.cpu())
    after = torch.cuda.host_memory_stats()["allocated_bytes.current"]
    assert after - before <= RING_BYTES


def test_a_gpu_without_memory_is_told_as_such():
    with pytest.raises(MemoryShortError), refused_memory():
        torch.empty(2**50, device="cuda")
    with pytest.raises(MemoryShortError), refused_memory():
        torch.empty(2**50, pin_memory=True)


def test_a_forward_pass_waits_for_nothing(tmp_path):
    names, _ = make_inputs(tmp_path, Shape(layers=2, width=256, seeds=1, tokens=1024))
    capture = Capture(resolve(names[0]), "cuda")
    tokens_BP = torch.zeros(2, 64, dtype=torch.int64, device="cuda")
    torch.cuda.set_sync_debug_mode("error")
    try:
        capture.read(tokens_BP, lambda site, layer, x_TD: None)
    finally:
        torch.cuda.set_sync_debug_mode("default")
