"""The whole profile on planted models: what each neuron was built for is what the tables say."""

import json
import logging
import shutil
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pytest
import scipy.stats
import torch
from helpers_models import make_tokenizer
from helpers_profile import (
    BEFORE,
    CODE,
    CONTEXT,
    EARLY,
    LETTER,
    NEURONS,
    ROWS,
    STREAM,
    VOCABULARY,
    WORD,
    make_inputs,
    make_study,
    profiled,
)
from helpers_stages import Disordering
from helpers_study import make, profile_of, table_bytes
from helpers_whole import changed, copied
from transformers import AutoTokenizer, GPT2LMHeadModel

from universal_ray.config.study import TaxonomyConfig
from universal_ray.corpus.rows import open_corpus
from universal_ray.errors import ConfigurationError, MissingError
from universal_ray.features.bank import row_features, row_labels
from universal_ray.features.families import FAMILY_OF_FEATURES
from universal_ray.features.features import CURRENT, PREVIOUS, TokenRows
from universal_ray.features.syntax import RULES, syntax_features
from universal_ray.models.site import ACTIVATION_FLOOR
from universal_ray.models.source import resolve
from universal_ray.models.weights import load_weights
from universal_ray.stages.profile.schemas import LOWER_END, PUBLISHED
from universal_ray.stages.profile.stage import ProfileStage
from universal_ray.storage.finished import PROFILE
from universal_ray.storage.reasons import needs
from universal_ray.storage.store import Store

LISTED = TaxonomyConfig().listed


@pytest.fixture(scope="module")
def inputs(once):
    folder = once("inputs-of-profile", make_inputs)
    return [str(folder / name) for name in "ab"], str(folder / "tokens")


@pytest.fixture(scope="module")
def run(once, inputs):
    """Correlations and profile; beside it, as it was before the profile."""

    def make_run(folder: Path) -> None:
        study = make_study(folder / "run", *inputs)
        make(study)
        copied(folder / "run", folder / "correlated")
        profiled(study)

    study = make_study(once("run-of-profile", make_run) / "run", *inputs)
    return study, Store(study.run.dir)


@pytest.fixture(scope="module")
def truth(inputs):
    """Activations [T, N] of the first model in float64, before and after the GELU."""
    model: Any = GPT2LMHeadModel.from_pretrained(inputs[0][0]).double().eval()
    tokens_BP = torch.from_numpy(open_corpus(inputs[1]).read(0, ROWS))
    kept = []
    model.transformer.h[0].mlp.c_fc.register_forward_hook(lambda *given: kept.append(given[2]))
    with torch.inference_mode():
        model(tokens_BP)
    pre_TN = kept[0].flatten(0, 1)
    post_TN = torch.nn.functional.gelu(pre_TN, approximate="tanh")
    return tokens_BP.numpy(), pre_TN.numpy(), post_TN.numpy()


def of_model(store: Store, table: str, model: str) -> list[dict]:
    found = store.get_table(f"tables/{table}.parquet")
    return found.filter(pc.equal(found["model"], Path(model).name)).to_pylist()


def test_planted_neurons_get_their_family_and_feature_and_random_ones_none(run, inputs):
    _, store = run
    for model in inputs[0]:
        rows = of_model(store, "taxonomy", model)
        assert len(rows) == NEURONS
        expected = {
            WORD: ("unigram", "the_unigram"),
            LETTER: ("first letter", "start_w_s"),
            BEFORE: ("previous token", None),
            EARLY: ("position", None),
            CODE: ("semantic", "subset_code"),
        }
        for neuron, (family, feature) in expected.items():
            row = rows[neuron]
            assert (row["family"], row["status"]) == (family, "member"), str(row)
            assert feature in (None, row["feature"])
            assert row["variance_reduction"] > 0.9, str(row)
            assert (row["partners"], row["partners_in_family"]) == (1, 1)
        assert rows[BEFORE]["feature"].startswith(f"{PREVIOUS}:")
        assert not any(row["status"] == "member" for row in rows[5:])


