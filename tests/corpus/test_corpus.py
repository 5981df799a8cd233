"""Tokenised directories: what is refused, what is read, which tokens count."""

import hashlib
import json
import pickle
import shutil
from time import perf_counter

import datasets
import numpy as np
import pyarrow as pa
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from universal_ray.corpus.rows import (
    EXCLUSION_RULES,
    check_fits,
    count_kept,
    excluded_ids,
    kept_mask,
    open_corpus,
)
from universal_ray.errors import ConfigurationError, CorpusError, MissingError, StorageError

datasets.disable_progress_bars()


def save(path, columns, shards=1):
    datasets.Dataset(pa.table(columns)).save_to_disk(str(path), num_shards=shards)
    return str(path)


def list_column(rows, kind):
    return pa.array([list(map(int, row)) for row in rows], kind)


@pytest.fixture
def rows_BP():
    return np.random.default_rng(0).integers(0, 60_000, (53, 7))


@pytest.mark.parametrize("integer", ["uint16", "int32", "int64", "uint32"])
@pytest.mark.parametrize("shape", ["list", "large_list", "fixed_size_list"])
@pytest.mark.parametrize("shards", [1, 4])
def test_rows_come_back_from_every_arrow_type(tmp_path, rows_BP, integer, shape, shards):
    item = pa.type_for_alias(integer)
    kind = {
        "list": pa.list_(item),
        "large_list": pa.large_list(item),
        "fixed_size_list": pa.list_(item, 7),
    }[shape]
    corpus = open_corpus(save(tmp_path / "c", {"tokens": list_column(rows_BP, kind)}, shards))
    assert (corpus.rows, corpus.context, corpus.largest_id) == (53, 7, rows_BP.max())
    assert corpus.tokenizer is None and corpus.subsets(0, 53) is None
    for start, stop in [(0, 53), (0, 1), (13, 14), (12, 41), (52, 53), (20, 20), (53, 53)]:
        read_BP = corpus.read(start, stop)
        assert read_BP.dtype == np.int64 and read_BP.flags.writeable
        np.testing.assert_array_equal(read_BP, rows_BP[start:stop])


def test_authors_own_format(tmp_path, rows_BP):
    datasets.Dataset.from_dict({"tokens": rows_BP.tolist()}).save_to_disk(tmp_path / "c")
    np.testing.assert_array_equal(open_corpus(str(tmp_path / "c")).read(0, 53), rows_BP)


def test_many_record_batches_in_one_file(tmp_path):
    rows_BP = np.arange(5000 * 3).reshape(5000, 3)
    datasets.Dataset.from_dict({"tokens": rows_BP.tolist()}).save_to_disk(tmp_path / "c")
    corpus = open_corpus(str(tmp_path / "c"))
    for start, stop in [(0, 5000), (999, 1001), (1000, 2000), (4321, 4999)]:
        np.testing.assert_array_equal(corpus.read(start, stop), rows_BP[start:stop])


def test_a_dataset_shuffled_before_it_was_saved_keeps_its_shuffled_order(tmp_path, rows_BP):
    shuffled = datasets.Dataset.from_dict({"tokens": rows_BP.tolist()}).shuffle(seed=3)
    shuffled.save_to_disk(tmp_path / "c", num_shards=3)
    corpus = open_corpus(str(tmp_path / "c"))
    np.testing.assert_array_equal(corpus.read(0, 53), np.array(shuffled["tokens"]))
    assert not np.array_equal(corpus.read(0, 53), rows_BP)


def test_only_files_touched_are_opened(tmp_path, rows_BP):
    path = tmp_path / "c"
    columns = {"tokens": list_column(rows_BP, pa.list_(pa.int32()))}
    corpus = open_corpus(save(path, columns, shards=5))
    sizes = [rows for _, rows in corpus.files]
    for name, _ in corpus.files[:1] + corpus.files[2:]:
        (path / name).unlink()
    first, last = sizes[0], sizes[0] + sizes[1]
    np.testing.assert_array_equal(corpus.read(first, last), rows_BP[first:last])
    with pytest.raises(MissingError, match="is missing"):
        corpus.read(first, last + 1)


