"""Text to token rows: exactly the paper's rows, whatever the text comes from."""

import gzip
import json
import logging

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers_tokenise import documents, expected_rows, jsonl, labelled

from universal_ray.corpus import tokenise as module
from universal_ray.corpus.documents import JOINS, TextSettings
from universal_ray.corpus.tokenise import tokenise
from universal_ray.errors import ConfigurationError


@pytest.mark.parametrize("join", JOINS)
def test_rows_are_the_papers(tmp_path, tokenizer, monkeypatch, join):
    """Every subset apart, documents joined, BOS in front: also across batches."""
    monkeypatch.setattr(module, "CHARACTERS_AT_ONCE", 1500)
    records = documents(120)
    records[3]["text"] += tokenizer.eos_token  # spelt out in the text itself
    settings = TextSettings(
        source=jsonl(tmp_path / "t.jsonl", records), subset="meta.set", context=16, join=join
    )
    corpus = tokenise(settings, tokenizer, "identity", str(tmp_path / "c"))
    expected = expected_rows(records, tokenizer, 16, join=join)
    inner = int((corpus.read(0, corpus.rows)[:, 1:] == tokenizer.eos_token_id).sum())
    assert inner == 0 if join == "none" else 100 < inner <= 118
    wanted = [(label, row) for label, rows in expected.items() for row in rows]
    assert labelled(corpus) == sorted(wanted)
    assert [tuple(row) for row in corpus.read(0, corpus.rows).tolist()] != [r for _, r in wanted]
    assert (corpus.read(0, corpus.rows)[:, 0] == tokenizer.bos_token_id).all()
    assert (corpus.context, corpus.tokenizer) == (16, "identity")

    manifest = json.loads((tmp_path / "c" / "manifest.json").read_text())
    assert manifest["subset_rows"] == {label: len(rows) for label, rows in expected.items()}
    assert manifest["rows"] == corpus.rows and manifest["tokens"] == corpus.rows * 16
    assert manifest["documents"] == 120 and manifest["dropped"] == 0
    assert sum(manifest["subset_documents"].values()) == 120
    assert manifest["largest_id"] == corpus.largest_id
    assert manifest["settings"]["join"] == join


