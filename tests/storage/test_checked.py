"""What is stored and read again is read by its receipt; a marker that cannot be read is none."""

import json
from typing import Any

import pytest
import torch

from universal_ray.errors import DamagedError
from universal_ray.storage import checked
from universal_ray.storage.store import Store

NAME = "0123456789ab-0123456789ab"
PATH, MARKER = f"calibration/{NAME}.safetensors", f"calibration/{NAME}.json"


@pytest.fixture
def store(tmp_path):
    return Store(str(tmp_path))


def test_a_piece_comes_back_and_its_marker_lies_beside_it(store):
    receipt = checked.put_tensors(store, PATH, {"x": torch.ones(2)})
    assert store.list() == [MARKER, PATH]
    assert torch.equal(checked.get_tensors(store, PATH)["x"], torch.ones(2))
    assert checked.checksum(store, PATH) == receipt.checksum


@pytest.mark.parametrize("change", ["bit", "gone"])
def test_what_is_not_as_its_marker_says_loses_the_marker(store, tmp_path, change):
    checked.put_tensors(store, PATH, {"x": torch.ones(2)})
    if change == "bit":
        data = bytearray((tmp_path / PATH).read_bytes())
        data[-1] ^= 1
        (tmp_path / PATH).write_bytes(data)
    else:
        (tmp_path / PATH).unlink()
    with pytest.raises(DamagedError, match=NAME):
        checked.get_tensors(store, PATH)
    assert not store.exists(MARKER)
    with pytest.raises(DamagedError, match="has no receipt in calibration"):
        checked.get_tensors(store, PATH)


ENTRY: dict[str, Any] = {"path": PATH, "bytes": 1, "checksum": "0"}
OTHERS: list[Any] = [
    [3], [None], [[]], [{}], {"path": 1}, [{**ENTRY, "more": 1}], [{**ENTRY, "bytes": "1"}],
    [{**ENTRY, "path": 1}], [{**ENTRY, "checksum": None}],
]  # fmt: skip


@pytest.mark.parametrize(
    "content",
    [
        b"", b"{", b"\xff\xfe", b"[]", b"3", b"null", b"{}", b'{"files": null}', b'{"files": 3}',
        *(json.dumps({"files": entries}).encode() for entries in OTHERS),
    ],
)  # fmt: skip
def test_a_marker_of_something_else_is_no_marker(store, content):
    checked.put_tensors(store, PATH, {"x": torch.ones(2)})
    store.put(MARKER, content)
    assert checked.receipts(store, MARKER) == {} and checked.told(store, MARKER) == {}
    with pytest.raises(DamagedError, match="has no receipt in calibration"):
        checked.get_tensors(store, PATH)
