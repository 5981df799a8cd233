"""Text of the hub: its files are pinned, held to size and sha256, and fetched as far as read."""

import hashlib
import json
from pathlib import Path

import pytest
from helpers_hub import Fault, lead, offline, served, unwaited
from helpers_tokenise import documents, jsonl, refused

from universal_ray.cli.study import compose
from universal_ray.corpus.documents import HUB_FILES, TextSettings
from universal_ray.corpus.documents import documents as read_documents
from universal_ray.corpus.tokenise import tokenise
from universal_ray.errors import CorpusError, HubError, MissingError, StorageError

KEY = "datasets/me/text@main"
ADDRESS = "hf://datasets/me/text@main"


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "text"
    (place / "data").mkdir(parents=True)
    for number in range(3):
        jsonl(place / "data" / f"part-{number}.jsonl", documents(300, seed=number))
    (place / "data" / "other.jsonl").write_text("[")
    (place / ".gitattributes").write_text("*.jsonl filter=lfs\n")
    return place


@pytest.fixture
def hub(folder, tmp_path, monkeypatch):
    with served({KEY: folder}) as running:
        lead(running.url, tmp_path / "cache", monkeypatch)
        yield running


def read(**settings) -> list[tuple[str, str]]:
    given = {"source": f"{ADDRESS}/data/part-*.jsonl", "subset": "meta.set", **settings}
    return list(read_documents(TextSettings(**given))[0])


def expected(count: int = 900) -> list[tuple[str, str]]:
    whole = [each for number in range(3) for each in documents(300, seed=number)]
    return [(each["text"], each["meta"]["set"]) for each in whole][:count]


def test_files_of_the_hub_are_read_in_order_and_fetched_as_far_as_they_are(hub):
    assert read(documents=310) == expected(310)
    assert set(hub.sent) == {".gitattributes", "part-0.jsonl", "part-1.jsonl"}
    assert read() == expected()
    assert set(hub.sent) == {".gitattributes", *(f"part-{number}.jsonl" for number in range(3))}


def test_what_was_fetched_serves_without_the_hub(hub, monkeypatch):
    everything = read()
    with monkeypatch.context() as patch:
        offline(patch)
        assert read() == everything
        with pytest.raises(MissingError, match="HF_HUB_OFFLINE"):
            read(source=f"{ADDRESS}/data/other.jsonl")
    hub.faults = [Fault("", status=503)]
    slept = unwaited(monkeypatch)
    assert read() == everything and slept == []


def test_the_manifest_says_what_was_read(hub, folder, tokenizer, tmp_path):
    source = f"hf://datasets/me/text@{hub.commit(KEY)[:7]}/data/part-0.jsonl"
    tokenise(TextSettings(source=source, context=16), tokenizer, "identity", str(tmp_path / "c"))
    told = json.loads((tmp_path / "c" / "manifest.json").read_text())["source"]
    digest = hashlib.sha256((folder / "data" / "part-0.jsonl").read_bytes()).hexdigest()
    assert (told["dataset"], told["commit"]) == ("me/text", hub.commit(KEY))
    assert told["files"] == {"data/part-0.jsonl": digest}