def test_every_score_is_that_of_a_direct_group_by(run, inputs, truth):
    study, store = run
    recipe = profile_of(study)
    bank = recipe.read_bank(store)
    tokens_BP, _, post_TN = truth
    subsets = open_corpus(inputs[1]).subsets(0, ROWS)
    rows = TokenRows(tokens_BP, bank.vocabulary, tuple(subsets))
    member_VF = bank.membership_VF.numpy()
    current_TF = member_VF[tokens_BP.ravel()]
    previous_BPF = np.zeros((ROWS, CONTEXT, member_VF.shape[1]), bool)
    previous_BPF[:, 1:] = current_TF.reshape(ROWS, CONTEXT, -1)[:, :-1]
    names = [
        *(column.name for column in bank.id_columns(CURRENT)),
        *(column.name for column in bank.id_columns(PREVIOUS)),
        *(column.name for column in bank.row_columns()),
    ]
    features = row_features(syntax_features(RULES), recipe.subsets, recipe.read_topics(store))
    label_TE = row_labels(features, rows).numpy()
    labels_TF = np.concatenate(
        [current_TF, previous_BPF.reshape(ROWS * CONTEXT, -1), label_TE], 1
    )
    place = {name: index for index, name in enumerate(names)}
    checked = 0
    for row in of_model(store, "features", inputs[0][0]):
        if row["feature"] == "position_one_hot":
            continue
        x_T, label_T = post_TN[:, row["neuron"]], labels_TF[:, place[row["feature"]]]
        share = label_T.mean()
        within = share * x_T[label_T].var() + (1 - share) * x_T[~label_T].var()
        assert row["variance_reduction"] == pytest.approx(1 - within / x_T.var(), abs=1e-6)
        difference = x_T[label_T].mean() - x_T[~label_T].mean()
        assert row["mean_difference"] == pytest.approx(difference, rel=1e-5, abs=1e-6)
        assert row["support"] == label_T.sum()
        checked += 1
    assert checked >= 4 * NEURONS


def test_statistics_are_numpys(run, inputs, truth):
    _, store = run
    _, pre_TN, post_TN = truth
    rows = of_model(store, "statistics", inputs[0][0])
    for neuron, row in enumerate(rows):
        pre_T = pre_TN[:, neuron]
        standard_T = (pre_T - pre_T.mean()) / pre_T.std()
        assert row["mean"] == pytest.approx(pre_T.mean(), abs=1e-5)
        assert row["var"] == pytest.approx(pre_T.var(), rel=1e-5)
        assert row["skew"] == pytest.approx((standard_T**3).mean(), abs=1e-4)
        assert row["kurt"] == pytest.approx((standard_T**4).mean(), rel=1e-4)
        assert row["sparsity"] == (pre_T > 0).mean()
        assert row["example_value"][0] == pytest.approx(post_TN[:, neuron].max(), rel=1e-5)
        place = row["example_row"][0] * CONTEXT + row["example_position"][0]
        assert post_TN[place, neuron] == pytest.approx(post_TN[:, neuron].max(), rel=1e-5)
        order_T = np.argsort(-post_TN[:, neuron], kind="stable")[:50]
        values = post_TN[order_T, neuron]
        np.testing.assert_allclose(row["example_value"], values, rtol=1e-5, atol=1e-6)
        assert len({*zip(row["example_row"], row["example_position"], strict=True)}) == 50
        assert np.sum(row["histogram_by_subset"], 0).tolist() == row["histogram"]
    subset_T = np.repeat(open_corpus(inputs[1]).subsets(0, ROWS), CONTEXT)
    names = store.get_json("tables/summary.json")["profile"]["subsets"]
    assert len(names) == 3
    for place, name in enumerate(names):
        for neuron in (0, EARLY):
            pre_T = pre_TN[subset_T == name, neuron]
            expected = np.histogram(pre_T, [-np.inf, *np.linspace(-10, 15, 256), np.inf])[0]
            told = np.array(rows[neuron]["histogram_by_subset"][place])
            assert np.abs(told - expected).sum() <= 2  # float32 beside an edge
    by_position = post_TN.reshape(ROWS, CONTEXT, NEURONS).mean(0)
    np.testing.assert_allclose(rows[EARLY]["mean_by_position"], by_position[:, EARLY], atol=1e-5)
    published = of_model(store, "neurons", inputs[0][0])
    for name in ("w_in_norm", "input_bias", "kurt", "vocab_kurt", "sparsity", "family"):
        assert [row[name] for row in published] == [
            row[name] for row in (rows if name != "family" else of_model(
                store, "taxonomy", inputs[0][0]))
        ]


def test_percentiles_are_scipys(run, inputs):
    _, store = run
    rows = of_model(store, "statistics", inputs[0][0])
    for name in PUBLISHED:
        values = [row[name] for row in rows]  # of one layer
        for row in rows:
            expected = scipy.stats.percentileofscore(values, row[name], kind="rank")
            assert row[f"{name}_percentile"] == pytest.approx(expected, abs=1e-12), name


