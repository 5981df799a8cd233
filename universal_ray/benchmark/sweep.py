"""A sweep of late neurons in stacked passes, beside one full pass of the model for each value."""

import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from universal_ray.benchmark.loop import Means, Shape, make_inputs
from universal_ray.maths.roles.entropy import SWEEP
from universal_ray.maths.roles.frequency import unigram
from universal_ray.maths.roles.readout import Reference
from universal_ray.models.decoder import load_decoder
from universal_ray.models.interventions import Intervener, held
from universal_ray.models.source import load_model, resolve

ROWS = 8


def beside(shape: Shape, means: Means) -> dict[str, Any]:
    """Seconds of both for one neuron of each of the last two layers, and how far losses differ.

    Both compute all measures of every token, and the better of two runs counts.
    """
    device = means.device.value
    with TemporaryDirectory() as folder:
        (name, *_), _ = make_inputs(Path(folder), shape)
        source = resolve(name)
        decoder = load_decoder(source, device)
        model: Any = load_model(source, device, attention="sdpa")
    generator = torch.Generator().manual_seed(0)
    vocabulary = model.config.vocab_size
    tokens_BP = torch.randint(vocabulary, (ROWS, shape.context), generator=generator).to(device)
    counts_V = torch.arange(vocabulary)
    neurons = [layer * shape.width + 9 for layer in range(shape.layers)[-2:]]
    declared = [held([neuron], value) for neuron in neurons for value in SWEEP]
    stacked = Intervener(decoder, declared, counts_V)
    target_T = tokens_BP[:, 1:].flatten()
    scale_T = torch.ones(len(target_T), device=device)

    def logits() -> torch.Tensor:
        with torch.inference_mode():
            logits_BPV: torch.Tensor = model(tokens_BP, use_cache=False).logits
            return logits_BPV[:, :-1].flatten(0, 1)

    reference = Reference(logits(), scale_T, target_T, unigram(counts_V.to(device)))

    def full_passes() -> torch.Tensor:
        losses = []
        for each in declared:
            layer, neuron = divmod(each.neurons[0], shape.width)

            def hold(
                _: Any,
                inputs: tuple[torch.Tensor],
                neuron: int = neuron,
                at: float = each.values[0],
            ) -> None:
                inputs[0][:, :, neuron] = at

            projection = model.transformer.h[layer].mlp.c_proj
            handle = projection.register_forward_pre_hook(hold)
            losses.append(reference.measure(logits(), scale_T)["loss"].sum())
            handle.remove()
        return torch.stack(losses).cpu().double()

    def in_stacks() -> torch.Tensor:
        keep_BP = torch.ones_like(tokens_BP, dtype=torch.bool)
        return stacked(tokens_BP, keep_BP).sums["loss"].sum(1)

    # On a CPU processor time, which other work on the machine does not lengthen.
    clock = time.process_time if device == "cpu" else time.monotonic
    (ours_I, ours), (theirs_I, theirs) = (_timed(run, clock) for run in (in_stacks, full_passes))
    return {
        "layers": shape.layers,
        "interventions": len(declared),
        "tokens": tokens_BP.numel(),
        "seconds_full_passes": theirs,
        "seconds_stacked": ours,
        "ratio": theirs / ours,
        "largest_difference": float(((ours_I - theirs_I) / len(target_T)).abs().max()),
    }


def _timed(
    run: Callable[[], torch.Tensor], clock: Callable[[], float]
) -> tuple[torch.Tensor, float]:
    """What a run gives, and its seconds; the better of two."""
    taken = []
    for _ in range(2):
        began = clock()
        found = run()
        taken.append(clock() - began)
    return found, min(taken)
