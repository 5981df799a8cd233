"""What a command will take, its stages together, of the hub too, and what of a run it makes anew.
"""

import logging
from collections.abc import Mapping

from universal_ray.config.study import keys, value_of
from universal_ray.corpus.documents import HUB_FILES
from universal_ray.errors import ResourceError
from universal_ray.models.source import is_here
from universal_ray.planning.capacity import size
from universal_ray.planning.costs import Cost, describe_total, disk_at_once
from universal_ray.runtime.measure import expected_memory, known_speed
from universal_ray.stages.changes import NOTHING, REFUSED, SAME, effect
from universal_ray.stages.inputs import Outline
from universal_ray.stages.registry import artifacts
from universal_ray.stages.text import text_of
from universal_ray.storage.record import read_record
from universal_ray.storage.store import Store

log = logging.getLogger(__name__)


def described(
    found: Outline, store: Store, costs: Mapping[str, Cost]
) -> list[tuple[str, str]]:
    """As rows of a table on screen; `costs`: of its stages."""
    settings = found.study.cluster
    return [
        *_changes(found, store),
        *downloads(found, store),
        *describe_total(
            costs,
            room=store.room(),
            workers=settings.workers,
            memory=expected_memory(settings),
            device=settings.device,
            speed=known_speed(found.study, store),
        ),
    ]


def check_room(store: Store, costs: Mapping[str, Cost]) -> None:
    """Raises ResourceError where the disk has no room for what the stages leave on it; a warning
    where it may be full meanwhile.
    """
    left, most = sum(cost.kept for cost in costs.values()), disk_at_once(costs)
    room = store.room()
    if room is not None and left > room:
        raise ResourceError(
            f"The run leaves {size(left)} in {store.url}, whose disk has {size(room)} for it: "
            "choose another run.dir, fewer models or fewer tokens."
        )
    if room is not None and most > room:
        log.warning(
            "the run may take %s at once in %s, whose disk has %s for it: it stops where that is "
            "full, and the same command goes on", size(most), store.url, size(room),
        )  # fmt: skip


def downloads(found: Outline, store: Store) -> list[tuple[str, str]]:
    """What the hub gives: models of all revisions, and text that is not tokenised yet."""
    models = [each for each in found.sources.values() if each.commit is not None]
    told = []
    if models:
        every = size(sum(each.size for each in models))
        here = size(sum(each.size for each in models if is_here(each)))
        told.append(
            f"{every} of {len(models)} models, into the hub's cache of every machine that "
            f"computes; this one has {here} of it"
        )
    text = text_of(found.study, store)
    if text is not None and not text.begun and HUB_FILES.fullmatch(text.settings.source):
        length = text.settings.bytes
        told.append(f"{size(length) if length else 'files'} of text, into that of this machine")
    return [("download", "; ".join(told))] if told else []


def _changes(found: Outline, store: Store) -> list[tuple[str, str]]:
    """Keys that are not as the run has them, each with what it makes anew."""
    record = read_record(store)
    if record is None:
        return []
    rows = []
    for key in keys():
        section, name = key.split(".")
        before, now = record["configuration"].get(section, {}).get(name), value_of(found.study, key)
        does = effect(key, artifacts())
        if before != now and does != NOTHING:
            made = "" if does in (REFUSED, SAME) else "makes anew "
            rows.append(("changed", f"{key}, from {before} to {now}: {made}{does}"))
    return rows