def test_what_neurons_read_is_told_by_cosines_in_float64(run, inputs):
    """Of w_in with W_U and W_E: moments, ends with their tokens and ids."""
    _, store = run
    weights = load_weights(resolve(inputs[0][0]))
    tokenizer = AutoTokenizer.from_pretrained(inputs[0][0])
    rows = of_model(store, "statistics", inputs[0][0])
    for kind, matrix_CV in (("in_vocab", weights.unembed_CV), ("in_embed", weights.embed_CV)):
        assert matrix_CV is not None
        w_NC, e_CV = weights.w_in_NC.double().numpy(), matrix_CV.double().numpy()
        e_CV = e_CV[:, : len(tokenizer)]
        lengths = np.linalg.norm(w_NC, axis=1)[:, None] * np.linalg.norm(e_CV, axis=0)
        for row, cosine_V in zip(rows, w_NC @ e_CV / lengths, strict=True):
            told = {
                "mean": cosine_V.mean(), "var": cosine_V.var(), "skew": scipy.stats.skew(cosine_V),
                "kurt": scipy.stats.kurtosis(cosine_V, fisher=False),
            }  # fmt: skip
            for name, expected in told.items():
                assert row[f"{kind}_{name}"] == pytest.approx(expected, rel=1e-6, abs=1e-9)
            for end, order_V in (("top", np.argsort(-cosine_V)), ("bottom", np.argsort(cosine_V))):
                ids = row[f"{kind}_{end}_id"]
                assert len(ids) == LISTED
                np.testing.assert_allclose(
                    row[f"{kind}_{end}"], cosine_V[order_V[:LISTED]], rtol=1e-5
                )
                np.testing.assert_allclose(cosine_V[ids], cosine_V[order_V[:LISTED]], rtol=1e-5)
                shown = tokenizer.decode(ids[0]).replace(" ", "␣")
                if shown.isprintable() and ids[0] and "\N{REPLACEMENT CHARACTER}" not in shown:
                    assert row[f"{kind}_{end}_token"][0] == shown


def test_compositions_with_every_head_are_listed(run, inputs):
    _, store = run
    weights = load_weights(resolve(inputs[0][0]))
    assert weights.value_HCK is not None and weights.output_HKC is not None
    v_HCC = (weights.value_HCK.double() @ weights.output_HKC.double()).numpy()
    for row, w_C in zip(of_model(store, "statistics", inputs[0][0]), weights.w_in_NC, strict=True):
        assert row["q_composition_top"] == [None] * len(v_HCC)  # no later layer
        value_H = np.array([
            np.linalg.norm(v_CC @ w_C.double().numpy()) / np.linalg.norm(v_CC) for v_CC in v_HCC
        ]) / float(w_C.double().norm())  # fmt: skip
        for end, sign in (("top", -1), ("bottom", 1)):
            order_H = np.argsort(sign * value_H, kind="stable")
            np.testing.assert_allclose(row[f"o_composition_{end}"], value_H[order_H], atol=1e-5)
            assert row[f"o_composition_{end}_head"] == order_H.tolist()
        assert row["o_composition_head"] == row["o_composition_top_head"][0]


def test_activations_with_a_floor_have_no_lower_end_and_say_so(run):
    _, store = run
    table = store.get_table("tables/statistics.parquet")
    lower = [column.name for column in table.schema if LOWER_END in needs(column)]
    assert len(lower) == 11
    for name in lower:
        assert table[name].null_count == len(table), name
    assert {dict(missing)[LOWER_END] for missing in table["not_measured"].to_pylist()} == {
        ACTIVATION_FLOOR
    }


def test_what_begins_a_row_is_not_counted_as_predicted(run, inputs):
    """Frequencies of tokens are those of what models predict; rows begin with BOS."""
    study, store = run
    tokens_BP = open_corpus(inputs[1]).read(0, ROWS)
    counts_V = profile_of(study).read_bank(store).counts_V
    assert (tokens_BP[:, 0] == 0).all() and counts_V[0] == (tokens_BP[:, 1:] == 0).sum()
    assert counts_V.tolist() == np.bincount(tokens_BP[:, 1:].ravel(), minlength=300).tolist()


def test_rare_features_are_null_with_the_reason(run):
    _, store = run
    bank = {row["feature"]: row for row in store.get_table("tables/bank.parquet").to_pylist()}
    assert bank["row_first"]["null_reason"] is None
    reasons = {row["null_reason"] for row in bank.values()}
    assert "rare" in reasons
    assert all((row["support"] < 20) == (row["null_reason"] in ("rare", "no tokens"))
               for row in bank.values() if row["support"] < ROWS * CONTEXT - 20)
    scored = {row["feature"] for row in store.get_table("tables/features.parquet").to_pylist()}
    assert not any(bank[name]["null_reason"] for name in scored)


