"""Local disks: what is written stays there when the power goes."""

import os
from pathlib import Path


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
