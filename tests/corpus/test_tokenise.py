"""Text to token rows: exactly the paper's rows, whatever the text comes from."""

import gzip
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hydra import compose, initialize_config_dir
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from universal_ray.corpus import tokenise as module
from universal_ray.corpus.documents import JOINS, TextSettings
from universal_ray.corpus.documents import documents as read_documents
from universal_ray.corpus.rows import open_corpus
from universal_ray.corpus.tokenise import tokenise
from universal_ray.errors import ConfigurationError, CorpusError, MissingError, StorageError

datasets.disable_progress_bars()
WORDS = ["the", "of", "and", "neuron", "layer", "seed", "text", "1", "3\n", "(", ")", "=", "def"]


def documents(count, seed=0, subsets=("Wiki", "Code", "Law")):
    """Random documents of 60 to 400 characters, each with a label in a nested column."""
    random = np.random.default_rng(seed)
    return [
        {
            "text": " ".join(random.choice(WORDS, random.integers(25, 90))).ljust(60, "."),
            "meta": {"set": str(random.choice(subsets))},
        }
        for _ in range(count)
    ]


@pytest.fixture(scope="module")
def tokenizer():
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trained.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=["<|endoftext|>", "<bos>"])
    trained.train_from_iterator([record["text"] for record in documents(50)], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=trained, eos_token="<|endoftext|>", bos_token="<bos>", model_max_length=8
    )


def jsonl(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


def expected_rows(records, tokenizer, context, subset=True, minimum=51, join="eos"):
    """The paper's recipe: join each subset's text by EOS, encode, cut, put BOS; and, for `none`,
    drop before the cut what its tokenizer pads by."""
    texts = {}
    for record in records:
        if len(record["text"]) >= minimum:
            texts.setdefault(record["meta"]["set"] if subset else "", []).append(record["text"])
    rows = {}
    for label, parts in texts.items():
        ids = tokenizer.encode(tokenizer.eos_token.join(parts), add_special_tokens=False)
        if join == "none":
            ids = [token for token in ids if token != tokenizer.eos_token_id]
        body = context - 1
        rows[label] = [
            (tokenizer.bos_token_id, *ids[first : first + body])
            for first in range(0, len(ids) - body + 1, body)
        ]
    return rows


def labelled(corpus):
    rows = [tuple(row) for row in corpus.read(0, corpus.rows).tolist()]
    return sorted(zip(corpus.subsets(0, corpus.rows) or [""] * len(rows), rows, strict=True))


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


# Done already, done otherwise, half done.


def test_a_finished_one_is_opened_even_where_the_text_has_gone(tmp_path, tokenizer):
    source = jsonl(tmp_path / "t.jsonl", documents(20))
    settings = TextSettings(source=source, context=16)
    corpus = tokenise(settings, tokenizer, "identity", str(tmp_path / "c"))
    os.unlink(source)
    assert tokenise(settings, None, "identity", str(tmp_path / "c")) == corpus


def test_rows_that_are_not_what_was_tokenised_are_refused(tmp_path, tokenizer):
    settings = TextSettings(source=jsonl(tmp_path / "t.jsonl", documents(20)), context=16)
    corpus = tokenise(settings, tokenizer, "identity", str(tmp_path / "c"))
    (path,) = (tmp_path / "c").glob("*.arrow")
    whole, row = path.read_bytes(), corpus.read(3, 4).astype(np.int32).tobytes()
    assert whole.count(row) == 1
    path.unlink()  # it is mapped
    path.write_bytes(whole.replace(row, row[:-4] + row[:4]))
    with pytest.raises(StorageError, match=r"c was cut or altered .*: delete that folder, and"):
        tokenise(settings, tokenizer, "identity", str(tmp_path / "c"))
    path.write_bytes(whole)
    assert tokenise(settings, tokenizer, "identity", str(tmp_path / "c")) == corpus
    # What version 0.1.0 wrote says nothing of its rows.
    manifest = json.loads((tmp_path / "c" / "manifest.json").read_text())
    del manifest["content"]
    (tmp_path / "c" / "manifest.json").write_text(json.dumps(manifest))
    assert tokenise(settings, tokenizer, "identity", str(tmp_path / "c")) == corpus


def test_other_settings_are_refused_by_name(tmp_path, tokenizer):
    source = jsonl(tmp_path / "t.jsonl", documents(20))
    settings = TextSettings(source=source, context=16)
    tokenise(settings, tokenizer, "identity", str(tmp_path / "c"))
    other = TextSettings(source=source, context=32, seed=5)
    with pytest.raises(ConfigurationError, match=r"\(context: 16 there, 32 here, seed: 0 there, 5"):
        tokenise(other, tokenizer, "identity", str(tmp_path / "c"))
    with pytest.raises(ConfigurationError, match="tokenizer: identity there, another here"):
        tokenise(settings, tokenizer, "another", str(tmp_path / "c"))
    other = TextSettings(source=source, context=16, join="none")
    with pytest.raises(ConfigurationError, match=r"\(join: eos there, none here\)"):
        tokenise(other, tokenizer, "identity", str(tmp_path / "c"))


def test_a_corpus_from_before_there_was_a_choice_is_joined_by_eos(tmp_path, tokenizer):
    source = jsonl(tmp_path / "t.jsonl", documents(20))
    settings = TextSettings(source=source, context=16)
    corpus = tokenise(settings, tokenizer, "identity", str(tmp_path / "c"))
    manifest = json.loads((tmp_path / "c" / "manifest.json").read_text())
    del manifest["settings"]["join"]
    (tmp_path / "c" / "manifest.json").write_text(json.dumps(manifest))
    assert tokenise(settings, tokenizer, "identity", str(tmp_path / "c")) == corpus
    other = TextSettings(source=source, context=16, join="none")
    with pytest.raises(ConfigurationError, match=r"\(join: eos there, none here\)"):
        tokenise(other, tokenizer, "identity", str(tmp_path / "c"))


def test_another_way_to_join_is_refused(tmp_path, tokenizer):
    source = jsonl(tmp_path / "t.jsonl", documents(3))
    match = r"corpus\.text\.join is bos: choose one of eos, none"
    refused(tmp_path, tokenizer, ConfigurationError, match, source=source, join="bos")


def test_a_directory_of_somebody_else_is_left_alone(tmp_path, tokenizer):
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "thesis.tex").write_text("dear")
    settings = TextSettings(source=jsonl(tmp_path / "t.jsonl", documents(20)), context=16)
    with pytest.raises(ConfigurationError, match="was not tokenised by this project"):
        tokenise(settings, tokenizer, "identity", str(tmp_path / "c"))
    assert (tmp_path / "c" / "thesis.tex").read_text() == "dear"


