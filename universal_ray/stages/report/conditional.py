"""The table of activations by what tokens are.

Shapes: R chosen neurons, G shared groups, S pairs of a subset and an id, P positions, H bins.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from torch import Tensor

from universal_ray.features.features import CURRENT
from universal_ray.maths.statistics.conditional import WITH, WITHOUT, GroupSums, moments
from universal_ray.planning.items import Model
from universal_ray.stages.report.labels import NONE, WORD_ROLES, Chosen, TokenLabels
from universal_ray.stages.report.schemas import CONDITIONAL, MOMENTS
from universal_ray.stages.report.tables import name_of

ALL, FEATURE, WORD, NEXT, CLASS, AT, TOKEN = (
    "all", "feature", "word", "next token", "next token in its class", "position",
    "token in subset",
)  # fmt: skip
SHARED, OWN = "shared groups", "own groups"


def conditional_table(
    model: Model, chosen: Chosen, sums: GroupSums, labels: TokenLabels
) -> pa.Table:
    """Rows of the chosen neurons of one model, one after the other."""
    every = {
        SHARED: (sums.shared_5GR, sums.shared_histogram_GRH),
        OWN: (sums.own_52OR, sums.own_histogram_2ORH),
        AT: (sums.position_5PR, None),
        TOKEN: (sums.token_5SR, None),
        # Every token has one role in its word.
        ALL: (sums.position_5PR.sum(1), sums.shared_histogram_GRH[: len(WORD_ROLES)].sum(0)),
    }
    told = {name: _Told.of(*each) for name, each in every.items()}
    rows = [row for place in range(len(chosen.neuron_R))
            for row in _rows(model, chosen, told, labels, place)]  # fmt: skip
    return pa.Table.from_pylist(rows, schema=CONDITIONAL)


@dataclass(frozen=True)
class _Told:
    """Of some groups and all neurons, by column."""

    moments: dict[str, np.ndarray]
    histogram: np.ndarray | None

    @classmethod
    def of(cls, sums: Tensor, histogram: Tensor | None) -> "_Told":
        counts = None if histogram is None else histogram.numpy().astype(np.int32)
        return cls({name: each.numpy() for name, each in moments(sums).items()}, counts)

    def at(self, *place: int) -> dict[str, Any]:
        """Of one group and neuron; moments are left out where it has no token."""
        tokens = int(self.moments["tokens"][place])
        told: dict[str, Any] = {"tokens": tokens}
        if tokens:
            told |= {name: float(self.moments[name][place]) for name in MOMENTS}
        if self.histogram is not None:
            told["histogram"] = self.histogram[place]
        return told


def _rows(
    model: Model, chosen: Chosen, told: dict[str, _Told], labels: TokenLabels, place: int
) -> Iterator[dict[str, Any]]:
    """Of one neuron."""
    flat = chosen.neuron_R[place]
    who = {
        "id": name_of(model, flat), "model": model.name,
        "layer": flat // model.width, "neuron": flat % model.width,
    }  # fmt: skip
    yield {**who, "by": ALL, **told[ALL].at(place)}
    names = {
        FEATURE: (chosen.feature_R[place], labels.bank.columns),
        CLASS: (chosen.class_R[place], labels.bank.id_columns(CURRENT)),
    }
    for kind, (by, (column, columns)) in enumerate(names.items()):
        for which in (WITH, WITHOUT) if column != NONE else ():
            own = {"by": by, "group": columns[column].name, "inside": which == WITH}
            yield {**who, **own, **told[OWN].at(which, kind, place)}
    groups = [(WORD, name) for name in WORD_ROLES]
    groups += [(NEXT, column.name) for _, column in labels.classes]
    for group, (by, name) in enumerate(groups):
        yield {**who, "by": by, "group": name, **told[SHARED].at(group, place)}
    for position in range(len(told[AT].moments["tokens"])):
        yield {**who, "by": AT, "position": position, **told[AT].at(position, place)}
    for pair, (subset, key) in enumerate(labels.pairs):
        own = {"by": TOKEN, "subset": subset, "token_id": key}
        yield {**who, **own, **told[TOKEN].at(pair, place)}
