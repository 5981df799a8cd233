"""What a run directory was made with, held against what is asked for now."""

from typing import Any

from universal_ray.errors import ConfigurationError
from universal_ray.storage.record import read_record
from universal_ray.storage.store import Store


def check_same_run(store: Store, record: dict[str, Any]) -> None:
    """Refuse to go on in a run directory whose sums were made otherwise: raises ConfigurationError.
    """
    old = read_record(store)
    if old is None:
        return
    if old["bits"].get("sums") != record["bits"]["sums"]:
        raise ConfigurationError(
            f"the run in {store.url} was made by another version of universal_ray, whose sums "
            "round otherwise: choose another run.dir"
        )
    differing = [
        f"{key} (was {old['bits'].get(key)}, now {value})"
        for key, value in record["bits"].items()
        if old["bits"].get(key) != value
    ]
    if differing:
        raise ConfigurationError(
            f"the run in {store.url} was made with other settings: {'; '.join(differing)}; "
            "set them back or choose another run.dir"
        )
    if old["corpus"].get("segments") != record["corpus"].get("segments"):
        raise ConfigurationError(
            f"the run in {store.url} was made of tokens of other tokenizers, or of segments by "
            "another corpus.pool: set them back or choose another run.dir"
        )
    before, now = old["corpus"]["units"], record["corpus"]["units"]
    if old["corpus"]["rows"] > record["corpus"]["rows"]:
        raise ConfigurationError(
            f"the run in {store.url} holds {old['corpus']['rows']} rows and corpus.tokens now "
            f"gives {record['corpus']['rows']}: tokens may only be added; "
            "raise it or choose another run.dir"
        )
    grown = {tuple(unit[:2]): unit[2] for unit in now}
    for start, stop, content in before:
        if grown.get((start, stop), content) != content:
            raise ConfigurationError(
                f"rows {start} to {stop} of {record['corpus']['path']} are not the tokens of the "
                f"run in {store.url}: give the same tokens (more may follow) or choose another "
                "run.dir"
            )
