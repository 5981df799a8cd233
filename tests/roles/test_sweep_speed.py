"""A sweep in one batch against one full pass of a plain model per neuron and value.

Shapes: B rows, P positions, V vocabulary.
"""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers_roles import down, gpt2, load

from universal_ray.interventions import Intervener, held
from universal_ray.models import resolve
from universal_ray.roles.decoder import load_decoder
from universal_ray.roles.entropy import SWEEP
from universal_ray.roles.frequency import unigram
from universal_ray.roles.readout import Reference

LAYERS, CHANNELS, WIDTH, VOCABULARY, CONTEXT = 12, 128, 512, 1000, 64  # GPT-2 small has 12 layers


def seconds(run: Callable[[], Any]) -> float:
    """Of processor time, which other work on the machine does not lengthen; the better of two."""
    taken = []
    for _ in range(2):
        start = time.process_time()
        run()
        taken.append(time.process_time() - start)
    return min(taken)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Threads that wait for each other count as busy."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_thread")
def test_a_sweep_of_late_neurons_is_three_times_as_fast_as_full_passes(tmp_path: Path):
    gpt2(
        tmp_path, layers=LAYERS, width=CHANNELS, n_inner=WIDTH, vocabulary=VOCABULARY,
        context=CONTEXT,
    )  # fmt: skip
    tokens_BP = torch.randint(VOCABULARY, (6, CONTEXT), generator=torch.Generator().manual_seed(0))
    keep_BP = torch.ones_like(tokens_BP, dtype=torch.bool)
    counts_V = torch.arange(VOCABULARY)
    neurons = [layer * WIDTH + 9 for layer in (LAYERS - 2, LAYERS - 1)]
    declared = [held([neuron], value) for neuron in neurons for value in SWEEP]
    run = Intervener(load_decoder(resolve(str(tmp_path))), declared, counts_V)

    model = load(tmp_path, torch.float32)
    target_T = tokens_BP[:, 1:].flatten()
    scale_T = torch.ones(len(target_T))

    def logits() -> torch.Tensor:
        with torch.inference_mode():
            return model(tokens_BP, use_cache=False).logits[:, :-1].flatten(0, 1)

    reference = Reference(logits(), scale_T, target_T, unigram(counts_V))

    def full_passes() -> torch.Tensor:
        losses = []
        for each in declared:
            layer, neuron = divmod(each.neurons[0], WIDTH)

            def hold(_: Any, inputs: tuple, neuron: int = neuron, at: float = each.values[0]):
                inputs[0][:, :, neuron] = at

            handle = down(model, layer).register_forward_pre_hook(hold)
            losses.append(reference.measure(logits(), scale_T)["loss"].sum())
            handle.remove()
        return torch.stack(losses)

    torch.testing.assert_close(
        run(tokens_BP, keep_BP).sums["loss"].sum(1), full_passes().double(), rtol=1e-4, atol=1e-3
    )
    stacked, full = seconds(lambda: run(tokens_BP, keep_BP)), seconds(full_passes)
    assert full / stacked >= 3, f"{full / stacked:.2f} times as fast"
