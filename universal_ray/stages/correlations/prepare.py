"""What of the correlations is done already, and the plan that follows from it."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat

from universal_ray.config.study import Device
from universal_ray.errors import ConfigurationError
from universal_ray.planning.items import Item, Layout, Unit, marker
from universal_ray.runtime.measure import expected_memory
from universal_ray.stages.correlations.folding import calibrations
from universal_ray.stages.correlations.plan import Plan
from universal_ray.stages.inputs import Outline
from universal_ray.storage import checked
from universal_ray.storage.names import STUDY_FILE
from universal_ray.storage.store import Store

Done = frozenset[tuple[int, str]]
"""(unit index, item key) whose sums are stored."""


def make_plan(found: Outline, done: Done) -> Plan:
    """What is left to sum up. Raises ConfigurationError where the workers' memory is known to be
    too small for it, or a row has no other in its batch whose tokens could be beside its own.
    """
    settings = found.study.cluster
    if found.study.baseline.shifts and found.calibration_rows < 2:
        raise ConfigurationError(
            "baseline.kind=shifted puts tokens beside those of other rows of their batch, which is "
            f"of one row of {found.context} tokens: raise units.batch to several"
        )
    plan = Plan(
        models=found.everyone,
        references=found.references,
        items=found.items,
        layout=found.layout,
        context=found.context,
        footprint=found.footprint,
        memory=expected_memory(settings),
        workers=settings.workers,
        done=done,
    )
    if settings.memory or (settings.device is Device.cpu and settings.address is None):
        plan.check_memory()
    return plan


def claimed(found: Outline, store: Store) -> Done:
    """Sums that are there by their names: what a plan is told from before tokens are read."""
    if not store.exists(STUDY_FILE):
        return frozenset()
    stored = store.sizes("moments")
    done = set()
    for item in found.items:
        for block in found.layout.blocks:
            if marker(item.block_folder(block)) in stored:
                done |= {(unit.index, item.key) for unit in block.units}
        done |= {
            (unit.index, item.key)
            for unit in found.layout.units
            if marker(item.unit_folder(unit)) in stored
        }
    return frozenset(done)


def find_done(
    store: Store, items: tuple[Item, ...], layout: Layout
) -> tuple[Done, tuple[str, ...]]:
    """(unit index, item key) whose sums are stored at full length, and the folders that are not, or
    are of a calibration that was made anew since and is another.

    Checksums are looked at where the sums are read: a large study has terabytes of them.
    """
    if not store.exists(STUDY_FILE):
        return frozenset(), ()
    stored = store.sizes("moments")
    dropped: list[str] = []

    def whole(folder: str, item: Item, units: Sequence[Unit]) -> bool:
        if marker(folder) not in stored:
            return False
        told, of = checked.told(store, marker(folder)), item.of(units)
        files = {each["path"]: each["bytes"] for each in told.get("files", ())}
        made_with = told.get("calibrations") or {}
        good = (
            bool(files)
            and all(stored.get(path) == length for path, length in files.items())
            and told.get("of") == of
            and all(made_with.get(model, now) == now for model, now in standing.items())
        )
        if not good:
            dropped.append(folder)
        return good

    done = set()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for item in items:
            standing = calibrations(store, item)
            for block in layout.blocks:
                if whole(item.block_folder(block), item, block.units):
                    done |= {(unit.index, item.key) for unit in block.units}
            left = [unit for unit in layout.units if (unit.index, item.key) not in done]
            folders = [item.unit_folder(unit) for unit in left]
            verdicts = pool.map(whole, folders, repeat(item), [(unit,) for unit in left])
            done |= {(u.index, item.key) for u, good in zip(left, verdicts, strict=True) if good}
    return frozenset(done), tuple(dropped)
