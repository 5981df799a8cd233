"""A corpus that was tokenised already, or otherwise, or half."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers_tokenise import documents, jsonl, refused

from universal_ray.corpus import tokenise as module
from universal_ray.corpus.documents import TextSettings
from universal_ray.corpus.rows import open_corpus
from universal_ray.corpus.tokenise import tokenise
from universal_ray.errors import ConfigurationError, StorageError


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
