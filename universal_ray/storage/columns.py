"""Published tables: what each is, and columns of tensors, null where there is no value."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table of a finished run, as a stage makes it."""

    path: str
    row: str
    """what one row is about"""
    sorted_by: tuple[str, ...]
    """columns that the rows come in the order of: models and features as the run lists them,
    numbers ascending"""
    schema: pa.Schema
    """columns, those that an earlier stage wrote among them, with unit and meaning"""


UNITS = {
    "id": "a neuron as `model:layer.neuron`",
    "name": "what something is called: a model, a feature, a family, a role",
    "text": "words for people",
    "token": "tokens as people read them, see above",
    "bytes": "a token exactly",
    "token id": "number of a token in the vocabulary",
    "yes/no": "whether something is so",
    "index from 0": "a place in an order",
    "tokens": "how many",
    "ids": "how many ids of the vocabulary",
    "neurons": "how many",
    "models": "how many",
    "directions": "how many",
    "features": "how many",
    "1": "a number without a unit",
    "share": "a part of the whole, from 0 to 1; a difference of two, or a change, may be below",
    "percent": "of what it was",
    "percentile": "place in an order, from 0 to 100",
    "correlation": "Pearson's r, and differences of it",
    "correlation²": "its square",
    "cosine": "of the angle between two vectors",
    "cosine²": "its square",
    "pre-activation": "what enters the activation function, in the model's own scale; of a unit "
                      "that none makes, its value",
    "pre-activation²": "its square",
    "activation": "what a neuron writes by, or another unit's value, in the model's own scale",
    "activation²": "its square",
    "logit": "what enters the softmax over the vocabulary",
    "nats": "natural units of information",
    "of the statistic": "in a summary: the unit of the column that is meant",
}
"""Every unit that a column may have, with what it means."""


def under(place: str, keys: dict[str, tuple[str, str]]) -> dict[str, tuple[str, str]]:
    """Unit and meaning by the place in a summary, of what lies under another place: `a[]` are the
    entries of a list, `{name}` is any key.
    """
    return {f"{place}.{key}": told for key, told in keys.items()}


def list_of(kind: pa.DataType) -> pa.DataType:
    """The type of a list of values of a kind."""
    return pa.list_(kind)


def numbers(values: torch.Tensor, missing: torch.Tensor, kind: pa.DataType) -> pa.Array:
    """Values, null where they are missing or NaN."""
    missing = missing | (values.isnan() if values.is_floating_point() else missing)
    return pa.array(values.numpy(), kind, mask=missing.numpy())


def lists(values: torch.Tensor, kept: torch.Tensor, kind: pa.DataType) -> pa.Array:
    """Rows of a matrix as lists of the entries that are kept; null where none is."""
    counts = kept.sum(1)
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)]).to(torch.int32)
    flat = pa.array(values[kept].numpy()).cast(kind)
    mask = pa.array((counts == 0).numpy())
    return pa.ListArray.from_arrays(pa.array(offsets.numpy()), flat, mask=mask)


def plain_numbers(value: Any) -> Any:
    """A nested value as JSON has it, which knows no NaN: null in its place."""
    if isinstance(value, dict):
        return {key: plain_numbers(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [plain_numbers(entry) for entry in value]
    if isinstance(value, torch.Tensor | np.generic):
        value = value.item()
    return None if isinstance(value, float) and math.isnan(value) else value
