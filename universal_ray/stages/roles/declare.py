"""Which interventions a study makes on a reference model: declared, so that they can be named.

Shapes: N neurons of a model, layer by layer.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from universal_ray.config.study import Bound, RolesConfig
from universal_ray.errors import ConfigurationError
from universal_ray.maths.roles.path_sums import Path
from universal_ray.maths.roles.sets import by_layer, matched_random
from universal_ray.models.interventions import (
    CEILING,
    FLOOR,
    READ,
    SCALE,
    UNIGRAM,
    Intervention,
    held,
)
from universal_ray.planning.items import Model
from universal_ray.stages.roles.artifacts import RoleScores
from universal_ray.stages.roles.schemas import AT_BOS
from universal_ray.storage import finished
from universal_ray.storage.finished import NEURONS_PATH
from universal_ray.storage.store import Store

log = logging.getLogger(__name__)

UNTOUCHED, SWEEP, PRE, MEAN, SETS = "untouched", "sweep", "sweep_pre", "mean", "set"
"""What is done: nothing, one neuron at a value, at a pre-activation, at its mean, a set at zero or
its means; beside these `Bound`."""
BOUNDS = {Bound.relu: FLOOR, Bound.threshold: CEILING}
CUT = "paths"
CANDIDATE, FREQUENT, CONTROL, NAMED = "entropy", "token frequency", "control", "named"
UNIVERSAL, RANDOM = "universal", "random"
NONE_OF_GROUP = {
    CANDIDATE: "no neuron is an entropy candidate",
    FREQUENT: "no neuron is a token-frequency candidate",
    CONTROL: "no neuron of the last layers serves as a control",
}


@dataclass(frozen=True)
class Declared:
    """One intervention, and what it is for."""

    kind: str
    group: str
    intervention: Intervention
    neuron: int = -1
    """flat index of the one neuron held, -1 for a set"""
    value: float = float("nan")
    """that it is held at; NaN where every neuron has its own, or it is not held"""
    pre: float = float("nan")
    """pre-activation that it is held at"""
    layer: int = -1
    """of a set of one layer; -1 for all"""
    draw: int = -1
    """of a random set"""
    at: str = ""
    """what a set is held at: zero or mean"""


@dataclass(frozen=True)
class Declaration:
    """All interventions and ablated paths of one model."""

    interventions: tuple[Declared, ...]
    paths: tuple[Path, ...]
    left_out: dict[str, str]
    """why there are no sweeps of a group, no `SETS` or no `CUT`"""

    @property
    def done(self) -> tuple[Intervention, ...]:
        return tuple(each.intervention for each in self.interventions)


def universality(store: Store, model: Model) -> pa.Array:
    """Whether each neuron of a reference model is universal; null where it has no correlation."""
    neurons = finished.get_table(store, NEURONS_PATH, ["model", "is_universal"])
    return neurons.filter(pc.equal(neurons["model"], model.name))["is_universal"].combine_chunks()


def universal(flags: pa.Array) -> Tensor:
    """Bool [N]: those that are."""
    flags_N = pc.fill_null(flags, False).to_numpy(zero_copy_only=False)
    return torch.from_numpy(np.ascontiguousarray(flags_N))


def declare(
    scores: RoleScores,
    mean_N: Float[Tensor, "N"],
    universal_N: Bool[Tensor, "N"],
    width: int,
    options: RolesConfig,
) -> Declaration:
    """Sweeps of candidates, controls and neurons that are named; each of them at its mean, as it is
    and with a part frozen; universal neurons ablated beside random ones of the same layers,
    together and layer by layer; the strongest and the named paths into the queries of later heads.
    """
    left_out = {}
    made = [Declared(UNTOUCHED, "", Intervention())]
    groups = {
        CANDIDATE: scores.entropy.candidates_R.tolist(),
        FREQUENT: scores.frequency.chosen_R.tolist(),
        CONTROL: scores.entropy.controls_R.tolist(),
        NAMED: scores.named_R.tolist(),
    }
    done: set[int] = set()
    for group, neurons in groups.items():
        if not neurons and group in NONE_OF_GROUP:
            left_out[group] = NONE_OF_GROUP[group]
        for neuron in neurons:
            if neuron in done:
                continue
            done.add(neuron)
            made += [
                Declared(SWEEP, group, held([neuron], value), neuron, value)
                for value in options.sweep
            ]
            made += [
                Declared(PRE, group, Intervention((neuron,), (pre,), rule=READ), neuron, pre=pre)
                for pre in options.sweep_pre
            ]
            made += [
                Declared(
                    each.value, group, Intervention((neuron,), (0.0,), rule=BOUNDS[each]), neuron
                )
                for each in options.bounds
            ]
            made += [
                Declared(MEAN, group, held([neuron], mean_N, frozen), neuron, float(mean_N[neuron]))
                for frozen in (None, SCALE, UNIGRAM)
            ]
    universal = universal_N.nonzero().flatten().tolist()
    if not universal:
        left_out[SETS] = "no neuron is universal"
    else:
        try:
            made += _sets(universal, mean_N, ~universal_N, width, options)
        except ConfigurationError as error:
            left_out[SETS] = str(error)
            log.warning("no sets are ablated: %s", error)
    paths = []
    if scores.attention is None:
        left_out[CUT] = scores.not_measured[AT_BOS]
    else:
        heads = scores.attention.heads
        paths = [
            Path(neuron, head // heads, head % heads)
            for neuron, head in scores.attention.path_I2.tolist()
        ]
        if not paths:
            left_out[CUT] = "no neuron and head are further apart than random directions"
    return Declaration(tuple(made), tuple(paths), left_out)


def _sets(
    universal: Sequence[int],
    mean_N: Tensor,
    eligible_N: Tensor,
    width: int,
    options: RolesConfig,
) -> list[Declared]:
    """The universal neurons of all layers and of each, and as many random ones of the same.

    Raises ConfigurationError where a layer has too few others.
    """
    drawn = matched_random(
        universal, width=width, eligible_N=eligible_N, draws=options.sets, seed=options.seed
    )
    made = []
    sets = [(UNIVERSAL, -1, tuple(universal)), *((RANDOM, k, each) for k, each in enumerate(drawn))]
    for group, draw, neurons in sets:
        layers = by_layer(neurons, width)
        parts = [(-1, neurons), *(layers.items() if len(layers) > 1 else ())]
        for layer, part in parts:
            for at, values in (("zero", 0.0), ("mean", mean_N)):
                intervention = held(part, values)
                made.append(Declared(SETS, group, intervention, layer=layer, draw=draw, at=at))
    return made
