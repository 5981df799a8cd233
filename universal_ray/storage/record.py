"""What a run directory says of itself, read back: `study.yaml` and `metrics.jsonl`."""

import logging
from contextlib import suppress
from typing import Any

import yaml

from universal_ray.config.site import as_recorded
from universal_ray.config.wellformed import ABSENT, MalformedError, parse
from universal_ray.errors import MissingError, StorageError
from universal_ray.storage.names import STUDY_FILE
from universal_ray.storage.store import Store

log = logging.getLogger(__name__)

METRICS_FILE = "metrics.jsonl"
MEASURED = {
    "seconds": {str: float}, "flops": (float, ABSENT), "forward_flops": (float, ABSENT),
}
"""What is read again of a line of it."""
SHAPE = {
    "configuration": dict,
    "bits": {str: object},
    "models": [dict],
    "corpus": {"rows": int, "context": int, "units": [[int, int, str]]},
}
"""What every version of this project has written, and later ones read."""


def _load(data: bytes) -> Any:
    try:
        return yaml.safe_load(data)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error


def check_started(store: Store) -> None:
    """Raise MissingError where no run lives."""
    if not store.exists(STUDY_FILE):
        raise MissingError(f"{store.url} holds no run: give the run.dir of one that was started")


def read_record(store: Store) -> dict[str, Any] | None:
    """The record of a run, in the words of now, None where there is none yet.

    Raises StorageError where it is not what this project writes.
    """
    if not store.exists(STUDY_FILE):
        return None
    try:
        record: dict[str, Any] = parse(store.get(STUDY_FILE), SHAPE, _load)
    except MalformedError as error:
        raise StorageError(
            f"{store.url}/{STUDY_FILE} cannot be read ({error}): put it back as it was, or choose "
            "another run.dir"
        ) from error
    record["bits"] = as_recorded(record["bits"])
    models = record["configuration"].get("models")
    if isinstance(models, dict):
        record["configuration"]["models"] = as_recorded(models, before="models.")
    return record


def read_metrics(store: Store) -> list[dict[str, Any]]:
    """One entry per finished task that counts, in the order they finished.

    Lines that were altered are left out, with a warning: no table is made from them.
    """
    if not store.exists(METRICS_FILE):
        return []
    lines = store.get(METRICS_FILE).splitlines()
    found = []
    for line in lines:
        with suppress(MalformedError):
            found.append(parse(line, MEASURED))
    if len(found) < len(lines):
        log.warning(
            "%d of %d lines of %s/%s were altered: rates are told without them",
            len(lines) - len(found), len(lines), store.url, METRICS_FILE,
        )
    return found
