"""Columns that every table about neurons has: whose neuron, and which."""

from typing import Any

import pyarrow as pa
import torch
from jaxtyping import Int64
from torch import Tensor

from universal_ray.maths.moments.correlation import split_index
from universal_ray.planning.items import Model
from universal_ray.storage.reasons import field

INDEX = "index from 0"
WHO = (
    field("id", pa.string(), "id", "the neuron, by one word"),
    field("model", pa.string(), "name", "model the neuron belongs to"),
    field("layer", pa.int16(), INDEX, "layer of the neuron"),
    field("neuron", pa.int32(), INDEX, "neuron within its layer"),
)
NO_SITE = "they are columns of a matrix given to correlate"
SITE = (
    field("site", pa.string(), "name", "what its units are, models.site", null=NO_SITE),
    field("unit_kind", pa.string(), "name", "what one of them is called", null=NO_SITE),
)
"""Of the tables that are taken out of a run, to stand beside those of others: within one it is the
same everywhere."""


def who(model: Model, neuron_R: Int64[Tensor, "R"] | None = None) -> dict[str, Any]:
    """The columns of `WHO` by name, of some neurons by their flat index, or of all of a model."""
    if neuron_R is None:
        neuron_R = torch.arange(model.neurons)
    layer_R, place_R = split_index(neuron_R, model.width)
    ids = [
        f"{model.name}:{layer}.{place}"
        for layer, place in zip(layer_R.tolist(), place_R.tolist(), strict=True)
    ]
    return {
        "id": pa.array(ids, pa.string()),
        "model": pa.array([model.name] * len(ids), pa.string()),
        "layer": pa.array(layer_R.numpy()).cast(pa.int16()),
        "neuron": pa.array(place_R.numpy()).cast(pa.int32()),
    }
