"""`similarity.parquet`: measures of layers as they are stored, both ways, to the rows of the table.
"""

from dataclasses import dataclass

import pyarrow as pa
import torch
from torch import Tensor

from universal_ray.maths.similarity.measures import OF_NEURONS
from universal_ray.models.site import Site
from universal_ray.planning.items import Item
from universal_ray.stages.correlations.artifacts import Reduction, Similarities
from universal_ray.stages.correlations.schemas import SIMILARITY
from universal_ray.storage import artifacts
from universal_ray.storage.columns import lists, numbers
from universal_ray.storage.store import Store


@dataclass(frozen=True, kw_only=True)
class OneWay:
    """Of one direction of a pair: X measures of H layers of a model beside L of another."""

    measures: tuple[str, ...]
    value_XHL: Tensor
    error_XHL: Tensor
    draws_XHLK: Tensor


def both_ways(store: Store, recipe: Reduction, pair: Item) -> tuple[OneWay, OneWay]:
    """Both directions of a pair; of no measure where the study asks for none."""
    names = recipe.measures
    if not names:
        none = torch.zeros(0, 0, 0, 1, dtype=torch.float64)
        nothing = OneWay(
            measures=(), value_XHL=none[..., 0], error_XHL=none[..., 0], draws_XHLK=none
        )
        return nothing, nothing
    parts = [
        artifacts.get(store, recipe.similar_file(pair, layer), Similarities)
        for layer in range(pair.layers)
    ]
    value_2XHL = torch.stack([part.value_2XL for part in parts], 2)
    error_2XHL = torch.stack([part.error_2XL for part in parts], 2)
    draws_2XHLK = torch.stack([part.draws_2XLK for part in parts], 2)
    return (
        OneWay(measures=names, value_XHL=value_2XHL[0], error_XHL=error_2XHL[0],
               draws_XHLK=draws_2XHLK[0]),
        OneWay(measures=names, value_XHL=value_2XHL[1].transpose(1, 2),
               error_XHL=error_2XHL[1].transpose(1, 2),
               draws_XHLK=draws_2XHLK[1].transpose(1, 2)),
    )  # fmt: skip


def with_best(found: OneWay) -> OneWay:
    """And, after the last layer of the other model, the largest over them; of what chance gives
    too, draw by draw.
    """
    least_XHL = found.value_XHL.nan_to_num(-torch.inf)
    value_XH1, place_XH1 = least_XHL.max(2, keepdim=True)
    none_XH1 = value_XH1.isinf()
    draws_XH1K = found.draws_XHLK.nan_to_num(-torch.inf).amax(2, keepdim=True)
    return OneWay(
        measures=found.measures,
        value_XHL=torch.cat([found.value_XHL, value_XH1.masked_fill(none_XH1, torch.nan)], 2),
        error_XHL=torch.cat([found.error_XHL, found.error_XHL.gather(2, place_XH1)], 2),
        draws_XHLK=torch.cat(
            [found.draws_XHLK, draws_XH1K.masked_fill(draws_XH1K.isinf(), torch.nan)], 2
        ),
    )


def similarity_table(
    model: str, other: str, found: OneWay, n: int, site: Site, chance: str
) -> pa.Table:
    """The rows of one direction of a pair; none where no measure was asked for. `site`: of the
    units; `chance`: what measures of neurons are held against.
    """
    if not found.measures:
        return SIMILARITY.empty_table()
    shown = with_best(found)
    measures, layers, others = shown.value_XHL.shape
    rows = measures * layers * others
    draws_RK = shown.draws_XHLK.flatten(0, 2)
    value_R, error_R = shown.value_XHL.flatten(), shown.error_XHL.flatten()
    null_R = draws_RK.isnan().any(1)
    spread_R = torch.full_like(value_R, torch.nan)
    if draws_RK.shape[1] > 1:
        spread_R = draws_RK.std(1) / draws_RK.shape[1] ** 0.5
    every = torch.zeros(rows, dtype=torch.bool)
    layer_R, other_R = (
        each.expand(measures, layers, others).flatten().to(torch.int16)
        for each in (torch.arange(layers)[None, :, None], torch.arange(others)[None, None])
    )
    names = [name for name in shown.measures for _ in range(layers * others)]
    kinds = [chance if name in OF_NEURONS else "tokens" for name in names]
    columns = {
        "model": pa.array([model] * rows, pa.string()),
        "other": pa.array([other] * rows, pa.string()),
        "measure": pa.array(names, pa.string()),
        "layer": numbers(layer_R, every, pa.int16()),
        "other_layer": numbers(other_R, other_R == others - 1, pa.int16()),
        "value": numbers(value_R, every, pa.float64()),
        "se": numbers(error_R, every, pa.float64()),
        "null": numbers(draws_RK.mean(1), null_R, pa.float64()),
        "null_se": numbers(spread_R, null_R, pa.float64()),
        "null_draws": lists(draws_RK, ~null_R[:, None].expand_as(draws_RK), pa.float64()),
        "null_kind": pa.array(kinds, pa.string()),
        "n": pa.array([n] * rows, pa.int64()),
        "site": pa.array([site.name] * rows, pa.string()),
        "unit_kind": pa.array([site.unit] * rows, pa.string()),
    }
    return pa.table([columns[name] for name in SIMILARITY.names], schema=SIMILARITY)
