"""Files of text as people have them: odd names, homes, empty shards, one that is damaged."""

import os
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers_tokenise import jsonl

from universal_ray.config.study import Study, TextConfig
from universal_ray.corpus.documents import TextSettings, documents
from universal_ray.corpus.rows import open_corpus
from universal_ray.errors import CorpusError, MissingError
from universal_ray.features.words import contents, read_words
from universal_ray.stages.text import text_of
from universal_ray.storage.store import Store


def texts(source: object, **settings: object) -> list[tuple[str, str]]:
    return list(documents(TextSettings(source=str(source), **settings))[0])  # type: ignore[arg-type]


def named(path: Path) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    return jsonl(path, [{"text": path.name}])


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("[v2]/a.jsonl", ["a.jsonl"]),
        ("[v2]/*.jsonl", ["a.jsonl", "b.jsonl"]),
        ("x[1].jsonl", ["x[1].jsonl"]),  # there as it is written, beside x1.jsonl
        ("x[12].jsonl", ["x1.jsonl", "x2.jsonl"]),
        ("**/a.jsonl", ["a.jsonl"]),
        ("*/[ab].jsonl", ["a.jsonl", "b.jsonl"]),
        ("~/*[*].jsonl", ["w*.jsonl"]),
    ],
)
def test_a_path_is_that_file_and_a_glob_all_that_match(tmp_path, monkeypatch, source, expected):
    for name in ("[v2]/a.jsonl", "[v2]/b.jsonl", "x[1].jsonl", "x1.jsonl", "x2.jsonl", "w*.jsonl"):
        named(tmp_path / name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert [text for text, _ in texts(source)] == expected
    if not source.startswith("~"):
        assert [text for text, _ in texts(tmp_path / source)] == expected
    assert not (tmp_path / "~").exists()


def test_a_glob_that_matches_nothing_is_told_as_it_was_given(tmp_path):
    with pytest.raises(MissingError, match=r"no file matches .*y\[1\]\.jsonl"):
        texts(tmp_path / "y[1].jsonl")


def test_a_home_is_a_home_at_every_door(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    study = Study()
    study.corpus.text = TextConfig(source="~/a.jsonl", prepared="~/tokens")
    found = text_of(study, Store("~/run"))
    assert found is not None and found.destination == str(tmp_path / "tokens")
    words = tmp_path / "words.yaml"
    words.write_text("{family: x, match: case, features: {a: {description: b, words: c}}}")
    assert [feature.name for feature in read_words(Path("~/words.yaml"))] == ["a"]
    assert contents(["~/words.yaml"]) == contents([str(words)])
    assert Store("~/run").url == str(tmp_path / "run")
    assert os.listdir(tmp_path) == ["words.yaml"]


@pytest.mark.parametrize("order", ["012", "102", "120"])
def test_an_empty_shard_of_parquet_holds_no_document_and_stops_no_other(tmp_path, order):
    shards = [[], ["first", "second"], ["third"]]
    for place, number in enumerate(order):
        table = pa.table({"text": pa.array(shards[int(number)], pa.string())})
        pq.write_table(table, tmp_path / f"{place}.parquet")
    expected = [text for number in order for text in shards[int(number)]]
    assert [text for text, _ in texts(tmp_path / "*.parquet")] == expected


@pytest.mark.parametrize("end", ["jsonl", "txt", "parquet"])
def test_of_several_files_the_one_that_cannot_be_read_is_named(tmp_path, end):
    for name in ("a[1]", "b[2]", "c"):
        path = tmp_path / f"{name}.{end}"
        if end == "parquet":
            pq.write_table(pa.table({"text": ["one"]}), path)
        else:
            named(path)
    broken = tmp_path / f"b[2].{end}"
    broken.write_bytes(b"" if end == "parquet" else b'{"text": "caf\xe9"}\n')
    with pytest.raises(CorpusError) as caught:
        texts(tmp_path / f"*.{end}")
    assert str(broken) in str(caught.value) and "\n" not in str(caught.value)
    assert f"c.{end}" not in str(caught.value)


BROKEN = {
    "caf": ["", "no JSON"],
    '{"body": "x"}': ["", "has no `text`: its columns are body"],
    '{"text": 1}': ["", "holds int, not text"],
    '{"text": "x"}': ["subset", "has no `subset`: its columns are text"],
    "[]": ["", "not an object"],
}
"""A line that stands for a document, the column of its subset, and what is said of it."""


@pytest.mark.parametrize("line", BROKEN)
def test_of_several_files_the_one_with_a_wrong_document_is_named_and_its_place_there(
    tmp_path, line
):
    subset, said = BROKEN[line]
    good = '{"text": "one", "subset": "a"}\n'
    for name, lines in (("a", good * 2), ("b", good + line + "\n"), ("c", good)):
        (tmp_path / f"{name}.jsonl").write_text(lines)
    with pytest.raises(CorpusError) as caught:
        texts(tmp_path / "*.jsonl", subset=subset or None)
    assert said in str(caught.value) and "b.jsonl" in str(caught.value)
    assert "holds" in said or "document 1 of " in str(caught.value)


def labelled(numbers: list[int]) -> datasets.Dataset:
    features = datasets.Features(
        {"text": datasets.Value("string"), "subset": datasets.ClassLabel(names=["prose", "code"])}
    )
    columns = {"text": [f"text {number}" for number in numbers], "subset": numbers}
    return datasets.Dataset.from_dict(columns, features=features)


def test_labels_that_are_numbers_of_classes_keep_their_names(tmp_path):
    labelled([1, 0, 1]).to_parquet(tmp_path / "a.parquet")
    found = texts(tmp_path / "a.parquet", subset="subset")
    assert [label for _, label in found] == ["code", "prose", "code"]
    labelled([1, -1]).to_parquet(tmp_path / "b.parquet")
    with pytest.raises(CorpusError, match=r"document 1 of .* has no `subset`"):
        texts(tmp_path / "b.parquet", subset="subset")


def test_classes_of_rows_keep_their_names(tmp_path):
    for name, numbers in (("good", [1, 0, 1]), ("bad", [1, -1, 0])):
        rows = labelled(numbers).remove_columns("text").add_column("tokens", [[1, 2]] * 3)
        rows.save_to_disk(tmp_path / name)
    corpus = open_corpus(str(tmp_path / "good"))
    assert corpus.subsets(0, 3) == ["code", "prose", "code"]
    assert corpus.subsets(1, 2) == ["prose"]
    with pytest.raises(CorpusError, match="from -1 to 1 and names of 2 classes"):
        open_corpus(str(tmp_path / "bad"))


def test_files_that_number_other_classes_are_no_one_corpus(tmp_path):
    for name, classes in (("one", ["prose", "code"]), ("two", ["code", "prose"])):
        features = datasets.Features(
            tokens=datasets.List(datasets.Value("int64")), subset=datasets.ClassLabel(names=classes)
        )
        rows = {"tokens": [[1, 2]] * 2, "subset": [0, 1]}
        found = datasets.Dataset.from_dict(rows, features=features)
        found.save_to_disk(tmp_path / name, num_shards=2)
    second = "data-00001-of-00002.arrow"
    (tmp_path / "two" / second).rename(tmp_path / "one" / second)
    with pytest.raises(CorpusError, match=f"has other classes in {second} than"):
        open_corpus(str(tmp_path / "one"))


def test_numbers_without_names_are_names_themselves(tmp_path):
    datasets.Dataset.from_dict({"tokens": [[1]] * 2, "subset": [7, 12]}).save_to_disk(
        tmp_path / "rows"
    )
    assert open_corpus(str(tmp_path / "rows")).subsets(0, 2) == ["7", "12"]
