"""Correlations of two matrices in memory, or batch by batch, as a run makes them of two models.

The sums, what is made of them and the tables are those of a run; no file is read or written.
"""

from collections.abc import Sequence
from dataclasses import replace
from numbers import Integral
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa
import torch

from universal_ray.config.choice import choose as choice
from universal_ray.config.cluster import Device
from universal_ray.config.numbers import check_finite, check_positive
from universal_ray.config.study import (
    Baseline,
    BaselineConfig,
    Policy,
    UnitsConfig,
    UniversalConfig,
)
from universal_ray.errors import ConfigurationError, ResourceError
from universal_ray.planning.capacity import GIB, POLICY, choose
from universal_ray.planning.items import Model
from universal_ray.runtime.measure import machine_bytes
from universal_ray.stages.correlations.artifacts import Terms
from universal_ray.stages.correlations.batches import Given
from universal_ray.stages.correlations.partners import matched, partners
from universal_ray.stages.correlations.reading import Reading, sums_of
from universal_ray.stages.correlations.reduce import directions, reduced_model, reduced_rows
from universal_ray.stages.correlations.tables import neuron_table, pair_table

if TYPE_CHECKING:
    import pandas as pd

MEMORY = 0.5
"""Share of the machine's memory that sums may take: the rest is the caller's."""
UNITS, LENGTH = 16, 1024
"""Units that tokens are cut into at least, so that there are standard errors; tokens of one where
nobody knows how many there will be."""


class Correlations(NamedTuple):
    """Frames as `run.table(...).to_pandas()` gives them: docs/tables.md tells every column."""

    neurons: "pd.DataFrame"
    """a row for each unit of both matrices"""
    pairs: "pd.DataFrame"
    """the same with their partners, `x` in `y` and `y` in `x`"""


def correlate(
    x: Any,
    y: Any = None,
    *,
    layers: int | Sequence[int] = 1,
    names: tuple[str, str] = ("x", "y"),
    identities: tuple[str, str] | None = None,
    rotations: int = BaselineConfig.rotations,
    kind: str = BaselineConfig.kind.value,
    seed: int = BaselineConfig.seed,
    threshold: float = UniversalConfig.threshold,
    unit: int | None = None,
    batch: int | None = None,
    fold: int | None = None,
    policy: str | None = None,
    device: str = "cpu",
    memory: float | None = None,
) -> Correlations:
    """Correlate every column of `x` with every column of `y` over their tokens, as a run does.

    `x` [T, N] and `y` [T, M] are matrices of numpy or torch, of float16, bfloat16, float32 or
    float64, whose rows are the same tokens (or whatever was observed) in the same order; or
    iterables of such batches, each cut as it likes; or `x` alone is an iterable of pairs of
    batches. Iterators are read once, and all their sums held in memory. What can be read again (a
    matrix, a list, a data set that gives the same each time) is counted first, and where memory is
    short read once or twice for each layer of the first.

    `layers`: how many layers the columns are of, side by side, of both or of each; partners are
    told by layer, and each layer is rotated by itself. `names` are what the tables call the two.
    `identities` seed the rotations and say which comes first: by default the names; those in a
    run's `summary["models"]` give its baseline. `rotations`, `kind` (`gaussian`, `orthogonal`,
    `shifted`) and `seed` are those of a run's baseline, but that what is shifted are tokens, as a
    matrix has no rows of text; `threshold` is of `excess_corr`, above which a unit is
    universal. `unit`, `batch` and `fold` are `units.tokens`, `units.batch` and `units.fold`:
    blocks of `fold` units are what the standard error leaves out. By default they are chosen as
    for a run of as many tokens, but never fewer than 16 units; of iterators, whose length is not
    known, units of 1024 tokens merge into 8 to 16 groups. With those in a run's `record["bits"]`
    and the run's activations, the frames are the run's. `policy` is
    `precision.moments`, `device` is `cpu` or `cuda`, where products are made. `memory` are GiB that
    the sums may take, by default half of the machine's: it changes no bit.

    Returns frames with the columns, types and nulls of a run's `neurons` and `pairs`, of both
    directions. Correlations have no unit. A column that never varies, or too little, has nulls and
    its `null_reason`; standard errors are null where there are too few groups of tokens. The
    source of what is computed is arXiv 2401.12181; how exactly is in docs/exactness.md.

    Raises ConfigurationError for matrices that are none of floats, are empty or do not fit each
    other, for options that cannot be, and where memory is too small; NumericalError where a value
    is not finite, with its token; ResourceError where there is no such device.

    >>> import numpy as np
    >>> import universal_ray as ur
    >>> random = np.random.default_rng(0)
    >>> x = random.standard_normal((2000, 6))
    >>> y = x[:, ::-1] + random.standard_normal((2000, 6))  # of unit 0 the partner is unit 5
    >>> found = ur.correlate(x, y)
    >>> found.pairs["max_neuron"].tolist()
    [5, 4, 3, 2, 1, 0, 5, 4, 3, 2, 1, 0]
    >>> bool((found.neurons["excess_corr"] > 0.0).all())
    True
    >>> batches = ((x[at : at + 300], y[at : at + 300]) for at in range(0, 2000, 300))
    >>> ur.correlate(batches).pairs["n"].unique().tolist()
    [2000]
    """
    policy = policy or POLICY[_chosen(Device, device, "device")].value
    _check(names, identities, rotations=rotations, unit=unit, batch=batch, fold=fold)
    check_finite({"seed": seed, "threshold": threshold, "memory": memory})
    if device == Device.cuda.value and not torch.cuda.is_available():
        raise ResourceError("device is cuda and there is no GPU: leave it out")
    baseline = BaselineConfig(
        rotations=rotations, kind=_chosen(Baseline, kind, "kind"), seed=seed
    )
    terms = Terms(
        policy=_chosen(Policy, policy, "policy").value,
        device=device,
        rotations=rotations,
        kind=baseline.kind.value,
        seed=seed,
        shifts=baseline.shifts,
    )
    given = Given(x, y, names)
    models = _models(given, layers, identities or names)
    units = _units(UnitsConfig(tokens=unit, batch=batch, fold=fold), given.tokens, terms)
    if terms.shifts and units.batch == 1:
        raise ConfigurationError(
            "kind=shifted puts tokens beside others of their batch, which is of one: raise unit "
            "and batch"
        )
    reading = Reading(given, models, units, terms, grows=given.tokens is None and fold is None)
    allowed = memory * GIB if memory is not None else MEMORY * machine_bytes()
    own, cross = sums_of(reading, allowed)
    pair = reading.pair
    left, right = (
        reduced_model(terms, model, reading.calibrations[model].scale_N.cpu().double(), own[model])
        for model in pair.models
    )
    own.clear()  # Grams, which need not be held beside what comes now
    parts = [
        reduced_rows(
            terms, pair, layer, left, right, *(cross(item, layer) for item in reading.items)
        )
        for layer in range(pair.layers)
    ]
    both = directions(terms, pair, left, right, parts)
    found = {
        direction.model: pair_table(direction, own, 0, None)
        for direction, own in zip(both, partners(*both, matched(*both)), strict=True)
    }
    tables = [found[model] for model in models]
    return Correlations(
        pa.concat_tables([neuron_table([table], threshold) for table in tables]).to_pandas(),
        pa.concat_tables(tables).to_pandas(),
    )


