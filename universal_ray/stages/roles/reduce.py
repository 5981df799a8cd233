"""From what is stored of a model to the roles of its neurons, and to what interventions measured.

Shapes: N neurons of a model, R some of them, I interventions or paths, T rows of tokens.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor

from universal_ray.maths.roles.detectors import DetectorOptions
from universal_ray.maths.roles.path_sums import PathSums, merge_paths
from universal_ray.maths.roles.readout import MEASURES
from universal_ray.maths.statistics.bootstrap import Bootstrap, Interval
from universal_ray.models.interventions import (
    SCALE,
    UNIGRAM,
    Effects,
    Intervention,
    by_neurons,
    merge_effects,
)
from universal_ray.planning.items import Model, marker
from universal_ray.stages.profile.artifacts import Bank, WeightStatistics
from universal_ray.stages.roles.artifacts import (
    LayerResponses,
    Roles,
    RoleScores,
    ShardEffects,
    ShardPaths,
    classes_key,
    group_key,
    path_key,
    pieces,
    shard_folder,
    sums_file,
)
from universal_ray.stages.roles.declare import MEAN, Declaration
from universal_ray.stages.roles.schemas import CHANGED
from universal_ray.storage import artifacts
from universal_ray.storage.store import Store

_Stored = TypeVar("_Stored")


@dataclass(frozen=True, kw_only=True)
class Known:
    """All that is known of the neurons of one model, but for what interventions measured."""

    model: Model
    scores: RoleScores
    responses: LayerResponses
    """of all layers, neurons numbered through"""
    weights: WeightStatistics
    has: dict[str, Tensor | None]
    """bool [N] by role, None where it was not measured"""


def read_known(store: Store, recipe: Roles, bank: Bank, model: Model) -> Known:
    """Raises DamagedError where something is not as it was written."""
    scores = recipe.read_scores(store, model)
    responses = _responses(store, recipe, model, classes_key(scores, bank.membership_VF))
    reach_N = recipe.read_activations(store, model).reach_N
    return Known(
        model=model,
        scores=scores,
        responses=responses,
        weights=recipe.profile.read_weights(store, model),
        has=has_role(scores, responses, reach_N),
    )


def _responses(store: Store, recipe: Roles, model: Model, classes: str) -> LayerResponses:
    layers = []
    for layer in range(model.layers):
        path = recipe.responses_file(model, classes, layer)
        stored = artifacts.get(store, path, LayerResponses)
        role_R = stored.found.role_R + layer * model.width
        through = replace(stored, found=replace(stored.found, role_R=role_R))
        layers.append(artifacts.named(through))
    every = {name: torch.cat([each[name] for each in layers]) for name in layers[0]}
    return artifacts.of(LayerResponses, every, store.url)


def has_role(
    scores: RoleScores, responses: LayerResponses, reach_N: Tensor
) -> dict[str, Tensor | None]:
    """Bool [N] by role, None where it was not measured; `reach_N`: how far the activations of each
    neuron go from zero."""
    count = len(reach_N)

    def listed(index_R: Tensor) -> Tensor:
        found_N = torch.zeros(count, dtype=torch.bool)
        found_N[index_R] = True
        return found_N

    off_N = on_N = None
    attention = scores.attention
    if attention is not None:
        off_N = attention.deviations_N > attention.limit
        on_N = -attention.deviations_N > attention.limit
    length_N = responses.found.detector_length_D
    return {
        "prediction": scores.logits.prediction_N,
        "suppression": scores.logits.suppression_N,
        "partition": scores.logits.partition_N,
        "entropy": listed(scores.entropy.candidates_R),
        "token frequency": listed(scores.frequency.chosen_R),
        "attention deactivation": off_N,
        "attention activation": on_N,
        "dead": reach_N <= DetectorOptions.dead,
        "token detector": length_N == 1,
        "n-gram detector": length_N > 1,
        "position": responses.found.position_kind_D > 0,
    }


@dataclass(frozen=True, kw_only=True)
class Mediated:
    """Of neurons held at their means: the effect, and what goes through scale and frequency."""

    neuron_R: Tensor
    intervals: dict[str, Interval]


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What was done to a model, and what it did."""

    declared: Declaration
    effects: Effects
    bootstrap: Bootstrap
    means: dict[str, Interval]
    """[I] by measure"""
    changes: dict[str, Interval]
    """from the untouched model"""
    mediated: Mediated
    paths: PathSums | None
    """None where the declaration says why"""

    @property
    def tokens(self) -> int:
        return int(self.effects.count_R.sum())


