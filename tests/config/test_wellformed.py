"""What is read back is held to its shape, and where it differs is said in words."""

import json

import pytest
import yaml

from universal_ray.config.wellformed import ABSENT, MalformedError, mistake, moment, parse
from universal_ray.errors import StorageError
from universal_ray.storage.names import STUDY_FILE
from universal_ray.storage.record import read_metrics, read_record
from universal_ray.storage.store import Store

SHAPE = {
    "rows": int, "units": [[int, int, str]], "note": (str, None, ABSENT), "sizes": {str: float},
}  # fmt: skip
SOUND = {"rows": 3, "units": [[0, 2, "a"], [2, 3, "b"]], "sizes": {"x": 1, "y": 0.5}}


@pytest.mark.parametrize(("change", "told"), [
    ({}, None),
    ({"note": None}, None),
    ({"note": "x", "more": [1]}, None),
    ({"units": [], "sizes": {}}, None),
    ({"note": 3}, "note is no text"),
    ({"rows": True}, "rows is no whole number"),
    ({"rows": 3.0}, "rows is no whole number"),
    ({"rows": ABSENT}, "rows is missing"),
    ({"units": [[0, 2]]}, r"units[0] is no list of 3"),
    ({"units": [[0, 2, "a"], [2, "3", "b"]]}, "units[1][1] is no whole number"),
    ({"units": {}}, "units is no list"),
    ({"sizes": {"x": float("nan")}}, "sizes.x is no number"),
    ({"sizes": {"x": "1"}}, "sizes.x is no number"),
    ({"sizes": [1]}, "sizes is no mapping"),
])  # fmt: skip
def test_the_first_place_that_differs_is_told(change, told):
    value = {key: each for key, each in {**SOUND, **change}.items() if each is not ABSENT}
    assert mistake(value, SHAPE) == told


def test_moments_end():
    assert moment(1.8e9) and not any(map(moment, (-1, 1e300, "now", True, float("inf"))))


@pytest.mark.parametrize("data", [b"", b"\xff\x00", b"{", b"[" * 100_000, b"[]", b"NaN", b"{}"])
def test_what_is_no_such_file_is_malformed(data):
    with pytest.raises(MalformedError):
        parse(data, SHAPE)
    assert parse(json.dumps(SOUND).encode(), SHAPE) == SOUND


RECORD = {
    "configuration": {}, "bits": {"units.fold": 2}, "models": [{}],
    "corpus": {"rows": 3, "context": 2, "units": [[0, 3, "a"]]},
}  # fmt: skip


@pytest.mark.parametrize(("data", "told"), [
    (b"\x00\x01\xff", "cannot be read"),
    (b"a: [", "cannot be read"),
    (b"[" * 100_000, "cannot be read"),
    (b"", "it is no mapping"),
    (b"!!python/object/apply:os.system ['true']", "cannot be read"),
    (yaml.safe_dump({**RECORD, "bits": None}).encode(), "bits is no mapping"),
    (yaml.safe_dump({**RECORD, "corpus": {"rows": 3}}).encode(), "corpus.context is missing"),
    (yaml.safe_dump({k: v for k, v in RECORD.items() if k != "bits"}).encode(), "bits is missing"),
])  # fmt: skip
def test_a_record_that_is_none_is_one_sentence(tmp_path, data, told):
    store = Store(str(tmp_path))
    assert read_record(store) is None
    store.put(STUDY_FILE, data)
    with pytest.raises(StorageError, match=told) as caught:
        read_record(store)
    assert "\n" not in str(caught.value) and "put it back as it was" in str(caught.value)
    store.put(STUDY_FILE, yaml.safe_dump(RECORD).encode())
    assert read_record(store) == RECORD


def test_altered_lines_of_metrics_are_left_out(tmp_path, caplog):
    store = Store(str(tmp_path))
    good = {"seconds": {"load": 1.5}, "flops": 10}
    store.put("metrics.jsonl", json.dumps(good).encode() + b'\n\xff{}\n{"seconds": 3}\n[]\n')
    assert read_metrics(store) == [good]
    assert "3 of 4 lines" in caplog.text