def _chosen(choices: Any, value: Any, name: str) -> Any:
    """One of an enumeration's. Raises ConfigurationError for what is none."""
    values = [each.value for each in choices]
    if value not in values:
        raise ConfigurationError(f"{name}={value} is none: {choice(value, values)}")
    return choices(value)


def _check(names: tuple[str, str], identities: tuple[str, str] | None, **counts: Any) -> None:
    """Raise ConfigurationError for what cannot be."""
    for given in filter(None, (names, identities)):
        if len(given) != 2 or given[0] == given[1]:
            raise ConfigurationError(f"{', '.join(given)} are not two names: give each its own")
    for name, value in counts.items():
        if value is not None and not isinstance(value, Integral):
            raise ConfigurationError(f"{name} is {value}: give a whole number")
    check_positive(counts)
    unit, batch = counts["unit"], counts["batch"]
    if unit and batch and batch > unit:
        raise ConfigurationError(
            f"batch ({batch}) is larger than unit ({unit}): make units of at least one batch"
        )


def _units(given: UnitsConfig, tokens: int | None, terms: Terms) -> UnitsConfig:
    """With what is left open chosen: as for a run, but in short units where tokens are few."""
    total = tokens or UNITS * LENGTH
    device, policy = Device(terms.device), Policy(terms.policy)

    def filled(units: UnitsConfig) -> UnitsConfig:
        return choose(units, total_tokens=total, context=1, device=device, policy=policy)

    usual = filled(given)
    alone = 2 if terms.shifts else 1  # tokens of a batch at least
    shortest = max(-(-total // UNITS), given.batch or alone)
    assert usual.tokens
    if given.tokens or usual.tokens <= shortest:
        return usual
    return filled(replace(given, tokens=shortest))


def _models(
    given: Given, layers: int | Sequence[int], identities: Sequence[str]
) -> tuple[Model, ...]:
    """What planning calls the two matrices. Raises ConfigurationError where layers do not fit."""
    found = []
    depths = layers if isinstance(layers, Sequence) else (layers, layers)
    if len(depths) != 2:
        raise ConfigurationError(f"layers are {layers}: give one number, or one for each matrix")
    for name, identity, units, depth in zip(
        given.names, identities, given.widths, depths, strict=True
    ):
        if depth < 1 or units % depth:
            raise ConfigurationError(
                f"the {units} units of {name} are not those of {depth} layers side by side: give "
                "layers, or of each its own"
            )
        found.append(
            Model(name=name, given=name, identity=identity, layers=depth, width=units // depth,
                  d_model=0, d_mlp=0)
        )  # fmt: skip
    return tuple(found)
