"""Where a name leads: a directory, or the Hugging Face hub and its cache on this machine."""

from __future__ import annotations

import os
import re
from pathlib import Path

from universal_ray.errors import MissingError

NAME = re.compile(r"(?P<id>[\w-][\w.-]*/[\w-][\w.-]*)(@(?P<revision>[^@\s]+))?")
# What a tokenizer needs: repositories also hold optimizer states of many gigabytes.
TOKENIZER = [
    "config.json", "tokenizer*", "vocab*", "merges.txt", "special_tokens_map.json", "*.model",
]  # fmt: skip
SHA256 = re.compile(r"[0-9a-f]{64}")


def locate(name: str, what: str) -> tuple[str, str | None]:
    """A name as (absolute directory, None) or (hub id, revision). Raises MissingError."""
    directory = Path(name).expanduser()
    if name and directory.is_dir():  # Path("") is the working directory
        return str(directory.resolve()), None
    match = NAME.fullmatch(name)
    if match is None:
        raise MissingError(
            f"There is no {what} {name!r}: it is neither a directory nor a hub id of the form "
            "owner/name[@revision]."
        )
    return match["id"], match["revision"] or "main"


def directory_of(name: str, location: str, revision: str | None, patterns: list[str]) -> Path:
    """The directory itself, or the snapshot of a hub repository with the files that match
    `patterns`, downloaded where they are not in the cache; it is named by its commit.

    Raises MissingError where the hub, or offline its cache, does not hold it.
    """
    if revision is None:
        return Path(location)
    from huggingface_hub import constants, errors, snapshot_download

    try:
        return Path(snapshot_download(location, revision=revision, allow_patterns=patterns))
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
        raise MissingError(
            f"The hub has no {location!r} at revision {revision!r} that can be read: check "
            "spelling and revision, and log in where it is private."
        ) from error
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as error:
        reason = (
            "the hub is not asked because HF_HUB_OFFLINE is set"
            if constants.is_offline_mode()
            else "the hub cannot be reached"
        )
        raise MissingError(
            f"{name!r} is neither a directory nor in the local hub cache, and {reason}: check the "
            "path, or download it while the network is there."
        ) from error


def digests(location: str, commit: str, snapshot: Path) -> dict[str, str | None]:
    """Files of a hub repository at a commit, folders left out, with the sha256 of those that the
    hub keeps by it: as the hub tells them, else as the cache does.
    """
    from huggingface_hub import HfApi, constants

    if not constants.is_offline_mode():
        try:
            told = HfApi().model_info(location, revision=commit, files_metadata=True).siblings
        except Exception:  # whatever a client raises: without the hub there is the cache
            told = None
        if told:
            return {
                file.rfilename: file.lfs.sha256 if file.lfs else None
                for file in told
                if "/" not in file.rfilename
            }
    return {path.name: _cached(path) for path in snapshot.iterdir() if path.is_file()}


def header(location: str, commit: str, name: str) -> dict[str, tuple[str, list[int]]] | None:
    """Name, dtype as safetensors calls it and shape of every tensor of a file on the hub, from its
    first bytes; None where the hub does not tell them.
    """
    from huggingface_hub import HfApi, constants

    if constants.is_offline_mode() or not name.endswith(".safetensors"):
        return None
    try:
        told = HfApi().parse_safetensors_file_metadata(location, name, revision=commit)
    except Exception:  # whatever a client raises: who loads the file looks at it again
        return None
    return {key: (tensor.dtype, list(tensor.shape)) for key, tensor in told.tensors.items()}


def _cached(path: Path) -> str | None:
    """The sha256 that a file of the cache should have: large ones are links to a file so named."""
    name = os.path.basename(os.readlink(path)) if path.is_symlink() else ""
    return name if SHA256.fullmatch(name) else None