def test_a_file_of_another_size_is_refused_before_a_download(hub, folder):
    size = sum(each.stat().st_size for each in folder.glob("data/part-*"))
    assert read(bytes=int(size * 1.05)) == expected()
    hub.sent.clear()
    for wanted in (2 * size, size // 2):
        with pytest.raises(CorpusError, match=f"holds {size:,} bytes, where about {wanted:,}"):
            read(bytes=wanted)
        with pytest.raises(CorpusError, match="where about"):
            read(source=str(folder / "data" / "part-*.jsonl"), bytes=wanted)
    assert hub.sent == {}


def test_a_damaged_file_of_the_cache_is_never_read(hub, tmp_path):
    read()
    (path,) = (tmp_path / "cache").rglob("part-1.jsonl")
    content = path.read_bytes()
    path.resolve().write_bytes(content[:-2] + b"x\n")
    with pytest.raises(StorageError, match=r"not what the hub has as data/part-1\.jsonl") as error:
        read()
    assert str(path.resolve()) in str(error.value)
    path.resolve().unlink()  # as the sentence says
    assert read() == expected()


def test_a_file_that_the_hub_does_not_have_is_named(hub, tmp_path, tokenizer):
    source = f"{ADDRESS}/test.jsonl"
    refused(tmp_path, tokenizer, MissingError, "matches test.jsonl", source=source)


@pytest.mark.parametrize(
    ("fault", "kind", "told"),
    [
        (Fault("/revision/main", status=404, headers={"X-Error-Code": "RepoNotFound"}),
         MissingError, r"dataset 'me/text' .*it answered 404"),
        (Fault("part-2.jsonl", status=403, headers={"X-Error-Code": "GatedRepo"}),
         MissingError, "ask for access"),
        (Fault("part-2.jsonl", status=503), HubError, "it answered 503"),
        (Fault("part-2.jsonl", "dropped"), HubError, "dataset 'me/text'"),
    ],
)  # fmt: skip
def test_what_the_hub_answers_is_told_as_of_models(hub, monkeypatch, fault, kind, told):
    unwaited(monkeypatch)
    hub.faults = [fault]
    with pytest.raises(kind, match=told):
        read()


def test_what_passes_meanwhile_is_waited_for(hub, monkeypatch):
    slept = unwaited(monkeypatch)
    hub.faults = [
        Fault("/revision/main", status=429, headers={"Retry-After": "5"}, times=1),
        Fault("part-1.jsonl", "truncated", times=1, method="GET"),
        Fault("part-2.jsonl", status=500, times=2),
    ]
    assert read() == expected()
    assert slept[0] == 5 and not any(each.times for each in hub.faults)


def test_a_dataset_by_its_name_is_held_to_its_commit(hub, tmp_path, tokenizer, monkeypatch):
    asked = {}

    def load(**arguments):
        asked.update(arguments)
        return documents(20)

    monkeypatch.setattr("datasets.load_dataset", load)
    settings = TextSettings(source="me/text", name="en", split="test", context=16)
    tokenise(settings, tokenizer, "identity", str(tmp_path / "c"))
    commit = hub.commit(KEY)
    assert asked == {
        "path": "me/text", "name": "en", "revision": commit, "split": "test", "streaming": True
    }  # fmt: skip
    manifest = json.loads((tmp_path / "c" / "manifest.json").read_text())
    assert manifest["source"]["commit"] == commit
    with pytest.raises(MissingError, match="dataset 'me/none'"):
        read(source="me/none@v1")


@pytest.mark.parametrize("name", ["pile", "pile_uncopyrighted", "openwebtext"])
def test_ready_sources_are_files_on_the_hub_pinned_to_a_commit(name):
    corpus = compose(f"corpus={name}").corpus
    found = HUB_FILES.fullmatch(corpus.text.source)
    assert found is not None and len(found["revision"]) in (7, 40)
    assert int(found["revision"], 16) and Path(found["path"]).suffix
    assert (corpus.context, corpus.tokens, corpus.exclude.value) == (512, 100_000_000, "paper")
    # The paper's rows have no EOS between documents.
    assert corpus.text.join.value == ("eos" if name == "openwebtext" else "none")
    assert (corpus.text.bytes is None) is (name == "openwebtext")


def test_the_papers_text_is_its_owners_own():
    text = compose("experiment=gpt2_small").corpus.text
    found = HUB_FILES.fullmatch(text.source)
    assert found is not None
    assert found.group("name", "revision", "path") == (
        "EleutherAI/pile_val_test", "3c74ceb", "test.jsonl"
    )  # fmt: skip
    assert (text.bytes, text.subset) == (1_300_000_000, "meta.pile_set_name")
