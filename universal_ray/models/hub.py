"""Where a name leads: a directory, or the Hugging Face hub and its cache on this machine."""

from __future__ import annotations

import os
import re
from pathlib import Path

from universal_ray.errors import HubError, MissingError
from universal_ray.storage.hub import MODEL, Repository, snapshot

NAME = re.compile(r"(?P<id>[\w-][\w.-]*/[\w-][\w.-]*)(@(?P<revision>[^@\s]+))?")
# What a tokenizer needs: repositories also hold optimizer states of many gigabytes.
TOKENIZER = [
    "config.json", "tokenizer*", "vocab*", "merges.txt", "added_tokens.json",
    "special_tokens_map.json", "*.model",
]  # fmt: skip


def locate(name: str, what: str) -> tuple[str, str | None]:
    """A name as (absolute directory, None) or (hub id, revision). Raises MissingError."""
    if directory := directory_at(name):
        return str(directory), None
    match = NAME.fullmatch(name)
    if match is None:
        raise MissingError(
            f"There is no {what} {name!r}: it is neither a directory nor a hub id of the form "
            f"owner/name[@revision]{made_first(name)}."
        )
    return match["id"], match["revision"] or "main"


def made_first(name: str) -> str:
    """What to say of a folder that is not there where jobs of this project put theirs."""
    if not name.removeprefix("./").startswith("runs/"):
        return ""
    return "; `python jobs/run.py --help` tells what an experiment needs first, and what makes it"


def directory_at(name: str) -> Path | None:
    """The absolute directory of a name, None where it is of none, whatever else it is."""
    path = os.path.expanduser(name)  # which leaves a user that is none as it is
    return Path(path).resolve() if name and os.path.isdir(path) else None  # "" is no directory


def directory_of(name: str, location: str, revision: str | None, patterns: list[str]) -> Path:
    """The directory itself, or the snapshot of a hub model, named by its commit, with the files at
    its top that match `patterns`, downloaded where they are not in the cache.

    Raises MissingError where the hub, or offline its cache, does not hold it, else as
    `storage.hub_answers.ask`.
    """
    if revision is None:
        return Path(location)
    try:
        return snapshot(Repository(MODEL, location), revision, patterns, ignored=["*/*"])
    except (MissingError, HubError) as error:
        if revision in name.split("@")[1:]:
            raise
        why = str(error)
        raise type(error)(f"There is no directory {name!r}, and t{why[1:]}") from error
