"""Tokenised directories that are refused, each with its sentence."""

import json

import datasets
import numpy as np
import pyarrow as pa
import pytest
from helpers_corpus import list_column, save

from universal_ray.corpus.rows import (
    check_fits,
    open_corpus,
)
from universal_ray.errors import CorpusError, MissingError, StorageError

HOSTILE = {
    "beyond the buffer": [1_000_000, 1_000_002, 1_000_004],
    "negative": [-4, -2, 0],
    "backwards": [4, 2, 0],
}


@pytest.mark.parametrize("offsets", HOSTILE)
@pytest.mark.parametrize("column", ["tokens", "subset"])
def test_offsets_that_lead_out_of_the_file_are_damage(tmp_path, offsets, column):
    columns = {"tokens": pa.array([[1, 2], [3, 4]], pa.list_(pa.int64())),
               "subset": pa.array(["ab", "cd"])}
    sound = {"tokens": [0, 2, 4], "subset": [0, 2, 4]}
    path = save(tmp_path / "c", columns)
    file = next((tmp_path / "c").glob("*.arrow"))
    before, data = np.array(sound[column], "<i4").tobytes(), file.read_bytes()
    places = [at for at in range(0, len(data), 4) if data.startswith(before, at)]
    assert len(places) == 2
    at = places[0 if column == "tokens" else 1]
    hostile = np.array(HOSTILE[offsets], "<i4").tobytes()
    file.write_bytes(data[:at] + hostile + data[at + len(hostile) :])
    with pytest.raises(StorageError, match=r"\.arrow is damaged \(.*\): copy the corpus again"):
        open_corpus(path)


@pytest.mark.parametrize("name", ["state.json", "dataset_dict.json", "manifest.json"])
@pytest.mark.parametrize("content", [
    b"\x00\xff\xfe", b"[" * 100_000, b"3", b"[]", b"{}", b'{"_data_files": 3, "splits": 3}',
    b'{"_data_files": [{"filename": 7}], "splits": [7]}', b'{"_data_files": [{"filename": "/x"}]}',
    b'{"_data_files": [{"filename": "../x"}]}', b'{"_data_files": [null], "splits": null}',
])
def test_whatever_lies_in_the_small_files_is_one_sentence(tmp_path, name, content):
    path = save(tmp_path / "c", {"tokens": pa.array([[1, 2], [3, 4]])})
    (tmp_path / "c" / name).write_bytes(content)
    if name == "manifest.json" and content[:1] in b"3{[" and len(content) < 1000:
        assert open_corpus(path).tokenizer is None
        return
    with pytest.raises(StorageError, match=f"{name} cannot be read") as caught:
        open_corpus(path)
    assert "\n" not in str(caught.value)


def test_missing_directory(tmp_path):
    with pytest.raises(MissingError, match=r"nowhere does not exist: check corpus\.path"):
        open_corpus(str(tmp_path / "nowhere"))


def test_not_a_saved_dataset(tmp_path):
    with pytest.raises(CorpusError, match="is no directory written by"):
        open_corpus(str(tmp_path))
    (tmp_path / "file").write_text("x")
    with pytest.raises(CorpusError, match="is no directory written by"):
        open_corpus(str(tmp_path / "file"))


def test_dataset_dict(tmp_path):
    split = datasets.Dataset.from_dict({"tokens": [[1, 2]]})
    datasets.DatasetDict({"test": split, "train": split}).save_to_disk(tmp_path / "c")
    with pytest.raises(CorpusError, match=r"DatasetDict: name one of its splits \(test, train\)"):
        open_corpus(str(tmp_path / "c"))
    assert open_corpus(str(tmp_path / "c" / "test")).rows == 1


def test_no_column_of_tokens(tmp_path):
    with pytest.raises(CorpusError, match="no column `tokens` but input_ids, labels"):
        open_corpus(save(tmp_path / "c", {"input_ids": pa.array([[1]]), "labels": pa.array([1])}))


