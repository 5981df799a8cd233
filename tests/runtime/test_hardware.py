"""What sums are made on is recorded, and no run mixes kinds."""

import json

import pytest
from helpers_study import make, make_models, make_study, make_tokens

from universal_ray.errors import ResourceError
from universal_ray.runtime import hardware
from universal_ray.runtime.hardware import HARDWARE_FILE, check_same, named
from universal_ray.storage.store import Store

H100 = {"device": "cuda", "torch": "2", "gpu": "NVIDIA H100", "cuda": "12.8", "cublas": "12.8.4"}


@pytest.fixture
def on(monkeypatch):
    def become(host, found):
        monkeypatch.setattr(hardware.socket, "gethostname", lambda: host)
        monkeypatch.setattr(hardware, "hardware", lambda device: found)

    return become


@pytest.mark.parametrize("changed", [
    {"gpu": "NVIDIA A100"}, {"cuda": "12.6"}, {"cublas": None}, {"torch": "3"},
])
def test_a_mixture_is_refused_in_one_sentence_that_names_both_nodes(tmp_path, on, changed):
    store = Store(str(tmp_path))
    on("first", H100)
    check_same(store, "cuda")
    on("third", dict(H100))
    check_same(store, "cuda")
    on("second", H100 | changed)
    with pytest.raises(ResourceError, match=r"made on first with .*, and second has .*kind") as e:
        check_same(store, "cuda")
    ((key, value),) = changed.items()
    assert f"{key} {H100[key]}" in str(e.value) and f"{key} {value}" in str(e.value)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("junk", [b"", b"[]", b"\xff", b'{"host": 3, "computes on": {}}'])
def test_a_record_that_cannot_be_read_is_one_sentence(tmp_path, junk):
    store = Store(str(tmp_path))
    store.put(HARDWARE_FILE, junk)
    with pytest.raises(ResourceError, match=r"hardware\.json cannot be read"):
        check_same(store, "cpu")


def test_every_unit_says_what_it_was_made_on_and_the_same_machine_goes_on(tmp_path):
    study = make_study(
        tmp_path / "run", make_models(tmp_path, "ab"), make_tokens(tmp_path / "tokens", rows=12)
    )
    study.corpus.tokens = 8 * 32
    store = make(study)
    study.corpus.tokens = None
    make(study)
    here = named("cpu")
    assert here["instructions"] and here["torch"] and here["mkl"]
    lines = map(json.loads, store.get("metrics.jsonl").splitlines())
    assert [line["hardware"] for line in lines] == [here, here]
    markers = [path for path in store.list("moments") if path.endswith("done.json")]
    assert markers and all(store.get_json(path)["hardware"] == here for path in markers)