def test_an_empty_directory_is_filled(tmp_path, tokenizer):
    (tmp_path / "c").mkdir()
    settings = TextSettings(source=jsonl(tmp_path / "t.jsonl", documents(20)), context=16)
    assert tokenise(settings, tokenizer, "identity", str(tmp_path / "c")).rows


def test_a_half_done_one_is_discarded_and_done_again(tmp_path, tokenizer):
    """One left by a dead process of this host goes; those of living ones and other hosts stay."""
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    host = module.socket.gethostname()
    leftovers = [f"c.partial-{host}-{dead.pid}", f"c.partial-{host}-1", "c.partial-elsewhere-7"]
    for name in leftovers:
        (tmp_path / name).mkdir()
        (tmp_path / name / "data-00000-of-00002.arrow").write_bytes(b"half")
    settings = TextSettings(source=jsonl(tmp_path / "t.jsonl", documents(20)), context=16)
    corpus = tokenise(settings, tokenizer, "identity", str(tmp_path / "c"))
    assert open_corpus(str(tmp_path / "c")) == corpus
    assert sorted(path.name for path in tmp_path.glob("*.partial*")) == sorted(leftovers[1:])


def test_a_failure_while_writing_leaves_nothing(tmp_path, tokenizer, monkeypatch):
    settings = TextSettings(source=jsonl(tmp_path / "t.jsonl", documents(20)), context=16)

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", full)
        with pytest.raises(StorageError, match=r"cannot be written: .*No space left on device"):
            tokenise(settings, tokenizer, "identity", str(tmp_path / "c"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["t.jsonl"]
    assert tokenise(settings, tokenizer, "identity", str(tmp_path / "c")).rows


def test_two_at_once(tmp_path, tokenizer, monkeypatch):
    """Whoever finishes first, both get the same corpus; other settings meanwhile are refused."""
    source = jsonl(tmp_path / "t.jsonl", documents(20))
    settings = TextSettings(source=source, context=16)
    rename = Path.rename

    def overtaken(by):
        def renamed(self, target):
            monkeypatch.setattr(Path, "rename", rename)
            first = tokenise(by, tokenizer, "identity", str(tmp_path / "tmp"))
            rename(Path(first.path), target)
            return rename(self, target)

        return renamed

    monkeypatch.setattr(Path, "rename", overtaken(settings))
    tokenise(settings, tokenizer, "identity", str(tmp_path / "c"))
    monkeypatch.setattr(Path, "rename", overtaken(TextSettings(source=source, context=8)))
    with pytest.raises(ConfigurationError, match="context: 8 there, 16 here"):
        tokenise(settings, tokenizer, "identity", str(tmp_path / "d"))
    assert not list(tmp_path.glob("*.partial*"))


# Text that cannot be used, each with its sentence.


def refused(tmp_path, tokenizer, error, match, **settings):
    with pytest.raises(error, match=match):
        tokenise(TextSettings(**settings), tokenizer, "identity", str(tmp_path / "c"))
    assert not (tmp_path / "c").exists()


def test_no_such_file(tmp_path, tokenizer):
    source = str(tmp_path / "*.jsonl")
    match = r"no file matches .*: check corpus\.text\.source"
    refused(tmp_path, tokenizer, MissingError, match, source=source)


def test_a_directory_is_no_source(tmp_path, tokenizer):
    match = "neither a hub dataset nor a file"
    refused(tmp_path, tokenizer, ConfigurationError, match, source=str(tmp_path))
    refused(tmp_path, tokenizer, ConfigurationError, match, source="a/b/c")


def test_no_such_column(tmp_path, tokenizer):
    source = jsonl(tmp_path / "t.jsonl", documents(3))
    for changes in ({"column": "txt"}, {"subset": "meta.pile"}, {"subset": "text.set"}):
        match = f"has no `{next(iter(changes.values()))}`: its columns are text, meta"
        refused(tmp_path, tokenizer, CorpusError, match, source=source, **changes)


def test_a_column_that_is_no_text(tmp_path, tokenizer):
    source = jsonl(tmp_path / "t.jsonl", documents(3))
    match = "`meta` of .* holds dict, not text"
    refused(tmp_path, tokenizer, CorpusError, match, source=source, column="meta")


def test_a_document_without_label(tmp_path, tokenizer):
    records = documents(3)
    records[1]["meta"]["set"] = None
    source = jsonl(tmp_path / "t.jsonl", records)
    match = "document 1 of .* has no `meta.set`: label every document"
    refused(tmp_path, tokenizer, CorpusError, match, source=source, subset="meta.set")


def test_a_damaged_file(tmp_path, tokenizer):
    (tmp_path / "t.parquet").write_bytes(b"PAR1 no more")
    match = r"t\.parquet cannot be read \("
    refused(tmp_path, tokenizer, CorpusError, match, source=str(tmp_path / "t.parquet"))


def test_not_one_row(tmp_path, tokenizer):
    source = jsonl(tmp_path / "t.jsonl", [{"text": "too short"}, *documents(1)])
    match = r"not one row of 512 tokens \(2 documents read, 1 too short\)"
    refused(tmp_path, tokenizer, CorpusError, match, source=source)


def test_a_context_without_room(tmp_path, tokenizer):
    source = jsonl(tmp_path / "t.jsonl", documents(3))
    refused(tmp_path, tokenizer, ConfigurationError, "context is 1", source=source, context=1)


def test_a_tokenizer_without_eos_and_one_without_bos(tmp_path, tokenizer):
    source = jsonl(tmp_path / "t.jsonl", documents(10))
    bare = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer)
    refused(tmp_path, bare, CorpusError, "neither BOS nor EOS", source=source)
    bare.bos_token = "<bos>"
    refused(tmp_path, bare, CorpusError, "no EOS token", source=source)
    joined = TextSettings(source=source, context=16, join="none")
    rows_BP = tokenise(joined, bare, "identity", str(tmp_path / "none")).read(0, 1)
    assert rows_BP[0, 0] == bare.bos_token_id and -1 not in rows_BP
    bare.bos_token = None
    bare.eos_token = "<|endoftext|>"
    corpus = tokenise(
        TextSettings(source=source, context=16), bare, "identity", str(tmp_path / "c")
    )
    assert (corpus.read(0, corpus.rows)[:, 0] == bare.eos_token_id).all()


# The hub, as far as it can be tested without it.


def test_a_hub_dataset_is_held_to_its_commit(tmp_path, tokenizer, monkeypatch):
    asked = {}

    class Info:
        sha = "c0ffee"

    def info(self, name, revision=None):
        asked["info"] = (name, revision)
        return Info

    def load(**arguments):
        asked["load"] = arguments
        return documents(20)

    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", info)
    monkeypatch.setattr("datasets.load_dataset", load)
    settings = TextSettings(source="a/b@v1", name="en", split="test", context=16)
    tokenise(settings, tokenizer, "identity", str(tmp_path / "c"))
    assert asked["info"] == ("a/b", "v1")
    assert asked["load"] == {
        "path": "a/b", "name": "en", "revision": "c0ffee", "split": "test", "streaming": True
    }  # fmt: skip
    manifest = json.loads((tmp_path / "c" / "manifest.json").read_text())
    assert manifest["source"]["commit"] == "c0ffee"


def test_no_way_to_the_hub(tmp_path, tokenizer, monkeypatch):
    def info(self, name, revision=None):
        raise ConnectionError("no route to host\nand much more")

    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", info)
    match = r"a/b@v1 cannot be read \(no route to host\): check corpus\.text and the way to the hub"
    refused(tmp_path, tokenizer, CorpusError, match, source="a/b@v1")


@pytest.mark.parametrize("name", ["pile", "pile_uncopyrighted", "openwebtext"])
def test_ready_sources_are_pinned_files_on_the_hub(name, tmp_path, tokenizer, monkeypatch):
    """What `conf/corpus` names reaches `load_dataset` as it should; the hub itself is not asked."""
    asked = {}

    def load(**arguments):
        asked.update(arguments)
        if arguments["path"] == "text":  # the lines of JSON
            return iter([{"text": json.dumps(record)} for record in documents(20)])
        return documents(20)

    monkeypatch.setattr("datasets.load_dataset", load)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: True)
    conf = Path(__file__).parents[2] / "conf"
    with initialize_config_dir(str(conf), version_base="1.3"):
        corpus = compose(overrides=[f"+corpus={name}"]).corpus
    settings = TextSettings(**{**corpus.text, "context": 16})
    settings.subset = settings.subset and "meta.set"
    tokenise(settings, tokenizer, "identity", str(tmp_path / "c"))
    assert asked["path"] == ("parquet" if name == "openwebtext" else "text")
    (address,) = asked["data_files"].values()
    assert address.startswith("hf://datasets/") and len(address.split("@")[1].split("/")[0]) == 40
    assert (corpus.context, corpus.tokens, corpus.exclude) == (512, 100_000_000, "paper")
    # The paper's rows have no EOS between documents.
    assert corpus.text.get("join", "eos") == ("eos" if name == "openwebtext" else "none")


