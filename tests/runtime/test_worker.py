"""What a worker computes with."""

from types import SimpleNamespace

import pytest
import torch
from helpers_models import gpt2_shape

from universal_ray.runtime.worker import Worker


@pytest.mark.parametrize(("device", "precision"), [("cpu", "highest"), ("cuda", "high")])
def test_tfloat32_rounds_on_a_gpu_alone(device, precision):
    model, seen = gpt2_shape("a", "a" * 12, 2, 8), []

    def read(tokens_BP, take):
        seen.append(torch.get_float32_matmul_precision())

    worker = object.__new__(Worker)
    worker.told = SimpleNamespace(dtype="tfloat32", device=device)
    worker._captures = {model.identity: SimpleNamespace(read=read)}
    worker.read(model, torch.zeros(1, 2, dtype=torch.int64), lambda *_: None)
    assert seen == [precision]
    assert torch.get_float32_matmul_precision() == "highest"
