"""The whole of the report on planted models, as a study runs it: planted neurons are shown on their
tokens, and what is interrupted, changed or missing is gone on with, made anew or refused.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from helpers_profile import (
    BEFORE,
    CODE,
    CONTEXT,
    EARLY,
    LETTER,
    NEURONS,
    WORD,
    make_inputs,
    make_study,
    planted_ids,
)
from helpers_study import make, table_bytes
from helpers_summary import differences
from helpers_whole import changed, copied
from transformers import AutoTokenizer, GPT2LMHeadModel

from universal_ray.config.report import ReportConfig
from universal_ray.config.study import Pairs, RolesConfig, Study
from universal_ray.corpus.rows import excluded_ids
from universal_ray.errors import ConfigurationError, MissingError
from universal_ray.stages.report.plan import sample_rows
from universal_ray.stages.report.schemas import SUMMARY
from universal_ray.stages.report.stage import ReportStage
from universal_ray.storage.finished import CORRELATIONS, PROFILE, REPORT, ROLES
from universal_ray.storage.names import ours
from universal_ray.storage.store import Store

WINDOW = 8
ROWS, SAMPLED = 240, 200
NAMES = ("a", "b")
"""Of the models."""


def study_of(folder: Path, models: list[str], tokens: str) -> Study:
    study = make_study(folder, models, tokens)
    study.corpus.tokens = ROWS * CONTEXT
    study.units.tokens, study.units.batch = 60 * CONTEXT, 30 * CONTEXT
    study.taxonomy.syntax = None
    study.roles = RolesConfig(
        tokens=2 * CONTEXT, sweep=[0.0], candidates=1, controls=1, sets=1, paths=1
    )
    study.report = ReportConfig(window=WINDOW, sample=SAMPLED * CONTEXT, tokens=220 * CONTEXT)
    return study


@pytest.fixture(scope="module")
def inputs(once):
    folder = once("inputs-of-profile", make_inputs)  # the same
    return [str(folder / name) for name in "ab"], str(folder / "tokens")


@pytest.fixture(scope="module")
def run(once, inputs):
    """The whole study of both models; beside it, as it was before the report."""

    def make_run(folder: Path) -> None:
        study = study_of(folder / "run", *inputs)
        study.models.pairs = Pairs.all
        make(study, CORRELATIONS, PROFILE, ROLES)
        copied(folder / "run", folder / "before")
        make(study, REPORT)

    study = study_of(once("run-of-report", make_run) / "run", *inputs)
    study.models.pairs = Pairs.all
    return study, Store(study.run.dir)


@pytest.fixture
def before(run, tmp_path) -> Study:
    """The study before its report, in a directory of its own."""
    folder = copied(Path(run[0].run.dir).with_name("before"), tmp_path / "run")
    return changed(run[0], run__dir=str(folder))


def examples(store: Store) -> list[dict[str, Any]]:
    return store.get_table("tables/examples.parquet").to_pylist()


def token_at(row: dict[str, Any], back: int = 0) -> int:
    token: int = row["token_ids"][row["focus"] - row["start"] - back]
    return token


def test_planted_neurons_are_shown_on_their_tokens(run, inputs):
    ids = planted_ids(Path(inputs[0][0]))
    fires: dict[int, Callable[[dict], bool]] = {
        WORD: lambda row: token_at(row) in ids[WORD],
        LETTER: lambda row: token_at(row) in ids[LETTER],
        BEFORE: lambda row: row["focus"] > row["start"] and token_at(row, 1) in ids[BEFORE],
        EARLY: lambda row: row["focus"] < CONTEXT // 3,
        CODE: lambda row: token_at(row) in ids[CODE] and row["subset"] == "code",
    }
    for model in NAMES:
        for neuron, does in fires.items():
            mine = [row for row in examples(run[1])
                    if (row["model"], row["neuron"]) == (model, neuron)]  # fmt: skip
            kinds = {kind: [row for row in mine if row["kind"] == kind]
                     for kind in ("top", "quantile", "silent")}  # fmt: skip
            assert len(kinds["top"]) == 8 and len(kinds["silent"]) == 4
            assert all(map(does, kinds["top"])), neuron
            assert all(map(does, kinds["quantile"])), neuron
            assert not any(map(does, kinds["silent"])), neuron


def test_partners_are_those_of_the_pairs_and_do_the_same_where_they_are_alike(run):
    pairs = {(row["model"], row["other"], row["neuron"]): row["max_neuron"]
             for row in run[1].get_table("tables/pairs.parquet").to_pylist()}  # fmt: skip
    one, two = NAMES
    for row in examples(run[1]):
        other = two if row["model"] == one else one
        partner = pairs[row["model"], other, row["neuron"]]
        assert row["id"] == f"{row['model']}:0.{row['neuron']}"
        assert row["partners"] == [f"{other}:0.{partner}"]
        if row["neuron"] == CODE and row["kind"] == "top" and row["partner_scales"]:
            place = row["focus"] - row["start"]
            there = row["partner_scales"][0] * row["partner_quantised"][0][place]
            assert partner == CODE and there == pytest.approx(row["activation"], rel=0.2)


def test_every_file_of_a_run_bears_a_name_of_ours(run):
    assert [path for path in run[1].list() if not ours(path)] == []


def test_the_vocabulary_has_every_id_exactly(run):
    rows = run[1].get_table("tables/vocabulary.parquet").to_pylist()
    assert [row["token_id"] for row in rows] == list(range(len(rows)))
    assert rows[0]["special"] and rows[0]["bytes"] is None and rows[0]["text"]
    whole = {row["bytes"] for row in rows[1:]}
    assert {bytes([code]) for code in range(256)} <= whole
    assert all(row["text"] for row in rows if row["bytes"] != b"")


@pytest.mark.thorough
def test_interrupted_and_resumed_in_another_order_has_the_same_bytes(run, before, monkeypatch):
    batches = ReportStage.batches

    def cut_short(self, memory):
        for batch in batches(self, memory):
            yield replace(batch, tasks=batch.tasks[::-1][: len(batch.tasks) // 2 or 1])
            if len(batch.tasks) > 1:
                raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ReportStage, "batches", cut_short)
        stops = 0
        while stops < 8:
            try:
                make(before, REPORT)
                break
            except KeyboardInterrupt:
                stops += 1
    assert stops >= 3
    store = Store(before.run.dir)
    assert table_bytes(store) == table_bytes(run[1])
    kept = {path: store.get(path) for path in store.list("examples")}
    assert kept.keys() == {*run[1].list("examples")}
    make(before, REPORT)
    assert {path: store.get(path) for path in store.list("examples")} == kept


def test_without_the_roles_of_the_same_options_it_is_refused(before):
    before.roles.seed = 7
    with pytest.raises(MissingError, match="holds no tables of roles"):
        make(before, REPORT)


def test_what_is_missing_or_does_not_fit_is_refused_before_any_model_runs(inputs, tmp_path):
    study = study_of(tmp_path, *inputs)
    with pytest.raises(MissingError, match="holds no tables of profile"):
        make(study, REPORT)
    study.report.tokens = (SAMPLED - 1) * CONTEXT
    with pytest.raises(ConfigurationError, match=r"report\.tokens"):
        make(study, REPORT)


# Activations by what tokens are


@pytest.fixture(scope="module")
def truth(inputs):
    """Tokens [R, P], subsets, and pre- and post-activations [T, N] of both models, float64."""
    folder = datasets.load_from_disk(inputs[1]).select(range(ROWS))
    tokens_RP = np.array(folder["tokens"])
    values = {}
    for path in inputs[0]:
        model = GPT2LMHeadModel.from_pretrained(path).double().eval()
        seen: list[torch.Tensor] = []
        mlp = model.transformer.h[0].mlp
        mlp.c_fc.register_forward_hook(lambda *given, seen=seen: seen.append(given[2]))
        mlp.c_proj.register_forward_pre_hook(lambda *given, seen=seen: seen.append(given[1][0]))
        with torch.inference_mode():
            model(torch.from_numpy(tokens_RP))
        values[Path(path).name] = [each.flatten(0, 1).numpy() for each in seen]
    return tokens_RP, np.array(folder["subset"]), values


def test_activations_are_told_by_what_tokens_are(run, inputs, truth):
    tokens_RP, subset_R, values = truth
    rows = run[1].get_table("tables/conditional.parquet").to_pylist()
    ids = planted_ids(Path(inputs[0][0]))
    position_T = np.tile(np.arange(CONTEXT), len(tokens_RP))
    subset_T, token_T = np.repeat(subset_R, CONTEXT), tokens_RP.ravel()
    before_T = np.where(position_T > 0, np.roll(token_T, 1), -1)
    planted = {
        WORD: np.isin(token_T, ids[WORD]),
        LETTER: np.isin(token_T, ids[LETTER]),
        BEFORE: np.isin(before_T, ids[BEFORE]),
    }
    seen: Counter[str] = Counter()
    for row in rows:
        pre_T, post_T = (x_TN[:, row["neuron"]] for x_TN in values[row["model"]])
        mask_T = np.ones(len(token_T), bool)
        if row["by"] == "position":
            mask_T = position_T == row["position"]
        elif row["by"] == "token in subset":
            mask_T = (subset_T == row["subset"]) & (token_T == row["token_id"])
        elif row["by"] == "feature" and row["neuron"] in planted:
            mask_T = planted[row["neuron"]] == row["inside"]
        elif row["by"] != "all":
            continue
        seen[row["by"]] += 1
        assert row["tokens"] == mask_T.sum()
        if not mask_T.any():
            assert row["pre_mean"] is None
            continue
        for name, x_T in (("pre", pre_T[mask_T]), ("post", post_T[mask_T])):
            assert row[f"{name}_mean"] == pytest.approx(x_T.mean(), abs=1e-4)
            assert row[f"{name}_deviation"] == pytest.approx(x_T.std(), abs=1e-3)
        if row["histogram"] is not None:
            edges = (np.arange(256) * 25 - 2550) / 255
            bins_T = np.searchsorted(edges, pre_T[mask_T], side="left")
            off = np.abs(np.bincount(bins_T, minlength=257) - row["histogram"]).sum()
            assert sum(row["histogram"]) == row["tokens"] and off <= 0.01 * row["tokens"] + 2
    told = {(row["model"], row["neuron"]) for row in rows}
    assert {(model, neuron) for model in NAMES for neuron in planted} <= told
    assert seen["position"] == CONTEXT * len(told) and seen["feature"] >= 2 * 2 * len(planted)
    assert seen["token in subset"] > 20 * len(told)


def test_roles_in_the_word_and_classes_of_the_next_token_are_those_of_the_text(run, truth):
    tokens_RP, _, _ = truth
    rows = run[1].get_table("tables/conditional.parquet").to_pylist()
    first = [row for row in rows if row["id"] == rows[0]["id"]]
    words = {row["group"]: row["tokens"] for row in first if row["by"] == "word"}
    pieces = run[1].get_table("tables/vocabulary.parquet")["bytes"].to_pylist()
    texts = [(piece or b"").decode("utf-8", "replace") for piece in pieces]
    expected: Counter[str] = Counter()
    for tokens in tokens_RP.tolist():
        joined = [False] + [
            texts[one][-1:].isalpha() and texts[two][:1].isalpha() for one, two in pairwise(tokens)
        ]
        for token, within, goes_on in zip(tokens, joined, [*joined[1:], False], strict=True):
            role = "middle" if within and goes_on else "end" if within else None
            role = role or ("beginning" if goes_on else "whole")
            expected[role if texts[token].lstrip()[:1].isalpha() else "no word"] += 1
    assert words == expected and len(words) == 5
    digits = {key for key, text in enumerate(texts) if text.strip().isdecimal()}
    follows = {row["group"]: row["tokens"] for row in first if row["by"] == "next token"}
    assert follows["all_numeric"] == np.isin(tokens_RP[:, 1:], [*digits]).sum()


@pytest.mark.thorough
def test_a_neuron_that_is_named_is_told_whatever_it_is(run, before):
    told = {row["neuron"] for row in run[1].get_table("tables/conditional.parquet").to_pylist()}
    plain = next(neuron for neuron in range(NEURONS) if neuron not in told)
    before.report.neurons = [f"0.{plain}"]
    store = make(before, REPORT)
    rows = store.get_table("tables/conditional.parquet").to_pylist()
    assert {row["neuron"] for row in rows if row["model"] == NAMES[0]} == {
        *(row["neuron"] for row in run[1].get_table("tables/conditional.parquet").to_pylist()
          if row["model"] == NAMES[0]), plain,
    }  # fmt: skip
    before.report.neurons = ["1.0"]
    with pytest.raises(ConfigurationError, match=r"names 1\.0, but .* has 1 layers of 24 neurons"):
        make(before, REPORT)


# Descriptions


def descriptions(store: Store) -> dict[tuple[str, int], dict[str, Any]]:
    rows = store.get_table("tables/descriptions.parquet").to_pylist()
    return {(row["model"], row["neuron"]): row for row in rows}


def test_planted_neurons_are_described_and_carry_over_to_their_partners(run, inputs, truth):
    tokens_RP, _, values = truth
    ids = planted_ids(Path(inputs[0][0]))
    sample, rows = run[0].report.sample // CONTEXT, len(tokens_RP)
    half_R = np.arange(rows) // 8 % 2
    mine = np.isin(np.arange(rows), sample_rows(rows, sample, run[0].report.seed))
    excluded = excluded_ids("paper", AutoTokenizer.from_pretrained(inputs[0][0]))
    counts_RP = (half_R == 1)[:, None] & mine[:, None] & ~np.isin(tokens_RP, excluded)
    found = descriptions(run[1])
    assert len(found) == 2 * NEURONS
    one, two = NAMES
    for model, other in ((one, two), (two, one)):
        for neuron in (WORD, LETTER, CODE):
            row = found[model, neuron]
            said_RP = np.isin(tokens_RP, ids[neuron])
            assert row["inside"] == said_RP[counts_RP].sum(), row["terms"]
            for name, x_TN in (("score", values[model][1]), ("transfer", values[other][1])):
                x_T = x_TN[:, neuron].reshape(tokens_RP.shape)[counts_RP]
                expected = np.corrcoef(said_RP[counts_RP], x_T)[0, 1]
                told = row[name] if name == "score" else row[name][0]
                assert told == pytest.approx(expected, abs=1e-4)
            assert row["score"] > 0.9 and row["auprc"] > 0.9 and row["f1"] > 0.9
            assert abs(row["score_shuffled"]) < 0.2
            assert row["partners"] == [f"{other}:0.{neuron}"]
            assert abs(row["transfer_control"][0]) < 0.5 < row["transfer"][0]
            assert row["text"].startswith("Fires on: ") and row["null_reason"] is None
        early = found[model, EARLY]
        assert "row" in early["text"] and early["score"] > 0.9


def test_what_does_not_hold_is_withheld_and_its_score_told(run, tmp_path):
    least = float(np.median([row["score"] for row in descriptions(run[1]).values()]))
    folder = copied(Path(run[0].run.dir), tmp_path / "run")
    store = make(changed(run[0], run__dir=str(folder), report__score=least), REPORT)
    rows = [*descriptions(store).values()]
    for row in rows:
        assert (row["text"] is None) == (row["null_reason"] is not None) == (row["score"] < least)
        assert row["terms"] and row["score_fitted"] >= row["score"] - 0.2
    told = store.get_json("tables/summary.json")["descriptions"]
    assert [each["model"] for each in told] == [*NAMES]
    for each in told:
        mine = [row for row in rows if row["model"] == each["model"] and row["text"]]
        groups = each["universal"], each["others"]
        assert sum(group["described"] for group in groups) == len(mine) > 0
        scores = sum(group["score"] * group["described"] for group in groups if group["described"])
        assert scores / len(mine) == pytest.approx(np.mean([row["score"] for row in mine]))
    assert differences({"descriptions": told}, SUMMARY) == (set(), set())