def test_a_corpus_can_be_sent_to_a_worker(tmp_path, rows_BP):
    columns = {"tokens": list_column(rows_BP, pa.list_(pa.int64()))}
    corpus = open_corpus(save(tmp_path / "c", columns))
    assert pickle.loads(pickle.dumps(corpus)) == corpus


def test_a_read_is_a_copy(tmp_path, rows_BP):
    columns = {"tokens": list_column(rows_BP, pa.list_(pa.int64()))}
    corpus = open_corpus(save(tmp_path / "c", columns))
    corpus.read(0, 5)[:] = 0
    np.testing.assert_array_equal(corpus.read(0, 5), rows_BP[:5])


@pytest.mark.parametrize("start, stop", [(-1, 3), (0, 54), (5, 4)])
def test_rows_that_are_not_there(tmp_path, rows_BP, start, stop):
    columns = {"tokens": list_column(rows_BP, pa.list_(pa.int64()))}
    corpus = open_corpus(save(tmp_path / "c", columns))
    with pytest.raises(CorpusError, match="it has 53 rows"):
        corpus.read(start, stop)


def test_hash_is_of_content_alone(tmp_path, rows_BP, monkeypatch):
    wide = {"tokens": list_column(rows_BP, pa.list_(pa.int64()))}
    narrow = {"tokens": list_column(rows_BP, pa.list_(pa.uint16(), 7))}
    corpus = open_corpus(save(tmp_path / "wide", wide, 1))
    other = open_corpus(save(tmp_path / "narrow", narrow, 6))
    expected = hashlib.sha256(b"20,7;" + rows_BP[10:30].astype("<i8").tobytes()).hexdigest()
    assert corpus.rows_hash(10, 30) == other.rows_hash(10, 30) == expected
    assert corpus.rows_hash(10, 31) != expected
    monkeypatch.setattr("universal_ray.corpus.rows.ROWS_AT_ONCE", 3)
    assert corpus.rows_hash(10, 30) == expected

    rows_BP[29, 6] ^= 1
    changed = {"tokens": list_column(rows_BP, pa.list_(pa.int64()))}
    changed = open_corpus(save(tmp_path / "changed", changed))
    assert changed.rows_hash(10, 30) != expected
    assert changed.rows_hash(0, 29) == corpus.rows_hash(0, 29)


