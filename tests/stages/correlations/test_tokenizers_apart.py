"""Models of different tokenizers over one text, against float64 on the raw activations."""

import json
from io import StringIO
from unicodedata import normalize

import datasets
import numpy as np
import pytest
import torch
from helpers_models import make_gpt2
from helpers_segments import CHINESE, LATIN, byte_ends, make_other, text_of
from helpers_study import inputs_of, make, stages, true_activations
from helpers_tiers import tiers
from rich.console import Console
from tokenizers import normalizers
from transformers import AutoTokenizer

from universal_ray import compose, testbed
from universal_ray.config.study import (
    Align,
    Baseline,
    BaselineConfig,
    ClusterConfig,
    CorpusConfig,
    Exclusion,
    ModelsConfig,
    Pairs,
    RunConfig,
    Segment,
    Study,
    TextConfig,
    Unicode,
    UnitsConfig,
)
from universal_ray.errors import ConfigurationError, CorpusError
from universal_ray.maths.moments.shift import partners
from universal_ray.report.screen import show_results
from universal_ray.storage.finished import CORRELATIONS, PROFILE, REPORT, ROLES

CONTEXT, WIDTH = 24, 8
DOCUMENTS = ["x", LATIN[:150], "神", CHINESE[:110], "\n", LATIN[40:260], "🙂", CHINESE[60:] + "y"]
MODELS = {"a": (LATIN, 300, CONTEXT), "b": (CHINESE, 310, 30), "c": (LATIN + CHINESE, 290, 64)}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Of `a`, `b` and `d`, whose tokenizer is that of `b`; `c` has no token that begins text."""
    folder = tmp_path_factory.mktemp("models")
    for seed, (name, (text, vocabulary, context)) in enumerate(
        [*MODELS.items(), ("d", MODELS["b"])]
    ):
        make_gpt2(
            folder / name, seed, width=WIDTH, vocabulary=320, context=context, tokenizer=False
        )
        make_other(folder / name, text, vocabulary, special=None if name == "c" else "<|end|>")
    return folder


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "documents.jsonl"
    path.write_text("".join(json.dumps({"text": each}) + "\n" for each in DOCUMENTS))
    return str(path)


def study_of(folder, models, text, names="abc", pool=Segment.last, **corpus):
    return Study(
        run=RunConfig(dir=str(folder)),
        models=ModelsConfig(
            reference=str(models / names[0]), compared=[str(models / each) for each in names[1:]],
            pairs=Pairs.all,
        ),
        corpus=CorpusConfig(
            text=TextConfig(source=text, minimum_characters=1), context=CONTEXT, pool=pool, **corpus
        ),
        units=UnitsConfig(tokens=7 * CONTEXT, batch=3 * CONTEXT, fold=2),
        cluster=ClusterConfig(workers=1),
        baseline=BaselineConfig(rotations=2),
    )  # fmt: skip


def true_segments(models, rows, names, pool, out):
    """Activations [S, N] of the segments that count, by model, and the row and the position that
    each ends in, of the reference's tokens; all of it row by row, token by token and from what the
    tokenizers say themselves.

    `out`: ids that do not count, by name. A text is what lies between the reference's ends.
    """
    tokenizers = {name: AutoTokenizer.from_pretrained(models / name) for name in names}
    first, end = names[0], tokenizers[names[0]].eos_token_id
    read, kept = {name: [] for name in names}, []
    for number, row in enumerate(rows):
        theirs = {name: [] for name in names}
        segments = []  # by name the tokens of each
        for name in names[1:]:
            if (begin := tokenizers[name].bos_token_id) is not None:
                theirs[name].append(begin)
        position = 0
        while position < len(row):
            if row[position] == end:
                member = {first: [position]}
                for name in names[1:]:
                    special = tokenizers[name].eos_token_id
                    if special is not None:
                        if position:
                            theirs[name].append(special)
                        member[name] = [len(theirs[name]) - 1]
                if len(member) == len(names):
                    segments.append(member)
                position += 1
                continue
            stop = next((k for k in range(position, len(row)) if row[k] == end), len(row))
            ids = row[position:stop]
            while ids and (text_of(tokenizers[first], ids[:1])[0] & 0xC0) == 0x80:
                ids, position = ids[1:], position + 1
            while True:
                try:
                    text = text_of(tokenizers[first], ids).decode()
                    break
                except UnicodeDecodeError:
                    ids = ids[:-1]
            ends = {first: byte_ends(tokenizers[first], ids)}
            place = {first: position}
            for name in names[1:]:
                more = tokenizers[name].encode(text, add_special_tokens=False)
                ends[name], place[name] = byte_ends(tokenizers[name], more), len(theirs[name])
                theirs[name] += more
            before = 0
            for byte in sorted(set.intersection(*map(set, ends.values()))):
                segments.append({
                    name: [place[name] + k for k, each in enumerate(ends[name])
                           if before < each <= byte]
                    for name in names
                })  # fmt: skip
                before = byte
            position = stop
        theirs[first] = list(row)
        longest = {
            name: min(2 * CONTEXT, MODELS[name][2]) if name != first else len(row) for name in names
        }
        kept += [
            (number, each) for each in segments
            if all(each[name][-1] < longest[name] for name in names)
            and not any(theirs[name][k] in out[name] for name in names for k in each[name])
        ]  # fmt: skip
        for name in names:  # what follows a token is nothing to it
            tokens = theirs[name][: MODELS[name][2]]
            read[name].append(tokens + [0] * (MODELS[name][2] - len(tokens)))
    found = {}
    for name in names:
        x_TN = true_activations(str(models / name), np.array(read[name]))
        x_BPN = x_TN.reshape(len(rows), -1, x_TN.shape[1])
        found[name] = np.array([
            x_BPN[number, each[name][-1]] if pool is Segment.last
            else x_BPN[number, each[name]].mean(0)
            for number, each in kept
        ])  # fmt: skip
    return found, [(number, each[first][-1]) for number, each in kept]


def baselines(study, rows, places, x_SN, y_SM):
    """By draw the best correlation of each unit of a pair with those of the other, of which the
    second is of other segments: units of seven rows, batches of three.
    """
    kept_BP = torch.zeros(rows, CONTEXT, dtype=torch.bool)
    for number, position in places:
        kept_BP[number, position] = True
    for drawn in study.baseline.shifts:
        order = []
        for start in range(0, rows, 7):
            for first in range(start, min(start + 7, rows), 3):
                part_BP = kept_BP[first : min(first + 3, start + 7, rows)]
                order.append(partners(part_BP, drawn) + first * CONTEXT)
        moved_T = torch.cat(order)
        assert kept_BP.flatten()[moved_T].equal(kept_BP.flatten())
        assert not (moved_T == torch.arange(len(moved_T)))[kept_BP.flatten()].any()
        number_T = kept_BP.flatten().cumsum(0) - 1
        moved_S = number_T[moved_T[kept_BP.flatten()]].numpy()
        r_NM = np.corrcoef(x_SN.T, y_SM[moved_S].T)[: x_SN.shape[1], x_SN.shape[1] :]
        yield r_NM.max(1), r_NM.max(0)


def excluded(models, names, rule):
    out = {}
    for name in names:
        tokenizer = AutoTokenizer.from_pretrained(models / name)
        newline = tokenizer.encode("\n", add_special_tokens=False)
        out[name] = set() if rule is Exclusion.none else {*newline, tokenizer.eos_token_id}
    return out


@pytest.mark.parametrize(
    ("names", "pool", "rule"),
    tiers(
        [
            ("ab", Segment.last, Exclusion.paper),
            ("ab", Segment.mean, Exclusion.none),
            ("acb", Segment.mean, Exclusion.paper),
            ("ca", Segment.last, Exclusion.none),
        ],
        {("ab", Segment.last, Exclusion.paper), ("acb", Segment.mean, Exclusion.paper)},
    ),
)
def test_every_correlation_is_that_of_segments(names, pool, rule, models, text, tmp_path):
    if names[0] == "c":  # it has no token that could divide rows
        text = None
    study = study_of(tmp_path / "run", models, text or "", names, pool, exclude=rule)
    study.baseline.kind = Baseline.shifted
    if text is None:
        tokenizer = AutoTokenizer.from_pretrained(models / "c")
        ids = tokenizer.encode("".join(DOCUMENTS), add_special_tokens=False)
        rows = [ids[k : k + CONTEXT] for k in range(0, len(ids) - CONTEXT, CONTEXT)]
        datasets.Dataset.from_dict({"tokens": rows}).save_to_disk(str(tmp_path / "tokens"))
        study.corpus.text, study.corpus.path = None, str(tmp_path / "tokens")
    store = make(study)
    corpus = inputs_of(study).corpus
    rows = corpus.read(0, corpus.rows).tolist()
    assert len(rows) > 14
    truth, places = true_segments(models, rows, names, pool, excluded(models, names, rule))
    count = len(truth[names[0]])
    assert 0.2 * corpus.rows * CONTEXT < count < 0.95 * corpus.rows * CONTEXT
    show_results(Console(file=(screen := StringIO()), width=100), store)
    assert f"{count:,} segments of {corpus.rows * CONTEXT:,} tokens counted" in screen.getvalue()
    identities = {model.name: model.identity for model in inputs_of(study).everyone}
    table = store.get_table("tables/pairs.parquet").to_pylist()
    for one in names:
        for other in set(names) - {one}:
            part = [
                row for row in table
                if (row["model"], row["other"]) == (one, other)
            ]  # fmt: skip
            neurons = len(part)
            matrix = np.corrcoef(truth[one].T, truth[other].T)[:neurons, neurons:]
            found = np.full_like(matrix, np.nan)
            for row in part:
                assert (row["n"], row["n_excluded"]) == (count, len(rows) * CONTEXT - count)
                unit = row["layer"] * 4 * WIDTH + row["neuron"]
                partners = [
                    layer * 4 * WIDTH + neuron
                    for layer, neuron in zip(row["top_layer"], row["top_neuron"], strict=True)
                ]
                found[unit, partners] = row["top_corr"]
            seen = ~np.isnan(found)
            assert seen.sum() > neurons * 40
            assert np.abs(found - matrix)[seen].max() < 2e-5
            side = identities[one] > identities[other]
            pair = (other, one) if side else (one, other)
            drawn = baselines(study, len(rows), places, *(truth[name] for name in pair))
            expected_NK = np.stack([best[side] for best in drawn], 1)
            found_NK = [row["baseline_draws"] for row in part]
            np.testing.assert_allclose(found_NK, expected_NK, atol=2e-5)


def test_where_tokenizers_agree_tokens_are_summed_and_no_option_of_segments_makes_them_others(
    models, text, tmp_path
):
    found = []
    for options in ({}, {"pool": Segment.mean}, {"align": Align.tokens}):
        study = study_of(tmp_path / "run", models, text, "bd", **options)
        study.corpus.text.prepared = str(tmp_path / "prepared")
        found.append(inputs_of(study))
    assert [each.segments for each in found] == [None] * 3
    assert len({str((each.layout, each.everyone, each.bits)) for each in found}) == 1


def test_a_run_goes_on_with_its_segments_alone(models, text, tmp_path):
    study = study_of(tmp_path / "run", models, text, "ab", tokens=9 * CONTEXT)
    make(study)
    made = inputs_of(study).layout
    study.models.compared.append(str(models / "d"))  # of a tokenizer that is there: so it grows
    assert inputs_of(study).layout == made
    study.models.compared.append(str(models / "c"))
    with pytest.raises(ConfigurationError, match="other tokenizers"):
        inputs_of(study)
    study.models.compared.pop()
    study.corpus.pool = Segment.mean
    with pytest.raises(ConfigurationError, match=r"corpus\.pool"):
        inputs_of(study)


@pytest.mark.parametrize("stage", [PROFILE, ROLES, REPORT])
def test_stages_of_one_tokenizer_are_refused(stage, models, text, tmp_path):
    study = study_of(tmp_path / "run", models, text, "ab")
    with pytest.raises(ConfigurationError, match=f"the stage {stage} is not defined"):
        stages(study, CORRELATIONS, stage)


def lossy_study(folder, models, text, normalizer, place):
    """Of `a` and a model whose tokenizer changes what it reads, `place` 0 or 1 of the two."""
    names = [str(models / "a"), str(models / "b")]
    make_gpt2(folder / "low", 9, width=WIDTH, vocabulary=320, context=CONTEXT, tokenizer=False)
    make_other(folder / "low", LATIN, normalizer=normalizer)
    names[place] = str(folder / "low")
    study = study_of(folder / "run", models, text, "ab")
    study.models.reference, *study.models.compared = names
    return study


@pytest.mark.parametrize("lossy", [0, 1])
def test_documents_that_a_tokenizer_does_not_give_back_are_refused(lossy, models, text, tmp_path):
    study = lossy_study(tmp_path, models, text, normalizers.Lowercase(), lossy)
    which = "row" if lossy else "a document"
    told = f"{which} .* of .*low does not give back byte by byte.*: leave it out, or compare"
    with pytest.raises(CorpusError, match=told):
        inputs_of(study)
    assert not (tmp_path / "run" / "moments").exists()


@pytest.mark.parametrize("composing", [0, 1])
def test_text_is_composed_for_a_tokenizer_that_composes_accents(composing, models, tmp_path):
    text = tmp_path / "decomposed.jsonl"
    text.write_text(json.dumps({"text": normalize("NFD", LATIN[:200])}) + "\n")
    study = lossy_study(tmp_path, models, str(text), normalizers.NFC(), composing)
    with pytest.raises(CorpusError, match=r": tokenise it with corpus\.text\.unicode=nfc, or comp"):
        inputs_of(study)
    study.run.dir = str(tmp_path / "composed")
    study.corpus.text.unicode = Unicode.nfc
    found = inputs_of(study)
    reads = AutoTokenizer.from_pretrained(study.models.reference)
    rows = found.corpus.read(0, found.rows)
    assert all(text_of(reads, row[1:]).decode(errors="ignore") in LATIN for row in rows)


@pytest.mark.thorough
def test_the_experiment_of_another_vocabulary_goes_through_on_the_embedded_text(tmp_path):
    """With small models of random weights in the places of those that are trained."""
    names, vocabulary = ["a", "b", "f"], len(AutoTokenizer.from_pretrained(testbed.resolve("a")))
    for seed, name in enumerate(names):
        make_gpt2(
            tmp_path / name, seed, width=WIDTH, vocabulary=vocabulary, context=128, tokenizer=False
        )
        if name == "f":
            make_other(tmp_path / name, LATIN + CHINESE, 400)
        else:
            AutoTokenizer.from_pretrained(testbed.resolve("a")).save_pretrained(tmp_path / name)
    study = compose("experiment=tokenizers", f"run.dir={tmp_path / 'run'}", "corpus.tokens=1280")
    assert study.models.reference == testbed.resolve("a")
    assert [study.models.compared[0]] == [testbed.resolve("b")]
    study.models.reference, *study.models.compared = [str(tmp_path / name) for name in names]
    table = make(study).get_table("tables/pairs.parquet").to_pylist()
    counted = {row["n"] for row in table}
    assert len(counted) == 1 and 100 < counted.pop() < 1280
    assert {row["other"] for row in table if row["model"] == "a"} == {"b", "f"}
