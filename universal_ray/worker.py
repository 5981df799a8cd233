"""A worker: forward passes and moment sums of one unit of tokens, one call, one durable result.

It keeps the loaded models between calls and nothing else, so that any worker may compute any unit,
again if need be, with the same bits.
"""

import os
import resource
import time
from dataclasses import dataclass

import torch

from universal_ray.arithmetic import fix_arithmetic
from universal_ray.corpus import TokenCorpus, kept_mask
from universal_ray.errors import NumericalError, ResourceError
from universal_ray.models import Capture, ModelSource
from universal_ray.moments import Calibration, ModelMoments, accumulate_, calibrate, normalise_
from universal_ray.plan import Item, Model, Unit, calibration_file, layer_file, marker
from universal_ray.store import Receipt, Store


@dataclass(frozen=True)
class Assignment:
    """What every worker of a study is told once."""

    store_url: str
    nonce: str
    corpus: TokenCorpus
    sources: dict[str, ModelSource]
    """by identity"""
    excluded: tuple[int, ...]
    activation: str
    dtype: str
    policy: str
    batch_rows: int
    threads: int
    device: str


class MomentsWorker:
    """Runs as a Ray actor; holds one GPU, or `threads` CPU threads."""

    def __init__(self, assignment: Assignment):
        fix_arithmetic(assignment.threads)
        if assignment.device == "cuda" and not torch.cuda.is_available():
            raise ResourceError("a worker sees no GPU: check cluster.device and the node's driver")
        self.assignment = assignment
        self.store = Store(assignment.store_url)
        self.store.check_nonce(assignment.nonce)
        self._captures: dict[str, Capture] = {}
        self._calibrations: dict[str, Calibration] = {}

    def process(self) -> int:
        """Its process id; answers once the worker is ready."""
        return os.getpid()

    def _activations(self, model: Model, tokens_BP: torch.Tensor) -> torch.Tensor:
        """Raw activations [T, N], float32."""
        told = self.assignment
        if model.identity not in self._captures:
            self._captures[model.identity] = Capture(
                told.sources[model.identity],
                told.device,
                getattr(torch, told.dtype),
                told.activation,
            )
        return self._captures[model.identity](tokens_BP).float()

    def _tokens(self, start: int, stop: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens [B, P] and which of them count [T], on the device."""
        told = self.assignment
        tokens_BP = torch.from_numpy(told.corpus.read(start, stop)).to(told.device)
        return tokens_BP, kept_mask(tokens_BP, told.excluded)

    def calibrate(self, model: Model, rows: int) -> Receipt:
        """Store shift and scale of every neuron of a model, from the first rows of the study."""
        tokens_BP, kept_T = self._tokens(0, rows)
        try:
            found = calibrate(self._activations(model, tokens_BP), kept_T, model.layers)
        except NumericalError as error:
            raise NumericalError(f"model {model.name}: {error}") from error
        tensors = {"shift": found.shift_N.cpu(), "scale": found.scale_N.cpu()}
        return self.store.put_tensors(calibration_file(model), tensors)

    def _calibration(self, model: Model) -> Calibration:
        if model.identity not in self._calibrations:
            stored = self.store.get_tensors(calibration_file(model))
            self._calibrations[model.identity] = Calibration(
                stored["shift"].to(self.assignment.device),
                stored["scale"].to(self.assignment.device),
            )
        return self._calibrations[model.identity]

    def compute(self, unit: Unit, items: tuple[Item, ...]) -> dict:
        """Sum the items over the unit, store the sums with their markers, return the metrics."""
        told = self.assignment
        spent = dict.fromkeys(("load", "forward", "sums", "write"), 0.0)
        clock = _Clock(spent, told.device)
        models = {model.identity: model for item in items for model in item.models}
        moments = {
            key: ModelMoments(model.layers, model.width, told.device)
            for key, model in models.items()
        }
        pairs = [item for item in items if len(item.models) == 2]
        cross = {
            pair.key: torch.zeros(
                pair.models[0].neurons, pair.models[1].neurons, device=told.device
            )
            for pair in pairs
        }
        clock.lap("load")
        for start in range(unit.start, unit.stop, told.batch_rows):
            tokens_BP, kept_T = self._tokens(start, min(start + told.batch_rows, unit.stop))
            clock.lap("load")
            factors = {}
            for key, model in models.items():
                x_TN = self._activations(model, tokens_BP)
                clock.lap("forward")
                u_TN = normalise_(x_TN, self._calibration(model))
                try:
                    factors[key] = moments[key].update(u_TN, kept_T, told.policy)
                except NumericalError as error:
                    raise NumericalError(f"model {model.name}: {error}") from error
            for pair in pairs:
                first, second = pair.models
                accumulate_(cross[pair.key], factors[first.identity], factors[second.identity])
            clock.lap("sums")
        n = next(iter(moments.values())).n
        written = 0
        for item in items:
            folder, first = item.unit_folder(unit), item.models[0]
            receipts = []
            for layer in range(item.layers):
                if item.key in cross:
                    rows = slice(layer * first.width, (layer + 1) * first.width)
                    sums = {"n": torch.tensor(float(n)), "cross": cross[item.key][rows].cpu()}
                else:
                    sums = moments[first.identity].layer_sums(layer)
                receipts.append(self.store.put_tensors(layer_file(folder, layer), sums))
            written += sum(receipt.bytes for receipt in receipts)
            self.store.finish(
                marker(folder),
                {"unit": unit.name, "n": n, "files": [vars(receipt) for receipt in receipts]},
            )
        clock.lap("write")
        return {
            "unit": unit.index,
            "items": [item.key for item in items],
            "tokens": (unit.stop - unit.start) * told.corpus.context,
            "kept": n,
            "bytes": written,
            "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            "finished": time.time(),
            "seconds": {name: round(value, 4) for name, value in spent.items()},
        }


class _Clock:
    """Adds the time since the last lap to a named sum; waits for the GPU so that laps are true."""

    def __init__(self, spent: dict[str, float], device: str):
        self._spent, self._device = spent, device
        self._last = time.monotonic()

    def lap(self, name: str) -> None:
        if self._device == "cuda":
            torch.cuda.synchronize()
        now = time.monotonic()
        self._spent[name] += now - self._last
        self._last = now
