"""What every stage begins with: what it builds on, and what its workers are told alike."""

from collections.abc import Sequence
from typing import Any, TypeVar

from universal_ray.errors import MissingError
from universal_ray.models.site import Site
from universal_ray.runtime.worker import Assignment
from universal_ray.stages.inputs import Inputs
from universal_ray.storage.finished import TABLES
from universal_ray.storage.store import Store

Kind = TypeVar("Kind", bound=Assignment)


def assign(
    kind: type[Kind],
    inputs: Inputs,
    store: Store,
    *,
    sites: Sequence[Site],
    excluded: Sequence[int],
    **more: Any,
) -> Kind:
    """An assignment of a stage's own kind, which may ask for more than all have.

    Raises StorageError where the store cannot be written to.
    """
    study = inputs.study
    return kind(
        store_url=store.url,
        nonce=store.write_nonce(),
        corpus=inputs.corpus,
        sources=inputs.sources,
        excluded=tuple(excluded),
        sites=tuple(sites),
        dtype=study.models.dtype.value,
        batch_rows=inputs.batch_rows,
        threads=study.cluster.threads,
        device=study.cluster.device.value,
        **more,
    )


def check_made(store: Store, stage: str, made: bool, *, before: str) -> None:
    """Raise MissingError where the tables of an earlier stage are not those of these options."""
    if not made:
        order = list(TABLES)
        wanted = ",".join(order[order.index(stage) : order.index(before)])
        raise MissingError(
            f"{store.url} holds no tables of {stage} that are whole and of these options: make "
            f"them first, by stages=[{wanted}] with the same options"
        )