def test_summary_tells_families_agreement_and_directions(run, inputs):
    _, store = run
    summary = store.get_json("tables/summary.json")
    told = summary["references"][0]["profile"]
    neurons = of_model(store, "neurons", inputs[0][0])
    explained = [row for row in neurons if row["is_universal"] and row["status"] == "member"]
    assert told["families"]["explained"]["members"] == len(explained) > 0
    assert told["agreement"]["universal"]["same"] == 1.0
    assert told["universal_against_others"]["input_bias"]["published_direction"] == -1
    assert set(summary["profile"]["subsets"]) == {"code", "prose", "talk"}
    json.dumps(summary, allow_nan=False)


@pytest.mark.thorough
def test_interrupted_and_resumed_has_the_same_bits(run, tmp_path, monkeypatch):
    study, store = run
    folder = copied(Path(store.url).with_name("correlated"), tmp_path / "run")
    again = changed(study, run__dir=str(folder))
    batches = ProfileStage.batches

    def cut_short(self, memory):
        topics, labels, work, *_ = batches(self, memory)
        yield topics
        yield labels
        yield replace(work, tasks=work.tasks[:3])
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ProfileStage, "batches", cut_short)
        with pytest.raises(KeyboardInterrupt):
            profiled(again)
    assert not Store(again.run.dir).exists("tables/taxonomy.parquet")
    assert table_bytes(make(again, PROFILE, executor=Disordering())) == table_bytes(store)
    lines = Store(again.run.dir).get("metrics.jsonl").decode().splitlines()
    done = [(e["model"], e["shard"]) for e in map(json.loads, lines) if e["stage"] == "profile"]
    assert len(set(done)) == len(done)
    # What does not decide the sums makes tables alone.
    fewer = deepcopy(again)
    fewer.taxonomy.features = 2
    profiled(fewer)
    assert len(Store(again.run.dir).get("metrics.jsonl").decode().splitlines()) == len(lines)


def test_other_families_make_the_tables_anew_and_nothing_else(run, inputs, tmp_path, monkeypatch):
    study, store = run
    shutil.copytree(store.url, tmp_path / "run")
    again = deepcopy(study)
    again.run.dir = str(tmp_path / "run")
    before = set(store.list("profile"))
    monkeypatch.setitem(FAMILY_OF_FEATURES, "first letter", "alphabet")
    found = profiled(again)
    assert of_model(store, "taxonomy", inputs[0][0])[LETTER]["family"] == "first letter"
    assert of_model(found, "taxonomy", inputs[0][0])[LETTER]["family"] == "alphabet"
    assert set(found.list("profile")) == before


def test_flipped_bit_in_the_sums_of_a_shard_is_found_and_mended(run, tmp_path, caplog):
    study, store = run
    shutil.copytree(store.url, tmp_path / "run")
    again = deepcopy(study)
    again.run.dir = str(tmp_path / "run")
    copy = Store(again.run.dir)
    stored = copy.list("profile")
    for path in [*(path for path in stored if "scores-" in path), "tables/done.json"]:
        copy.delete(path)
    victim = tmp_path / "run" / next(path for path in stored if "shard-01/layer-" in path)
    data = bytearray(victim.read_bytes())
    data[-3] ^= 1
    victim.write_bytes(bytes(data))
    make(again)
    with caplog.at_level(logging.WARNING):
        assert table_bytes(profiled(again)) == table_bytes(store)
    assert "it was cut or altered" in caplog.text


@pytest.mark.thorough
def test_a_vocabulary_that_one_model_has_padded_changes_nothing(run, inputs, tmp_path):
    _, store = run
    model: Any = GPT2LMHeadModel.from_pretrained(inputs[0][1])
    padded = torch.nn.Embedding(VOCABULARY + 4, STREAM)
    with torch.no_grad():
        padded.weight[:VOCABULARY] = model.transformer.wte.weight
    model.set_input_embeddings(padded)
    model.tie_weights()
    model.config.vocab_size = VOCABULARY + 4
    model.save_pretrained(str(tmp_path / "b"))
    make_tokenizer(tmp_path / "b", vocabulary=VOCABULARY)
    study = make_study(tmp_path / "run", [inputs[0][0], str(tmp_path / "b")], inputs[1])
    make(study)
    found = profiled(study)
    first = inputs[0][0]
    assert of_model(found, "statistics", first) == of_model(store, "statistics", first)


def test_options_that_do_not_fit_are_refused_before_any_model_runs(inputs, tmp_path):
    study = make_study(tmp_path / "none", *inputs)
    with pytest.raises(MissingError, match="holds no tables of correlations"):
        profiled(study)
    study.taxonomy.topics = 5000
    with pytest.raises(ConfigurationError, match="ask for fewer topics"):
        profiled(study)
    study = make_study(tmp_path / "none", *inputs)
    study.taxonomy.syntax = "xx_missing"
    with pytest.raises(ConfigurationError, match="spacy download xx_missing"):
        profiled(study)
