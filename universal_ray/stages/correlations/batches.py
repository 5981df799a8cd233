"""Two matrices of the same tokens as a caller has them, whole or batch by batch, read in pieces.

Shapes: T tokens, N units.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, cycle, repeat, tee, zip_longest
from typing import Any

import numpy as np
import torch
from torch import Tensor

from universal_ray.errors import ConfigurationError, NumericalError

Matrix = np.ndarray | Tensor
FLOATS = "float16", "bfloat16", "float32", "float64"


class Given:
    """`x` and `y`, each a matrix [T, N] or an iterable of such; without `y`, `x` is an iterable of
    pairs of them. All that can be seen without reading values is looked at now.

    Raises ConfigurationError for what is no matrix of floats, for batches of different widths, and
    where the two have no tokens, or not as many.
    """

    def __init__(self, x: Any, y: Any, names: Sequence[str]):
        self.names = names
        self._paired = y is None
        self._widths: list[int | None] = [None, None]
        given = {" and ".join(names): x} if self._paired else dict(zip(names, (x, y), strict=True))
        self._sources = [self._source(name, each) for name, each in given.items()]
        self.once = any(isinstance(each, Iterator) for each in self._sources)
        """whether it cannot be read again"""
        counts = [self._count(side) for side in range(len(self._sources))]
        known = {count for count in counts if count is not None}
        if len(known) > 1:
            raise ConfigurationError(
                f"{names[0]} has {counts[0]:,} tokens and {names[1]} {counts[1]:,}: give both the "
                "same tokens, in the same order"
            )
        self.tokens = next(iter(known), None)
        """None where only reading tells"""
        if self.tokens == 0 or None in self._widths:
            raise ConfigurationError(f"{' and '.join(names)} hold no tokens: give at least one")

    @property
    def widths(self) -> list[int]:
        """Units of each."""
        return [width for width in self._widths if width is not None]

    def pieces(self, sizes: Sequence[int], device: str) -> Iterator[tuple[Tensor, Tensor]]:
        """All tokens in pieces of some sizes, again and again, however they come: float64 where
        they do, else float32. The last piece may be shorter.

        Raises NumericalError where a value is not finite, ConfigurationError where one of the two
        ends before the other.
        """
        token = 0
        first, second = (_cut(stream, cycle(sizes), device) for stream in self._streams())
        for x_TN, y_TM in zip_longest(first, second):
            lengths = [0 if piece is None else len(piece) for piece in (x_TN, y_TM)]
            if lengths[0] != lengths[1]:
                short, long = sorted((0, 1), key=lambda side: lengths[side])
                raise ConfigurationError(
                    f"{self.names[short]} ends after {token + lengths[short]:,} tokens and "
                    f"{self.names[long]} goes on: give both the same tokens, in the same order"
                )
            for name, piece in zip(self.names, (x_TN, y_TM), strict=True):
                if not bool(piece.isfinite().all()):
                    row, unit = torch.nonzero(~piece.isfinite())[0].tolist()
                    raise NumericalError(
                        f"{name} is not finite at token {token + row:,}, unit {unit}: "
                        "leave such tokens out of both"
                    )
            yield x_TN, y_TM
            token += lengths[0]

    def _source(self, name: str, given: Any) -> Iterable[Any]:
        if isinstance(given, Matrix):
            if self._paired:
                raise ConfigurationError(
                    f"{name} are one matrix: give two, or an iterable of pairs of batches"
                )
            return [given]
        if isinstance(given, str | bytes | Mapping) or not isinstance(given, Iterable):
            raise ConfigurationError(
                f"{name} is of type {type(given).__name__}: give a matrix of tokens × units, of "
                "numpy or torch, or an iterable of such"
            )
        return given

    def _count(self, place: int) -> int | None:
        """Tokens of a source; of one that can be read once alone None, and its first batch seen."""
        source = self._sources[place]
        if not isinstance(source, Iterator):
            return sum(len(self._looked_at(each, place)) for each in source)
        first = list(self._first(source))
        self._sources[place] = chain(first, source)
        for each in first:
            self._looked_at(each, place)
        return None

    @staticmethod
    def _first(source: Iterator[Any]) -> Iterator[Any]:
        for each in source:
            yield each
            return

    def _streams(self) -> tuple[Iterator[Matrix], Iterator[Matrix]]:
        """Batches of both, side by side."""
        if not self._paired:
            first, second = self._sources
            return map(self._checked, first, repeat(0)), map(self._checked, second, repeat(1))
        left, right = tee(self._both(pair) for pair in self._sources[0])
        return (pair[0] for pair in left), (pair[1] for pair in right)

    def _looked_at(self, given: Any, side: int) -> Matrix:
        return self._both(given)[0] if self._paired else self._checked(given, side)

    def _both(self, given: Any) -> tuple[Matrix, Matrix]:
        """A pair of batches of the same tokens."""
        if not isinstance(given, tuple | list) or len(given) != 2:
            raise ConfigurationError(
                f"{' and '.join(self.names)} come as {type(given).__name__}: give pairs of "
                "batches, or one iterable for each"
            )
        x_TN, y_TM = (self._checked(each, side) for side, each in enumerate(given))
        if len(x_TN) != len(y_TM):
            raise ConfigurationError(
                f"a pair of batches has {len(x_TN):,} tokens of {self.names[0]} and {len(y_TM):,} "
                f"of {self.names[1]}: give both the same tokens, in the same order"
            )
        return x_TN, y_TM

    def _checked(self, batch: Any, side: int) -> Matrix:
        name = self.names[side]
        if not isinstance(batch, Matrix):
            raise ConfigurationError(
                f"{name} gives a batch of type {type(batch).__name__}: give matrices of tokens × "
                "units, of numpy or torch"
            )
        if isinstance(batch, np.ma.MaskedArray) or (
            isinstance(batch, Tensor) and batch.layout is not torch.strided
        ):
            raise ConfigurationError(f"{name} is masked or sparse: give all of its values")
        if batch.ndim != 2 or batch.shape[1] == 0:
            raise ConfigurationError(
                f"{name} has the shape {tuple(batch.shape)}: give tokens × units"
            )
        if str(batch.dtype).removeprefix("torch.") not in FLOATS:
            raise ConfigurationError(
                f"{name} holds {batch.dtype}: give floats ({', '.join(FLOATS)})"
            )
        width = int(batch.shape[1])
        if self._widths[side] not in (None, width):
            raise ConfigurationError(
                f"{name} has batches of {self._widths[side]} and of {width} units: give the same "
                "units in each"
            )
        self._widths[side] = width
        return batch


def _cut(batches: Iterable[Matrix], sizes: Iterator[int], device: str) -> Iterator[Tensor]:
    """The same rows in pieces of other sizes, the last of which may be shorter."""
    held: list[Tensor] = []
    wanted = next(sizes)
    for batch in batches:
        start = 0
        while start < len(batch):
            held.append(_tensor(batch[start : start + wanted], device))
            start += len(held[-1])
            wanted -= len(held[-1])
            if wanted == 0:
                yield torch.cat(held)
                held, wanted = [], next(sizes)
    if held:
        yield torch.cat(held)


def _tensor(batch: Matrix, device: str) -> Tensor:
    found = batch.detach() if isinstance(batch, Tensor) else torch.tensor(batch)
    return found.to(device, torch.float64 if found.dtype == torch.float64 else torch.float32)