def read_measured(
    store: Store, recipe: Roles, bank: Bank, model: Model, declared: Declaration
) -> Measured:
    """Of all shards in their order. Raises DamagedError where one is not as it was written."""
    effects = _effects(store, recipe, bank, model, declared)
    bootstrap = Bootstrap(len(effects.count_R))
    return Measured(
        declared=declared,
        effects=effects,
        bootstrap=bootstrap,
        means={
            name: bootstrap.mean(sums_IR, effects.count_R)
            for name, sums_IR in effects.sums.items()
        },
        changes={
            name: bootstrap.mean(effects.sums[name] - effects.sums[name][:1], effects.count_R)
            for name in CHANGED
        },
        mediated=_mediated(declared, effects, bootstrap),
        paths=_paths(store, recipe, model, declared) if declared.paths else None,
    )


def _effects(
    store: Store, recipe: Roles, bank: Bank, model: Model, declared: Declaration
) -> Effects:
    """Of all that is declared."""
    parts, folder = [], recipe.effects_folder(model, bank.counts_V)
    groups = by_neurons(declared.done)
    for held in _held(store, recipe, model, folder, ShardEffects, list(map(group_key, groups))):
        found: dict[Intervention, Tensor] = {}
        for group, (stored, first) in zip(groups, held, strict=True):
            sums_MIT = stored.sums_MIT[:, first : first + len(group)]
            found |= dict(zip(group, sums_MIT.unbind(1), strict=True))
        sums_MIT = torch.stack([found[each] for each in declared.done], dim=1)
        sums = dict(zip(MEASURES, sums_MIT, strict=True))
        parts.append(Effects(declared.done, held[0][0].count_T, sums))
    return merge_effects(parts)


def _paths(store: Store, recipe: Roles, model: Model, declared: Declaration) -> PathSums:
    parts, folder = [], recipe.paths_folder(model)
    keys = list(map(path_key, declared.paths))
    for held in _held(store, recipe, model, folder, ShardPaths, keys):
        parts.append(
            PathSums(
                paths=declared.paths,
                count=held[0][0].count,
                totals_IQ=torch.stack([stored.totals_IQ[place] for stored, place in held]),
                products_IQQ=torch.stack([stored.products_IQQ[place] for stored, place in held]),
                points_IXQ=torch.stack([stored.points_IXQ[place] for stored, place in held]),
            )
        )
    return merge_paths(parts)


def _held(
    store: Store, recipe: Roles, model: Model, folder: str, kind: type[_Stored], keys: Sequence[str]
) -> Iterator[list[tuple[_Stored, int]]]:
    """Of every shard, by key of a group or path: the piece that holds its sums, and where in it
    they begin.
    """
    there = pieces(store, recipe, folder, model, store.list(folder))
    for shard in recipe.plan.shards:
        nowhere = shard_folder(folder, shard), 0
        places = [there[shard.index].get(key, nowhere) for key in keys]
        stored = {
            piece: artifacts.get(store, sums_file(piece), kind, marker(piece))
            for piece in dict.fromkeys(piece for piece, _ in places)
        }
        yield [(stored[piece], first) for piece, first in places]


def _mediated(declared: Declaration, effects: Effects, bootstrap: Bootstrap) -> Mediated:
    places: dict[str | None, list[int]] = {None: [], SCALE: [], UNIGRAM: []}
    for place, each in enumerate(declared.interventions):
        if each.kind == MEAN:
            places[each.intervention.frozen].append(place)
    neurons = [declared.interventions[place].neuron for place in places[None]]
    shift_IR, unigram_IR = effects.sums["loss_shift"], effects.sums["kl_unigram_shift"]
    whole_IR = shift_IR[places[None]]
    return Mediated(
        neuron_R=torch.tensor(neurons, dtype=torch.int64),
        intervals={
            "effect_on_loss": bootstrap.mean(whole_IR, effects.count_R),
            "scale_mediated_share": bootstrap.mediated_share(whole_IR, shift_IR[places[SCALE]]),
            "frequency_mediated_share": bootstrap.mediated_share(
                whole_IR, shift_IR[places[UNIGRAM]]
            ),
            "unigram_shift": bootstrap.mean(unigram_IR[places[None]], effects.count_R),
        },
    )
