"""Columns of the published tables: fields with unit and meaning, and null where none."""


import pyarrow as pa
import torch


def list_of(kind: pa.DataType) -> pa.DataType:
    return pa.list_(kind)


def numbers(values: torch.Tensor, missing: torch.Tensor, kind: pa.DataType) -> pa.Array:
    missing = missing | (values.isnan() if values.is_floating_point() else missing)
    return pa.array(values.numpy(), kind, mask=missing.numpy())


def _lists(values: torch.Tensor, kept: torch.Tensor, kind: pa.DataType) -> pa.Array:
    """Rows of a matrix as lists of the entries that are kept; null where none is."""
    counts = kept.sum(1)
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)]).to(torch.int32)
    flat = pa.array(values[kept].numpy()).cast(kind)
    mask = pa.array((counts == 0).numpy())
    return pa.ListArray.from_arrays(pa.array(offsets.numpy()), flat, mask=mask)