@pytest.mark.parametrize("suffix", [".jsonl", ".json"])
@pytest.mark.parametrize("lines, told", [
    (["null"], "document 0 of .* is null, not an object"),
    (["null", '{"text": "x"}'], "document 0 of .* is null, not an object"),
    (['{"text": "x"}', "", "null"], "document 1 of .* is null, not an object"),
    (['{"text": "x"}', "[1]"], r"document 1 of .* is \[1\], not an object"),
    (["[null]"], "is null, not an object|is .*null.*, not an object"),
    (['{"text": "x"}', '{"text": '], "document 1 of .* is no JSON"),
    (["[" * 100_000], "is no JSON"),
    (["\x00\x01"], "is no JSON"),
    (['{"text": "x"}', r'{"text": "\ud800"}'], "document 1 of .* half of a surrogate pair"),
])
def test_lines_that_are_no_objects_are_named_and_end_no_process(
    tmp_path, tokenizer, suffix, lines, told
):
    (tmp_path / f"t{suffix}").write_text("\n".join(lines))
    settings = TextSettings(source=str(tmp_path / f"t{suffix}"), context=8, minimum_characters=1)
    with pytest.raises(CorpusError, match=told) as caught:
        tokenise(settings, tokenizer, "identity", str(tmp_path / "c"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", [
    '[{"text": "one"},\n {"text": "two"}]', '{"text": "one"}\n\n{"text": "two"}\n',
    '[{"text": "one"}, {"text": "two"}]', '\ufeff{"text": "one"}\r\n{"text": "two"}',
])
def test_json_of_every_layout_is_read(tmp_path, text):
    (tmp_path / "t.json").write_text(text)
    found, _ = read_documents(TextSettings(source=str(tmp_path / "t.json")))
    assert [document for document, _ in found] == ["one", "two"]


def test_a_corpus_is_on_the_disk_before_it_has_its_name(tmp_path, tokenizer, monkeypatch):
    synced, renamed = set(), []
    fsync, rename = os.fsync, Path.rename

    def note(descriptor):
        synced.add(os.readlink(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)

    def record(path, target):
        renamed.append({str(each) for each in [path, *path.rglob("*")]} - synced)
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", note)
    monkeypatch.setattr(Path, "rename", record)
    settings = TextSettings(source=jsonl(tmp_path / "t.jsonl", documents(40)), context=16)
    tokenise(settings, tokenizer, "identity", str(tmp_path / "new" / "below" / "c"))
    assert renamed == [set()]
    assert {str(tmp_path), str(tmp_path / "new"), str(tmp_path / "new" / "below")} <= synced
