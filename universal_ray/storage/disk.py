"""Files of this host's disk: what they hold, in short, and whether it would outlast a power cut."""

import hashlib
import os
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from xxhash import xxh3_128

if TYPE_CHECKING:
    import torch


def seal(name: str) -> tuple[int, str]:
    """Length and checksum of a temporary file, once it is on the disk and others may read it."""
    # safetensors writes for the owner's eyes alone; the grandparent is where the file will lie.
    grandparent = os.path.dirname(os.path.dirname(name))
    os.chmod(name, 0o600 | os.stat(grandparent).st_mode & 0o664)
    digest = checksum(name)
    sync(name)
    return os.path.getsize(name), digest


def checksum(name: str) -> str:
    """xxh3-128, hexadecimal."""
    with open(name, "rb") as file:
        return hashlib.file_digest(file, xxh3_128).hexdigest()  # any constructor of hashlib's kind


def sync(name: str | Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(name, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(name: str | Path) -> None:
    """Make a folder with those above it; all of them are on the disk when this returns."""
    missing = []
    folder = Path(os.path.abspath(name))
    while not folder.exists():
        missing.append(folder)
        folder = folder.parent
    os.makedirs(name, exist_ok=True)
    for made in missing:
        sync(made.parent)


def sync_all(folder: Path) -> None:
    """Wait until a folder is on the disk with everything in it."""
    for place, _, names in os.walk(folder, topdown=False):
        for name in names:
            sync(Path(place) / name)
        sync(place)


def free_bytes(folder: str) -> int:
    """Of the disk that a folder is or would be on."""
    path = Path(folder)
    return shutil.disk_usage(next(each for each in (path, *path.parents) if each.exists())).free


def save_tensors(tensors: dict[str, "torch.Tensor"], name: str, metadata: dict[str, str]) -> None:
    """A safetensors file; what the system refuses is an OSError."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        save_file(tensors, name, metadata=metadata)
    except SafetensorError as error:
        code = re.search(r"os error (\d+)", str(error))
        if code is None:
            raise
        number = int(code[1])
        raise OSError(number, os.strerror(number)) from error
