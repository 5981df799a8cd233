"""What the tables of earlier stages say: who a neuron's partners are, and which neurons come first.

Shapes: N neurons of a model.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from jaxtyping import Int64
from torch import Tensor

from universal_ray.features.features import CURRENT
from universal_ray.planning.items import Model
from universal_ray.stages.profile.artifacts import POSITION, Bank
from universal_ray.stages.report.labels import Chosen
from universal_ray.stages.report.plan import Described
from universal_ray.storage import finished
from universal_ray.storage.finished import (
    NEURONS_PATH,
    PAIRS_PATH,
    ROLES_PATH,
    TAXONOMY_PATH,
)
from universal_ray.storage.store import Store

NONE = -1
MEMBER = "member"
"""The status of a neuron that belongs to its family."""


def best_partners(store: Store, each: Described) -> dict[str, Int64[Tensor, "N"]]:
    """By name of another model: the flat index of every neuron's best partner there, -1 for none.
    """
    names = ["model", "other", "max_layer", "max_neuron"]
    pairs = _of(finished.get_table(store, PAIRS_PATH, names), each.model)
    found = {}
    for other in each.others:
        mine = pairs.filter(pc.equal(pairs["other"], other.name))
        layer_N, neuron_N = (
            pc.fill_null(pc.cast(mine[name], pa.int64()), NONE).to_numpy()
            for name in ("max_layer", "max_neuron")
        )
        flat_N = np.where(layer_N == NONE, NONE, layer_N * other.width + neuron_N)
        found[other.name] = torch.from_numpy(flat_N)
    return found


def order(store: Store, model: Model) -> Int64[np.ndarray, "N"]:
    """Neurons of a described model: universal ones, then those with a family or a role, then the
    others; each by excess correlation, those without one last.
    """
    neurons = _of(
        finished.get_table(store, NEURONS_PATH, ["model", "is_universal", "excess_corr"]), model
    )
    taxonomy = _of(finished.get_table(store, TAXONOMY_PATH, ["model", "status"]), model)
    (roles,) = _roles(store, model, "roles")
    member_N = pc.fill_null(pc.equal(taxonomy["status"], MEMBER), False).to_numpy()
    role_N = np.array([bool(each) for each in roles])
    universal_N = pc.fill_null(neurons["is_universal"], False).to_numpy()
    excess_N = pc.fill_null(neurons["excess_corr"], -np.inf).to_numpy()
    tier_N = np.where(universal_N, 0, np.where(member_N | role_N, 1, 2))
    found: np.ndarray = np.lexsort((-excess_N, tier_N))
    return found


@dataclass(frozen=True)
class Story:
    """What earlier tables say of a described model's neurons, one by one."""

    universal: tuple[bool, ...]
    roles: tuple[list[str], ...]
    classes: tuple[str | None, ...]
    """of ids that each writes to most"""
    effects: tuple[str | None, ...]
    """promotes or suppresses it"""


def story(store: Store, model: Model) -> Story:
    neurons = _of(finished.get_table(store, NEURONS_PATH, ["model", "is_universal"]), model)
    roles, classes, effects = _roles(store, model, "roles", "logit_class", "logit_effect")
    return Story(
        tuple(bool(each) for each in neurons["is_universal"].to_pylist()),
        tuple(each or [] for each in roles),
        tuple(classes),
        tuple(effects),
    )


def chosen(store: Store, model: Model, bank: Bank, named: Sequence[int]) -> Chosen:
    """Universal neurons of a described model, members of families, and those named, flat."""
    neurons = _of(finished.get_table(store, NEURONS_PATH, ["model", "is_universal"]), model)
    taxonomy = _of(finished.get_table(store, TAXONOMY_PATH, ["model", "status", "feature"]), model)
    (of_logits,) = _roles(store, model, "logit_class")
    universal = neurons["is_universal"].to_pylist()
    status = taxonomy["status"].to_pylist()
    wanted = [
        flat
        for flat in range(model.neurons)
        if universal[flat] or status[flat] == MEMBER or flat in named
    ]
    columns = {column.name: n for n, column in enumerate(bank.columns)}
    columns[POSITION.name] = NONE
    classes = {column.name: n for n, column in enumerate(bank.id_columns(CURRENT))}
    feature = taxonomy["feature"].to_pylist()
    return Chosen(
        neuron_R=tuple(wanted),
        feature_R=tuple(NONE if feature[n] is None else columns[feature[n]] for n in wanted),
        class_R=tuple(NONE if of_logits[n] is None else classes[of_logits[n]] for n in wanted),
    )


def _roles(store: Store, model: Model, *names: str) -> list[list[Any]]:
    """Columns of the roles by neuron; None throughout where units have none, whose run leaves that
    stage out.
    """
    if finished.ROLES not in finished.stages(store):
        return [[None] * model.neurons for _ in names]
    table = _of(finished.get_table(store, ROLES_PATH, ["model", *names]), model)
    return [table[name].to_pylist() for name in names]


def _of(table: pa.Table, model: Model) -> pa.Table:
    return table.filter(pc.equal(table["model"], model.name))
