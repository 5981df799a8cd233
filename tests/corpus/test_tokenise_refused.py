"""Text that cannot be used, each with its sentence."""

import os
from pathlib import Path

import pytest
from helpers_tokenise import documents, jsonl, refused
from transformers import PreTrainedTokenizerFast

from universal_ray.corpus.documents import TextSettings
from universal_ray.corpus.documents import documents as read_documents
from universal_ray.corpus.tokenise import tokenise
from universal_ray.errors import ConfigurationError, CorpusError, MissingError


def test_no_such_file(tmp_path, tokenizer):
    source = str(tmp_path / "*.jsonl")
    match = r"no file matches .*: check corpus\.text\.source"
    refused(tmp_path, tokenizer, MissingError, match, source=source)


def test_a_folder_is_its_files_of_one_kind(tmp_path):
    folder = tmp_path / "my texts"
    (folder / "below").mkdir(parents=True)
    settings = TextSettings(source=str(folder), minimum_characters=0)
    with pytest.raises(ConfigurationError, match=r"holds no file of .*'.*/\*/\*\.txt'"):
        read_documents(settings)
    for name, text in (("b.txt", "second"), ("a.txt", "first"), ("notes.md", "none")):
        (folder / name).write_text(text)
    found, provenance = read_documents(settings)
    assert [text for text, _ in found] == ["first", "second"]
    assert [Path(path).name for path in provenance["files"]] == ["a.txt", "b.txt"]
    (folder / "c.jsonl").write_text("{}")
    with pytest.raises(ConfigurationError, match=r"files of \.jsonl and \.txt: name those of one"):
        read_documents(settings)


def test_what_is_neither_here_nor_on_the_hub_is_no_source(tmp_path, tokenizer):
    match = "neither a hub dataset nor a file"
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


def test_a_form_of_unicode_that_is_none(tmp_path, tokenizer):
    source = jsonl(tmp_path / "t.jsonl", documents(3))
    match = "unicode is nfkc: give nfc or null"
    refused(tmp_path, tokenizer, ConfigurationError, match, source=source, unicode="nfkc")


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
