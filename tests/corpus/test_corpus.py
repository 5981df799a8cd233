"""Tokenised directories: what is read, and which tokens count."""

import hashlib
import pickle
import shutil
from time import perf_counter

import datasets
import numpy as np
import pyarrow as pa
import pytest
import torch
from helpers_corpus import list_column, save
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from universal_ray.corpus.rows import (
    EXCLUSION_RULES,
    count_kept,
    excluded_ids,
    kept_mask,
    open_corpus,
)
from universal_ray.errors import ConfigurationError, CorpusError, MissingError


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
