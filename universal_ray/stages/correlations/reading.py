"""Sums of two matrices in memory or batch by batch, as workers make them of models over units."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from universal_ray.config.study import UnitsConfig
from universal_ray.errors import ConfigurationError, NumericalError
from universal_ray.maths.moments.accumulate import LayerSums, merge
from universal_ray.maths.moments.calibration import Calibration, calibrate, normalise
from universal_ray.planning.capacity import BLOCKS, Part, Pass, size
from universal_ray.planning.items import Item, Model
from universal_ray.runtime.arithmetic import arithmetic_kept
from universal_ray.stages.correlations.artifacts import Terms
from universal_ray.stages.correlations.batches import Given
from universal_ray.stages.correlations.reduce import Merged
from universal_ray.stages.correlations.sums import Sums

MOST_GROUPS = 2 * BLOCKS
"""Groups of tokens held of batches whose number nobody knows: with as many, neighbours merge."""

Found = dict[tuple[Item, int], LayerSums]
"""Sums by model, or pair, and layer."""
Cross = Callable[[], Iterable[LayerSums]]
"""Cross sums of a layer, group by group, as often as they are read."""


@contextmanager
def _as_a_worker(device: str) -> Iterator[None]:
    """What a caller may have set of torch, or have left open around a batch that it yields, is put
    aside: it would change how sums are rounded.
    """
    dtype = torch.get_default_dtype()
    with arithmetic_kept(), torch.autocast(device, enabled=False):
        torch.set_float32_matmul_precision("highest")
        torch.set_default_dtype(torch.float32)
        try:
            yield
        finally:
            torch.set_default_dtype(dtype)


@dataclass
class Reading:
    """The tokens of both matrices, summed up as often as somebody asks."""

    given: Given
    models: tuple[Model, ...]
    units: UnitsConfig
    terms: Terms
    grows: bool
    """whether groups of tokens merge as they become many"""

    def __post_init__(self) -> None:
        self.calibrations: dict[Model, Calibration] = {}
        self.pair = Item(tuple(sorted(self.models, key=lambda model: model.identity)))
        self.items = self.pair, *(Item(self.pair.models, each) for each in self.terms.shifts)
        self.own: Pass = tuple(Part(Item((m,)), 0, m.layers) for m in self.models)
        assert self.units.tokens and self.units.batch and self.units.fold
        self.tokens, self.batch, self.fold = self.units.tokens, self.units.batch, self.units.fold

    @property
    def groups_held(self) -> int:
        """How many groups of tokens there are, at most."""
        if self.given.tokens is None:
            return MOST_GROUPS
        full, rest = divmod(self.given.tokens, self.tokens)
        return full // self.fold + full % self.fold + bool(rest)

    def groups(self, held: Pass) -> Iterator[Found]:
        """Float64 sums of every block of full units, then of the units after the last block."""
        waiting: list[Found] = []
        for found, tokens in self._units(held):
            waiting.append(found)
            if len(waiting) == self.fold and tokens == self.tokens:
                yield _merged(waiting)
                waiting = []
        for found in waiting:
            yield _merged([found])

    def gathered(self, held: Pass, most: float) -> list[Found]:
        """All groups. Raises ConfigurationError where these are more than memory has room for."""
        groups: list[Found] = []
        together, last = 1, 1
        for group in self.groups(held):
            if self.grows and groups and last < together:
                groups[-1] = _merged([groups[-1], group])
                last += 1
                continue
            if len(groups) == MOST_GROUPS and self.grows:
                pairs = range(MOST_GROUPS // 2)
                groups = [_merged([groups.pop(0), groups.pop(0)]) for _ in pairs]
                together *= 2
            groups.append(group)
            last = 1
            if len(groups) > most:
                raise ConfigurationError(
                    f"the sums of more than {int(most)} blocks of tokens do not fit memory: give a "
                    "larger unit or fold"
                )
        return groups

    def _units(self, held: Pass) -> Iterator[tuple[Found, int]]:
        """Sums of every unit of tokens, with how many these are."""
        whole, rest = divmod(self.tokens, self.batch)
        sizes = [self.batch] * whole + [rest] * bool(rest)
        sums, tokens = None, 0
        for pieces in self.given.pieces(sizes, self.terms.device):
            with _as_a_worker(self.terms.device):
                sums = sums or Sums(held, self.terms.device)
                self._add(sums, pieces)
                tokens += len(pieces[0])
                found = self._found(sums, held) if tokens == self.tokens else None
            if found is not None:
                yield found, tokens
                sums, tokens = None, 0
        if sums is not None:
            yield self._found(sums, held), tokens

    def _add(self, sums: Sums, pieces: Iterable[torch.Tensor]) -> None:
        factors = {}
        for model, x_TN in zip(self.models, pieces, strict=True):
            kept_T = torch.ones(len(x_TN), dtype=torch.bool)
            if model not in self.calibrations:
                self.calibrations[model] = calibrate(x_TN, kept_T, model.layers)
            fit = self.calibrations[model]
            # Of float64 the deviations are rounded, not the values.
            exact = Calibration(fit.shift_N.to(x_TN.dtype), fit.scale_N.to(x_TN.dtype))
            u_TN = normalise(x_TN, exact).float()
            factors[model.identity] = sums.add_model(model, u_TN, kept_T, self.terms.policy)
        sums.add_products(factors, kept_T[:, None])  # a row of its own for each token

    def _found(self, sums: Sums, held: Pass) -> Found:
        for model in self.models:
            try:
                sums.models[model.identity].check_range(self.terms.policy)
            except NumericalError as error:
                raise NumericalError(f"{model.name}: {error}") from error
        return {
            (part.item, layer): {
                name: tensor.cpu() for name, tensor in sums.of(part, layer).items()
            }
            for part in held
            for layer in range(part.start, part.stop)
        }


def _merged(parts: Sequence[Found]) -> Found:
    return {key: merge(part[key] for part in parts) for key in parts[0]}


def sums_of(
    reading: Reading, allowed: float
) -> tuple[dict[Model, list[Merged]], Callable[[Item, int], Cross]]:
    """The sums of each matrix by layer, and of the pair and each shift of it group by group, by
    layer of its first.

    All are held in memory where they fit; else the tokens are read again for each layer, and where
    not even the groups of one layer fit, once more. Raises ConfigurationError where the tokens
    cannot be read again, or memory is too small for a layer.
    """
    items, own, groups = reading.items, reading.own, reading.groups_held
    first, second = reading.pair.models
    entries = first.width * second.neurons
    crossed = len(items) * entries
    grams = sum(model.neurons * model.width for model in reading.models)
    # Pieces with their operands; one layer's correlations with what is made of them; a rotation.
    beside = 32 * reading.batch * sum(model.neurons for model in reading.models)
    beside += 64 * entries + 24 * max(model.width for model in reading.models) ** 2
    waiting = 4 * (reading.fold + 1)  # float32: units of a block, and the one under way
    each = 8 * (first.layers * crossed + grams)
    room = (allowed - beside - waiting * each / 8) / each - 3  # one merged, one more for the grams
    unknown = reading.given.tokens is None and not reading.grows
    if room >= (1 if unknown else groups):
        pairs = (Part(item, 0, first.layers) for item in items)
        held = reading.gathered((*own, *pairs), room)
        models = {
            part.item.models[0]: [
                Merged(found[part.item, layer] for found in held) for layer in range(part.stop)
            ]
            for part in own
        }
        return models, lambda item, layer: lambda: (found[item, layer] for found in held)
    smallest = beside + (waiting + 24) * max(entries, grams)
    if reading.given.once or smallest > allowed:
        need = allowed - (room - groups) * each if reading.given.once else smallest
        raise ConfigurationError(
            f"the sums of {' and '.join(reading.given.names)} take {size(need)} and may take "
            f"{size(allowed)}: raise memory"
            + (", or give what can be read again, layer by layer" if reading.given.once else "")
        )
    models = {part.item.models[0]: [Merged() for _ in range(part.stop)] for part in own}
    for found in reading.groups(own):
        for (item, layer), sums in found.items():
            models[item.models[0]][layer].add(sums)

    def cross(item: Item, layer: int) -> Cross:
        part = (Part(item, layer, layer + 1),)

        def read() -> Iterator[LayerSums]:
            return (found[item, layer] for found in reading.groups(part))

        if beside + (waiting + 8 * (groups + 3)) * crossed > allowed:
            return read
        kept = list(read())
        return lambda: kept

    return models, cross
