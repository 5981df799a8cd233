"""The worker of the correlations: it sums moments over a unit of tokens.

It keeps the loaded models between calls and nothing else, so that any worker may compute any
work, again if need be, with the same bits.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from universal_ray.errors import NumericalError
from universal_ray.maths.moments.accumulate import LayerSums
from universal_ray.maths.moments.calibration import Calibration, calibrate, normalise
from universal_ray.planning.capacity import Pass, models_of
from universal_ray.planning.costs import forward_flops
from universal_ray.planning.items import (
    Block,
    Item,
    Model,
    Unit,
    calibration_file,
    layer_file,
    marker,
)
from universal_ray.runtime.measure import Clock, peak_bytes
from universal_ray.runtime.worker import Assignment, Worker
from universal_ray.stages.correlations.artifacts import StoredCalibration
from universal_ray.stages.correlations.folding import calibrations, fold
from universal_ray.stages.correlations.plan import Work
from universal_ray.stages.correlations.sums import Sums
from universal_ray.stages.segments import Batch, Segments
from universal_ray.storage import artifacts, checked
from universal_ray.storage.store import Receipt


@dataclass(frozen=True)
class MomentsAssignment(Assignment):
    """And the precision of the sums."""

    policy: str
    segments: Segments | None
    """where models have different tokenizers"""


class MomentsWorker(Worker):
    """Sums of one unit of tokens, one call, one durable result."""

    told: MomentsAssignment

    def __init__(self, assignment: MomentsAssignment):
        super().__init__(assignment)
        self._calibrations: dict[str, Calibration] = {}
        self._writing = threading.Lock()

    def calibrate(self, model: Model, rows: int) -> Receipt:
        """Store shift and scale of every neuron of a model, from the first rows of the study."""
        with self.computing():
            batch = self._batch(0, rows)
            layers: list[torch.Tensor] = []
            self._read_segments(model, batch, lambda _, x_TD: layers.append(x_TD))
            try:
                found = calibrate(torch.cat(layers, dim=1), batch.kept_T, model.layers)
            except NumericalError as error:
                raise NumericalError(f"model {model.name}: {error}") from error
        stored = StoredCalibration(found.shift_N.cpu(), found.scale_N.cpu())
        return artifacts.put(self.store, calibration_file(model), stored)

    def _calibration(self, model: Model) -> Calibration:
        if model.identity not in self._calibrations:
            stored = artifacts.get(self.store, calibration_file(model), StoredCalibration)
            self._calibrations[model.identity] = Calibration(
                stored.shift.to(self.told.device), stored.scale.to(self.told.device)
            )
        return self._calibrations[model.identity]

    def _batch(self, start: int, stop: int) -> Batch:
        """Some rows, and what counts of them."""
        tokens_BP, kept_T = self.tokens(start, stop)
        if self.told.segments is None:
            return Batch(tokens_BP, kept_T)
        return self.told.segments.batch(start, tokens_BP, kept_T, self.told.device)

    def _read_segments(
        self, model: Model, batch: Batch, take: Callable[[int, torch.Tensor], None]
    ) -> None:
        """Give `take` each layer's index and its activations [T, D] of segments, float32; of tokens
        where all models have one tokenizer.
        """
        pool = batch.pool(model.identity)

        def pooled(_: str, layer: int, x_TD: torch.Tensor) -> None:
            take(layer, pool.of(x_TD.float()) if pool else x_TD.float())

        self.read(model, batch.tokens(model.identity), pooled)

    def _normalised(self, model: Model, batch: Batch) -> torch.Tensor:
        """`u` [T, N], each layer written to its columns when the model has made it."""
        calibration, width = self._calibration(model), model.width
        u_TN = torch.empty(len(batch.kept_T), model.neurons, device=self.told.device)

        def write(layer: int, x_TD: torch.Tensor) -> None:
            columns = slice(layer * width, (layer + 1) * width)
            normalise(x_TD, calibration.of(columns), out=u_TN[:, columns])

        self._read_segments(model, batch, write)
        return u_TN

    def fold(self, item: Item, block: Block) -> float:
        """Fold the units of a block beside the calls that sum; returns the seconds it took."""
        began = time.monotonic()
        fold(self.store, item, block)
        return time.monotonic() - began

    def compute(self, work: Work) -> dict:
        """Sum the items over the unit, store the sums with their markers, return the metrics.

        Two calls may be under way: while one writes its sums, the next makes its own.
        """
        told, unit = self.told, work.unit
        spent = dict.fromkeys(("load", "forward", "operands", "products", "copy", "write"), 0.0)
        receipts: dict[str, list[Receipt]] = {}
        kept = 0
        for held in work.passes:
            with self.computing():
                clock = Clock(told.device)
                sums, kept = self._sum(unit, held, clock)
                self._writing.acquire()  # the host holds the sums of one pass beside those made
                try:
                    files = deque(self._on_host(unit, held, sums))
                    clock.lap("copy")
                    for name, seconds in clock.seconds().items():
                        spent[name] += seconds
                except BaseException:
                    self._writing.release()
                    raise
                del sums
            began = time.monotonic()
            try:
                self._write(unit, held, files, receipts)
            finally:
                self._writing.release()
            spent["write"] += time.monotonic() - began
        tokens = (unit.stop - unit.start) * told.corpus.context
        return {
            "unit": unit.index,
            "items": [item.key for item in work.items],
            "tokens": tokens,
            "kept": kept,
            "flops": sum(item.flops(tokens) for item in work.items),
            "forward_flops": sum(
                tokens * forward_flops(model, told.corpus.context)
                for held in work.passes
                for model in models_of(held)
            ),
            "bytes": sum(receipt.bytes for written in receipts.values() for receipt in written),
            "peak_bytes": peak_bytes(told.device),
            "hardware": self.hardware,
            "finished": time.time(),
            "seconds": {name: round(value, 4) for name, value in spent.items()},
        }

    def _sum(self, unit: Unit, held: Pass, clock: "Clock") -> tuple["Sums", int]:
        """One reading of the unit's tokens; nothing of it waits for a GPU before the end, where
        the model's own code does not (those of GPT-2 and GPT-NeoX do not).
        """
        told = self.told
        sums = Sums(held, told.device)
        models = {model.identity: model for model in models_of(held)}
        self.keep(models)
        for start in range(unit.start, unit.stop, told.batch_rows):
            batch = self._batch(start, min(start + told.batch_rows, unit.stop))
            clock.lap("load")
            factors = {}
            for key, model in models.items():
                u_TN = self._normalised(model, batch)
                clock.lap("forward")
                factors[key] = sums.add_model(model, u_TN, batch.kept_T, told.policy)
                del u_TN
                clock.lap("operands")
            sums.add_products(factors, batch.kept_T.view(batch.tokens_BP.shape))
            clock.lap("products")
        for key, moments in sums.models.items():
            try:
                moments.check_range(told.policy)
            except NumericalError as error:
                raise NumericalError(f"model {models[key].name}: {error}") from error
        return sums, next(iter(sums.models.values())).n

    def _on_host(self, unit: Unit, held: Pass, sums: "Sums") -> Iterator[tuple[str, LayerSums]]:
        """Every file of the pass, layer by layer, on the host."""
        for part in held:
            for layer in range(part.start, part.stop):
                path, found = layer_file(part.item.unit_folder(unit), layer), sums.of(part, layer)
                yield path, {name: self.to_host(tensor) for name, tensor in found.items()}

    def _write(
        self, unit: Unit, held: Pass, files: deque[tuple[str, LayerSums]],
        receipts: dict[str, list[Receipt]],
    ) -> None:
        """Store the files of a pass, each of which is then let go; an item's marker once its last
        layer is there.
        """
        for part in held:
            written = receipts.setdefault(part.item.key, [])
            n = 0.0
            for _ in range(part.start, part.stop):
                path, tensors = files.popleft()
                n = float(tensors["n"])
                written.append(self.store.put_tensors(path, tensors))
            if part.stop == part.item.layers:
                checked.finish(
                    self.store,
                    marker(part.item.unit_folder(unit)),
                    written,
                    unit=unit.name,
                    n=n,
                    of=part.item.of((unit,)),
                    hardware=self.hardware,
                    calibrations=calibrations(self.store, part.item),
                )
