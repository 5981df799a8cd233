"""Stored work that is read again: every file has a receipt in a marker, looked at when it is read.

A *piece* of work is some files and the marker that vouches for them by length and checksum, written
after them. A marker that cannot be read is no marker. What is not as its marker says loses the
marker, so that whoever makes such pieces makes it anew.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from universal_ray.errors import DamagedError, MissingError
from universal_ray.storage.store import Receipt, Store

if TYPE_CHECKING:
    import torch

_Content = TypeVar("_Content")


def finish(store: Store, marker: str, receipts: Iterable[Receipt], **told: Any) -> None:
    """Write the marker of a piece, after its files; `told` is what else it says."""
    store.put_json(marker, {**told, "files": [vars(receipt) for receipt in receipts]})


def told(store: Store, marker: str) -> dict[str, Any]:
    """What a marker says; nothing where it is none: absent, half, or of something else."""
    try:
        content = store.get_json(marker)
        for entry in content["files"]:
            if [type(value) for value in vars(Receipt(**entry)).values()] != [str, int, str]:
                return {}
    except (MissingError, DamagedError, KeyError, TypeError):
        return {}
    return content


def receipts(store: Store, marker: str) -> dict[str, Receipt]:
    """By path; none where there is no marker."""
    return {entry["path"]: Receipt(**entry) for entry in told(store, marker).get("files", ())}


def read(store: Store, marker: str, path: str, get: Callable[[str, Receipt], _Content]) -> _Content:
    """What `get` reads of a file of a piece.

    Raises DamagedError where it is not what was written, or was never finished; the marker goes.
    """
    receipt = receipts(store, marker).get(path)
    try:
        if receipt is None:
            raise DamagedError(
                f"{store.url}/{path} has no receipt in {marker}: it was cut or altered, what"
                " made it makes it anew."
            )
        return get(path, receipt)
    except (DamagedError, MissingError) as error:
        store.delete(marker)
        raise DamagedError(str(error)) from error


def marker_of(path: str) -> str:
    """Of a file that is a piece by itself."""
    return f"{path.rpartition('.')[0]}.json"


def put_tensors(store: Store, path: str, tensors: Mapping[str, "torch.Tensor"]) -> Receipt:
    """Write tensors as a piece of one file, and its marker."""
    receipt = store.put_tensors(path, tensors)
    finish(store, marker_of(path), [receipt])
    return receipt


def get_tensors(
    store: Store, path: str, marker: str | None = None
) -> dict[str, "torch.Tensor"]:
    """The tensors of a file that is a piece by itself, or one of those of `marker`.

    Raises DamagedError as `read` does.
    """
    return read(store, marker or marker_of(path), path, store.get_tensors)


def checksum(store: Store, path: str) -> str | None:
    """Of a file that is a piece by itself, as its marker has it; None where there is none."""
    receipt = receipts(store, marker_of(path)).get(path)
    return receipt.checksum if receipt else None