def test_what_others_read(tmp_path, tokenizer):
    """The directory is an ordinary saved dataset, in several shards."""
    settings = TextSettings(
        source=jsonl(tmp_path / "t.jsonl", documents(40)), subset="meta.set", context=16
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "ROWS_PER_SHARD", 50)
        corpus = tokenise(settings, tokenizer, "identity", str(tmp_path / "c"))
    assert len(corpus.files) == -(-corpus.rows // 50) > 2
    loaded = datasets.load_from_disk(str(tmp_path / "c"))
    assert loaded.features["tokens"] == datasets.List(datasets.Value("int32"), length=16)
    np.testing.assert_array_equal(np.array(loaded["tokens"]), corpus.read(0, corpus.rows))
    assert list(loaded["subset"]) == corpus.subsets(0, corpus.rows)


def test_no_subset_column_no_labels(tmp_path, tokenizer):
    records = documents(40)
    settings = TextSettings(source=jsonl(tmp_path / "t.jsonl", records), context=16)
    corpus = tokenise(settings, tokenizer, "identity", str(tmp_path / "c"))
    assert corpus.subsets(0, corpus.rows) is None
    rows = expected_rows(records, tokenizer, 16, subset=False)[""]
    assert labelled(corpus) == sorted(("", row) for row in rows)


def test_tokens_wanted_are_the_first_of_the_whole_shuffle(tmp_path, tokenizer, monkeypatch):
    """Rounded up to whole rows, and the same rows as the head of the unlimited corpus."""
    monkeypatch.setattr(module, "CHARACTERS_AT_ONCE", 1000)
    source = jsonl(tmp_path / "t.jsonl", documents(600))

    def rows(name, **changes):
        settings = TextSettings(**{"source": source, "context": 16, **changes})
        corpus = tokenise(settings, tokenizer, "identity", str(tmp_path / name))
        return corpus.read(0, corpus.rows)

    everything = rows("all")
    assert len(everything) > 1200  # so that a small sample is pruned on the way
    for tokens, count in [(16 * 20, 20), (16 * 20 + 1, 21), (1, 1)]:
        np.testing.assert_array_equal(rows(f"n{tokens}", tokens=tokens), everything[:count])
    np.testing.assert_array_equal(rows("again"), everything)
    other = rows("seed", seed=1)
    assert not np.array_equal(other, everything)
    assert sorted(other.tolist()) == sorted(everything.tolist())


def test_fewer_rows_than_wanted_are_logged(tmp_path, tokenizer, caplog):
    source = jsonl(tmp_path / "t.jsonl", documents(5))
    settings = TextSettings(source=source, context=16, tokens=10**6)
    with caplog.at_level(logging.WARNING):
        corpus = tokenise(settings, tokenizer, "identity", str(tmp_path / "c"))
    assert f"gives {corpus.rows} rows of 16 tokens, 62500 were wanted" in caplog.text


def test_short_documents_are_dropped(tmp_path, tokenizer):
    records = [{"text": "a" * length} for length in (0, 1, 50, 51, 52, 400)] + [{"text": None}]
    settings = TextSettings(source=jsonl(tmp_path / "t.jsonl", records), context=8)
    corpus = tokenise(settings, tokenizer, "identity", str(tmp_path / "c"))
    manifest = json.loads((tmp_path / "c" / "manifest.json").read_text())
    assert (manifest["documents"], manifest["dropped"]) == (7, 4)
    assert corpus.rows >= 1


def test_only_the_first_documents(tmp_path, tokenizer):
    records = documents(60)
    source = jsonl(tmp_path / "t.jsonl", records)
    settings = TextSettings(source=source, context=16, documents=13)
    corpus = tokenise(settings, tokenizer, "identity", str(tmp_path / "c"))
    rows = expected_rows(records[:13], tokenizer, 16, subset=False)[""]
    assert labelled(corpus) == sorted(("", row) for row in rows)


def test_every_kind_of_file_gives_the_same_rows(tmp_path, tokenizer):
    records = documents(40)
    half = len(records) // 2
    for part, some in enumerate((records[:half], records[half:])):
        jsonl(tmp_path / f"part{part}.jsonl", some)
        pq.write_table(pa.Table.from_pylist(some), tmp_path / f"part{part}.parquet")
        with gzip.open(tmp_path / f"part{part}.jsonl.gz", "wt") as file:
            file.write((tmp_path / f"part{part}.jsonl").read_text())
    (tmp_path / "all.json").write_text(json.dumps(records))
    for number, record in enumerate(records):
        (tmp_path / f"{number:03}.txt").write_text(record["text"])
    sources = ["part*.jsonl", "part*.parquet", "part*.jsonl.gz", "all.json", "*.txt"]
    rows = []
    for number, source in enumerate(sources):
        settings = TextSettings(source=str(tmp_path / source), context=16)
        corpus = tokenise(settings, tokenizer, "identity", str(tmp_path / f"c{number}"))
        rows.append(corpus.read(0, corpus.rows))
    for other in rows[1:]:
        np.testing.assert_array_equal(other, rows[0])


def test_zstandard(tmp_path, tokenizer):
    zstandard = pytest.importorskip("zstandard")
    jsonl(tmp_path / "t.jsonl", documents(20))
    whole = (tmp_path / "t.jsonl").read_bytes()
    (tmp_path / "t.jsonl.zst").write_bytes(zstandard.ZstdCompressor().compress(whole))
    settings = TextSettings(source=str(tmp_path / "t.jsonl.zst"), context=16)
    assert tokenise(settings, tokenizer, "identity", str(tmp_path / "c")).rows > 10


def test_zstandard_missing(tmp_path, tokenizer, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    settings = TextSettings(source=str(tmp_path / "t.jsonl.zst"))
    with pytest.raises(ConfigurationError, match="pip install zstandard"):
        tokenise(settings, tokenizer, "identity", str(tmp_path / "c"))