def test_hash_tells_shapes_apart(tmp_path):
    flat = np.arange(24)
    hashes = {
        open_corpus(
            save(tmp_path / str(width), {"tokens": list_column(flat.reshape(-1, width), kind)})
        ).rows_hash(0, 24 // width)
        for width in (4, 6, 8)
        for kind in [pa.list_(pa.int64())]
    }
    assert len(hashes) == 3


def test_subset_labels(tmp_path, rows_BP):
    labels = [f"s{row % 3}" for row in range(53)]
    columns = {"tokens": list_column(rows_BP, pa.list_(pa.int64())), "subset": pa.array(labels)}
    corpus = open_corpus(save(tmp_path / "c", columns, 4))
    assert corpus.subsets(10, 45) == labels[10:45]


# What changes after a corpus was opened.


@pytest.mark.parametrize("column", ["tokens", "subset"])
def test_rows_that_changed_since_are_told_wherever_they_are_read(tmp_path, rows_BP, column):
    labels = [f"s{row % 3}" for row in range(53)]
    columns = {"tokens": list_column(rows_BP, pa.list_(pa.int64())), "subset": pa.array(labels)}
    corpus = open_corpus(save(tmp_path / "c", columns, 2))
    labels[40], rows_BP[40, 3] = "s9", rows_BP[40, 3] ^ 1
    columns[column] = {"tokens": list_column(rows_BP, pa.list_(pa.int64())),
                       "subset": pa.array(labels)}[column]
    save(tmp_path / "c", columns, 2)
    read = {"tokens": corpus.read, "subset": corpus.subsets}[column]
    read(0, 40), read(41, 53), pickle.loads(pickle.dumps(corpus)).read(0, 40)
    for start, stop in [(0, 53), (40, 41), (39, 53)]:
        with pytest.raises(CorpusError, match=f"row 40 of .* has other {column} than when this"):
            read(start, stop)
    with pytest.raises(CorpusError, match="row 40"):
        corpus.rows_hash(30, 50) if column == "tokens" else corpus.subsets_hash(30, 50)


def test_the_same_tokens_in_other_files_are_the_same(tmp_path, rows_BP):
    columns = {"tokens": list_column(rows_BP, pa.list_(pa.int64()))}
    corpus = open_corpus(save(tmp_path / "c", columns))
    save(tmp_path / "c", {"tokens": list_column(rows_BP, pa.list_(pa.uint16(), 7))})
    np.testing.assert_array_equal(corpus.read(0, 53), rows_BP)


# What is refused, and the sentence it is refused with.


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
    (pa.array(["a", None]), "has rows without `subset`"),
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


# Which tokens count.


def byte_level(newline_merged=True, **special):
    """A byte-level tokenizer with the bytes of 'ab ' and newlines: the kind GPT-2 has."""
    vocabulary = {"a": 0, "b": 1, "Ġ": 2, "Ċ": 3, "Ċa": 4, "ĊĊ": 5, "<s>": 6, "</s>": 7, "<p>": 8}
    if not newline_merged:
        del vocabulary["Ċ"], vocabulary["Ċa"], vocabulary["ĊĊ"]
    merges = [("Ċ", "a"), ("Ċ", "Ċ")] if newline_merged else []
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


def test_rules_on_a_real_tokenizer():
    tokenizer = byte_level(bos_token="<s>", eos_token="</s>", pad_token="<p>")
    assert excluded_ids("paper", tokenizer) == (3, 6, 7, 8)
    assert excluded_ids("special", tokenizer) == (6, 7, 8)
    assert excluded_ids("none", tokenizer) == ()
    assert set(EXCLUSION_RULES) == {"paper", "special", "none"}


def test_special_tokens_that_share_an_id_or_are_missing():
    assert excluded_ids("paper", byte_level(bos_token="</s>", eos_token="</s>")) == (3, 7)
    assert excluded_ids("paper", byte_level()) == (3,)


def test_no_newline_token():
    tokenizer = byte_level(newline_merged=False, eos_token="</s>")
    assert excluded_ids("paper", tokenizer) == (7,)


def test_newline_behind_a_prefix_token():
    """Sentencepiece-like tokenizers encode a newline as an empty prefix and the newline."""
    tokenizer = byte_level(eos_token="</s>")
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(
        add_prefix_space=True, use_regex=False
    )
    assert tokenizer.encode("\n", add_special_tokens=False) == [2, 3]
    assert excluded_ids("paper", tokenizer) == (3, 7)


def test_unknown_rule():
    with pytest.raises(ConfigurationError, match="choose one of paper, special, none"):
        excluded_ids("papre", byte_level())


def test_mask_is_row_major_and_counts(tmp_path, monkeypatch):
    tokens_BP = np.random.default_rng(1).integers(0, 9, (40, 6))
    columns = {"tokens": list_column(tokens_BP, pa.list_(pa.int32()))}
    corpus = open_corpus(save(tmp_path / "c", columns, 3))
    monkeypatch.setattr("universal_ray.corpus.rows.ROWS_AT_ONCE", 7)
    for excluded in [(), (3,), (0, 3, 8), tuple(range(9))]:
        kept_T = kept_mask(torch.from_numpy(corpus.read(5, 31)), excluded)
        expected_T = ~np.isin(tokens_BP[5:31].ravel(), np.array(excluded, int))
        assert kept_T.dtype == torch.bool
        np.testing.assert_array_equal(kept_T.numpy(), expected_T)
        assert count_kept(corpus, excluded, start=5, stop=31) == expected_T.sum()
    assert count_kept(corpus, tuple(range(9)), start=0, stop=40) == 0


@pytest.mark.parametrize("rows", [2_000, pytest.param(200_000, marks=pytest.mark.speed)])
def test_two_hundred_thousand_rows_are_checked_in_seconds(tmp_path, rows):
    tokens = np.random.default_rng(2).integers(0, 50257, rows * 64).astype(np.int32)
    fixed = pa.FixedSizeListArray.from_arrays(pa.array(tokens), 64)
    path = save(tmp_path / "c", {"tokens": fixed}, shards=4)
    begin = perf_counter()
    corpus = open_corpus(path)
    taken = perf_counter() - begin
    assert (corpus.rows, corpus.largest_id) == (rows, tokens.max())
    shutil.rmtree(path)
    if rows == 200_000:
        assert taken < 5