@pytest.mark.parametrize(
    "column, message",
    [
        (pa.array([1, 2]), "is int64: it must hold a list of ids per row"),
        (pa.array([[1.0], [2.0]]), "holds double: token ids must be integers"),
        (pa.array([["a"], ["b"]]), "holds string: token ids must be integers"),
        (pa.array([[1, 2], [3, 4, 5]]), "row 1 of .* has 3 tokens, row 0 has 2"),
        (pa.array([[1, 2], [3, 4], []]), "row 2 of .* has 0 tokens, row 0 has 2"),
        (pa.array([[1, 2], None]), "has rows without tokens"),
        (pa.array([[1, 2], [None, 4]]), "has missing token ids"),
        (pa.array([], pa.list_(pa.int64())), "has no rows"),
        (pa.array([[], []], pa.list_(pa.int64())), "hold no tokens"),
        (pa.array([[], []]), "hold no tokens"),
        (pa.array([[1, 2], [3, -4]]), "holds the token id -4: ids must not be negative"),
    ],
)
def test_columns_that_are_refused(tmp_path, column, message):
    with pytest.raises(CorpusError, match=message):
        open_corpus(save(tmp_path / "c", {"tokens": column}))


@pytest.mark.parametrize("labels, message", [
    (pa.array(["a", None]), "`subset` of .* has rows without one"),
    (pa.array([b"a", b"b"]), "is binary: it must hold a text per row"),
    (pa.array([["a"], ["b"]]), "it must hold a text per row"),
])
def test_labels_that_are_refused(tmp_path, labels, message):
    with pytest.raises(CorpusError, match=message):
        open_corpus(save(tmp_path / "c", {"tokens": pa.array([[1], [2]]), "subset": labels}))


def test_a_ragged_row_is_counted_through_all_files(tmp_path):
    rows = [[1, 2]] * 40
    rows[33] = [1]
    column = pa.array(rows, pa.list_(pa.int32()))
    with pytest.raises(CorpusError, match=r"row 33 of .* has 1 tokens, row 0 has 2"):
        open_corpus(save(tmp_path / "c", {"tokens": column}, shards=7))


def test_damaged_files(tmp_path, rows_BP):
    path = tmp_path / "c"
    save(path, {"tokens": list_column(rows_BP, pa.list_(pa.int64()))}, shards=2)
    file = path / "data-00001-of-00002.arrow"
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(StorageError, match="truncated or damaged"):
        open_corpus(str(path))
    file.write_bytes(b"")
    with pytest.raises(StorageError, match="truncated or damaged"):
        open_corpus(str(path))
    file.unlink()
    with pytest.raises(MissingError, match="is missing: copy the corpus again"):
        open_corpus(str(path))
    (path / "state.json").write_text("{")
    with pytest.raises(StorageError, match=r"state\.json cannot be read"):
        open_corpus(str(path))


def test_tokenizer_named_by_a_manifest(tmp_path):
    path = save(tmp_path / "c", {"tokens": pa.array([[1, 2]])})
    manifest = tmp_path / "c" / "manifest.json"
    manifest.write_text(json.dumps({"tokenizer": "abc"}))
    assert open_corpus(path).tokenizer == "abc"
    manifest.write_text(json.dumps({"tokenizer": {"somebody": "else's"}}))
    assert open_corpus(path).tokenizer is None
    manifest.write_text("[]")
    assert open_corpus(path).tokenizer is None
    manifest.write_text("{")
    with pytest.raises(StorageError, match=r"manifest\.json cannot be read"):
        open_corpus(path)


def test_fit_to_the_models(tmp_path):
    path = save(tmp_path / "c", {"tokens": pa.array([[1, 2, 9], [3, 4, 5]])})
    good = {"vocabulary": {"a": 10, "b": 12}, "context": {"a": 3, "b": 4}}
    corpus = open_corpus(path)
    check_fits(corpus, **good, tokenizer_identity="one")
    with pytest.raises(CorpusError, match="token id 9, but b knows only ids below 9"):
        check_fits(
            corpus, vocabulary={"a": 10, "b": 9}, context=good["context"], tokenizer_identity=""
        )
    with pytest.raises(CorpusError, match="have 3 tokens, but b takes at most 2"):
        check_fits(
            corpus, vocabulary=good["vocabulary"], context={"a": 3, "b": 2}, tokenizer_identity=""
        )
    (tmp_path / "c" / "manifest.json").write_text(json.dumps({"tokenizer": "one"}))
    corpus = open_corpus(path)
    check_fits(corpus, **good, tokenizer_identity="one")
    with pytest.raises(CorpusError, match="made with the tokenizer one, but a, b use other"):
        check_fits(corpus, **good, tokenizer_identity="other")
