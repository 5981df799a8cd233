"""The whole of the roles on planted models, as a study runs it: what was planted is found, and what
changes makes anew what depends on it.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from helpers_planted import (
    ENTROPY,
    MEMBERS,
    PROMOTER,
    SUPPRESSOR,
    SWITCH,
    SWITCHED_HEAD,
    SWITCHED_LAYER,
    WIDTH,
)
from helpers_planted_study import CONTEXT, INTERVENED, LISTED, make_study, rows_of
from helpers_roles import hooked_logits, load
from helpers_stages import Disordering
from helpers_study import make
from helpers_summary import differences
from helpers_whole import changed, copied
from torch import Tensor
from transformers import AutoTokenizer

from universal_ray.config.study import Study
from universal_ray.errors import ConfigurationError, MissingError
from universal_ray.maths.roles.attention import bos_directions, bos_scores
from universal_ray.models.decoder import load_decoder
from universal_ray.models.source import resolve
from universal_ray.models.weights import load_weights
from universal_ray.report.tables import SUMMARY
from universal_ray.stages.inputs import outline
from universal_ray.stages.models import Models, find_models
from universal_ray.stages.roles.schemas import ROLES
from universal_ray.stages.roles.stage import RolesStage
from universal_ray.stages.roles.summary import TABLE_PATHS
from universal_ray.storage.finished import CORRELATIONS, PROFILE
from universal_ray.storage.finished import ROLES as ROLES_STAGE
from universal_ray.storage.names import ours
from universal_ray.storage.store import Store

pytestmark = pytest.mark.usefixtures("several_shards")


def test_every_file_of_a_run_bears_a_name_of_ours(run):
    assert [path for path in run[1].list() if not ours(path)] == []


def test_the_summary_holds_what_the_docs_say(run):
    """Also what each model is called, and what it is."""
    study, store = run
    summary = store.get_json("tables/summary.json")
    made = (CORRELATIONS, PROFILE, ROLES_STAGE)
    said = {key: told for stage in made for key, told in SUMMARY[stage].items()}
    unsaid, unseen = differences(summary, said)
    assert unsaid == set()
    assert {key.split(".")[0] for key in unseen} == {"followed[]"}
    given = [study.models.reference, *study.models.compared]
    assert [(each["model"], each["given"]) for each in summary["models"]] == [
        (Path(name).name, name) for name in given
    ]


def test_planted_neurons_have_their_roles_and_random_ones_have_none(run, inputs):
    _, store = run
    for model in inputs[0]:
        rows = rows_of(store, "roles", model)
        assert "entropy" in rows[ENTROPY]["roles"]
        assert rows[ENTROPY]["null_share"] > 0.99
        assert "prediction" in rows[PROMOTER]["roles"]
        assert "suppression" in rows[SUPPRESSOR]["roles"]
        assert (rows[PROMOTER]["logit_effect"], rows[SUPPRESSOR]["logit_effect"]) == (
            "promotes", "suppresses",
        )
        assert {rows[place]["logit_class"] for place in (PROMOTER, SUPPRESSOR)} == {"planted_class"}
        assert sum(rows[PROMOTER]["effect_inside"]) >= len(MEMBERS)
        switch = rows[SWITCH]
        assert "attention deactivation" in switch["roles"]
        assert (switch["bos_layer"], switch["bos_head"]) == (SWITCHED_LAYER, SWITCHED_HEAD)
        told = {ENTROPY, PROMOTER, SUPPRESSOR}
        logit = {"prediction", "suppression", "entropy"}
        assert not any(
            logit & set(row["roles"]) for place, row in enumerate(rows) if place not in told
        )
        assert all(set(row["roles"]) <= set(ROLES) for row in rows)


def test_interventions_are_those_of_a_plain_model_with_hooks(run, inputs):
    """Loss and entropy of what is done to single neurons, by hooks on the Hugging Face model in
    float64.
    """
    _, store = run
    reference = inputs[0][0]
    model = load(Path(reference), torch.float64)
    ids = len(AutoTokenizer.from_pretrained(reference))
    tokens = np.asarray(datasets.load_from_disk(inputs[1])["tokens"][:INTERVENED])
    tokens_BP = torch.from_numpy(tokens)
    keep_BP = tokens_BP != 0
    keep_BP[:, -1] = False
    target_BP = tokens_BP.roll(-1, 1)
    become: dict[str, Callable[[Tensor], Tensor]] = {
        "relu": torch.relu, "threshold": lambda x: x.clamp_max(0),
        "sweep_pre": lambda x: torch.full_like(x, -0.4),
    }  # fmt: skip
    checked = Counter[str]()
    for row in rows_of(store, "interventions", reference):
        kind = row["kind"]
        if kind in ("mean", "set") or row["value"] not in (None, 0.0, 6.0):
            continue
        assert row["pre_value"] == (-0.4 if kind == "sweep_pre" else None)
        held = {row["layer"]: {row["neuron"]: row["value"]}} if kind == "sweep" else {}
        read = {row["layer"]: {row["neuron"]: become[kind]}} if kind in become else None
        logits_BPV, scale_BP = hooked_logits(model, tokens_BP, held, read=read)
        log_BPV = logits_BPV[..., :ids].log_softmax(-1)  # padding is never predicted
        loss_BP = -log_BPV.gather(-1, target_BP[..., None])[..., 0]
        entropy_BP = -(log_BPV.exp() * log_BPV).sum(-1)
        for name, value_BP in (("loss", loss_BP), ("entropy", entropy_BP), ("scale", scale_BP)):
            assert row[name] == pytest.approx(float(value_BP[keep_BP].mean()), rel=1e-5), row
            assert row[f"{name}_low"] <= row[name] <= row[f"{name}_high"]
        assert row["tokens"] == int(keep_BP.sum())
        checked[kind] += 1
    each = checked["relu"]
    assert each >= 1 + 3 + 1
    assert checked == {"untouched": 1, "sweep": 2 * each, **dict.fromkeys(become, each)}


def test_the_entropy_neuron_works_through_the_final_scale_alone(run, inputs):
    _, store = run
    rows = rows_of(store, "roles", inputs[0][0])
    assert rows[ENTROPY]["scale_mediated_share"] > 0.99
    controls = [row["scale_mediated_share"] for row in rows
                if row["scale_mediated_share"] is not None and "entropy" not in row["roles"]]
    assert len(controls) >= 3 and max(controls) < 0.9
    sweeps = store.get_json("tables/summary.json")["roles"]["references"][0]["sweeps"]
    assert sweeps["entropy"]["scale"] > sweeps["control"]["scale"]
    assert sweeps["entropy"]["reciprocal_rank"] < sweeps["control"]["reciprocal_rank"]


def test_the_path_of_the_switch_is_ablated_and_told(run, inputs):
    _, store = run
    rows = rows_of(store, "attention", inputs[0][0])
    first = rows[0]
    assert (first["layer"], first["neuron"]) == divmod(SWITCH, WIDTH)
    assert (first["head_layer"], first["head"]) == (SWITCHED_LAYER, SWITCHED_HEAD)
    assert first["corr_activation_bos_change"] < -0.5
    assert first["positions"] == INTERVENED * CONTEXT // 2
    assert len(first["points_bos"]) == len(first["points_activation"]) == INTERVENED * CONTEXT // 2
    heads = rows_of(store, "heads", inputs[0][0])
    assert heads[0]["top_neuron"] is None and heads[0]["neurons"] == 0
    switched = heads[SWITCHED_LAYER * 4 + SWITCHED_HEAD]
    assert switched["top_neuron"][0] == SWITCH
    assert sum(switched["histogram"]) == switched["neurons"] == WIDTH


def test_lists_of_a_head_are_as_long_as_asked_for_its_ends_in_order(run, inputs):
    _, store = run
    source = resolve(inputs[0][0])
    weights, decoder = load_weights(source), load_decoder(source)
    assert weights.query_HCK is not None
    direction_HC = bos_directions(weights.query_HCK, decoder.lone_keys(0))
    score_NH = bos_scores(weights.w_out_NC, direction_HC, weights.layers).numpy()
    for row, score_N in zip(rows_of(store, "heads", inputs[0][0]), score_NH.T, strict=True):
        if row["layer"] == 0:
            assert row["top_deviations"] is None and row["bottom_neuron"] is None
            continue
        assert len(row["top_neuron"]) == LISTED < row["neurons"]
        for end, sign in (("top", -1), ("bottom", 1)):
            order = np.argsort(sign * score_N, kind="stable")[:LISTED]  # NaN comes last
            told = np.array(row[f"{end}_layer"]) * WIDTH + row[f"{end}_neuron"]
            assert told.tolist() == order.tolist()
            expected = score_N[order] / row["null_deviation"]
            np.testing.assert_allclose(row[f"{end}_deviations"], expected, rtol=1e-6)


def test_compositions_over_layers_are_listed_from_either_end(run, inputs):
    """By their definition in float64: of the queries of the heads of later layers."""
    _, store = run
    weights = load_weights(resolve(inputs[0][0]))
    assert weights.query_HCK is not None and weights.key_HCK is not None
    joined_HCC = (weights.query_HCK.double() @ weights.key_HCK.double().transpose(1, 2)).numpy()
    heads = len(joined_HCC) // weights.layers
    for row in rows_of(store, "statistics", inputs[0][0])[::30]:
        lists = "vocab_top", "in_embed_bottom", "token_max"
        assert [len(row[name]) for name in lists] == [LISTED] * len(lists)
        layer = row["layer"]
        w_C = weights.w_out_NC[layer * WIDTH + row["neuron"]].double().numpy()
        first = (layer + 1) * heads
        value_H = np.array([
            np.linalg.norm(w_C @ each_CC) / np.linalg.norm(w_C) / np.linalg.norm(each_CC)
            for each_CC in joined_HCC[first:]
        ])  # fmt: skip
        none = [None] * max(0, LISTED - len(value_H))
        for end, sign in (("top", -1), ("bottom", 1)):
            order = np.argsort(sign * value_H, kind="stable")[:LISTED]
            told = row[f"q_composition_{end}"]
            assert told[len(order) :] == none
            np.testing.assert_allclose(told[: len(order)], value_H[order], rtol=1e-5)
            where = [divmod(each, heads) for each in order + first]
            assert row[f"q_composition_{end}_layer"] == [*(layer for layer, _ in where), *none]
            assert row[f"q_composition_{end}_head"] == [*(head for _, head in where), *none]
        assert row["q_composition"] == (pytest.approx(value_H.max()) if len(value_H) else None)


def test_what_the_study_names_is_told_beside_what_is_chosen_and_marked(run, inputs):
    _, store = run
    reference, other = inputs[0]
    rows = rows_of(store, "roles", reference)
    assert [row["id"] for row in rows if row["named"]] == ["seed-3:0.5", "seed-3:2.11"]
    assert all(rows[place]["effect_inside"] for place in (5, ENTROPY))
    assert not any(row["named"] for row in rows_of(store, "roles", other))
    done = rows_of(store, "interventions", reference)
    groups = {(row["id"], row["group"]) for row in done if row["named"]}
    assert groups == {("seed-3:0.5", "named"), ("seed-3:2.11", "entropy")}
    assert {row["value"] for row in done if row["id"] == "seed-3:0.5"} > {0.0, 6.0}
    assert [row["named"] for row in done if row["kind"] in ("untouched", "set")].count(None) > 2
    paths = {
        (row["layer"], row["neuron"], row["head_layer"], row["head"]): row
        for row in rows_of(store, "attention", reference)
    }
    assert paths[0, 5, 2, 3]["named"] and not paths[0, 7, 1, 2]["named"]
    head = rows_of(store, "heads", reference)[2 * 4 + 1]
    ends = [(head[f"{end}_deviations"][0], head[f"{end}_layer"][0], head[f"{end}_neuron"][0])
            for end in ("top", "bottom")]  # fmt: skip
    deviations, layer, neuron = max(ends, key=lambda each: abs(each[0]))
    furthest = paths[layer, neuron, 2, 1]
    assert furthest["named"] and furthest["deviations"] == pytest.approx(deviations, rel=1e-6)


WRONG: dict[str, dict[Any, str]] = {
    "neurons": {
        "x:0.5": "no reference model is called x: choose from seed-3",
        "seed-4:0.5": "no reference model is called seed-4",
        "3.5": "seed-3 has 3 layers of 96 neurons",
        "0.96": "seed-3 has 3 layers of 96 neurons",
        "0-5": r"names no neuron: write layer\.neuron",
        2.1: "in quotes",
    },
    "paths": {
        "0.5>1.4": "3 layers of 4 heads",
        "0.5>3.0": "3 layers of 4 heads",
        "1.5>1.0": "later layers alone",
        ">0.1": "later layers alone",
        "0.96>1.1": "3 layers of 96 neurons",
        "a:>1.1": "no reference model is called a",
        "0.5": "names no path",
        "0": "at least 1",
        "0.5>1.1>2.2": "names no path",
    },
}


@pytest.fixture(scope="module")
def models(inputs, tmp_path_factory) -> Models:
    """Of every study here, found once."""
    study = make_study(tmp_path_factory.mktemp("found") / "run", *inputs)
    return find_models(study, Store(study.run.dir))


def described(models: Models, study: Study) -> None:
    """The rows of its plan, before any work."""
    store = Store(study.run.dir)
    found = outline(replace(models, study=study), store)
    assert found is not None
    RolesStage.describe(found, store)


def test_a_corpus_of_one_row_is_refused_for_what_it_is(models, inputs, tmp_path):
    paths, _, words = inputs
    row = [0, *range(1, CONTEXT)]
    datasets.Dataset.from_dict({"tokens": [row]}).save_to_disk(tmp_path / "tokens")
    study = make_study(tmp_path / "run", paths, str(tmp_path / "tokens"), words)
    with pytest.raises(ConfigurationError, match=r"the corpus has one row .* leave the roles out"):
        described(models, study)


@pytest.mark.parametrize(
    ("key", "name", "told"),
    [(key, name, told) for key, names in WRONG.items() for name, told in names.items()],
)
def test_a_wrong_name_is_refused_in_a_sentence_before_work(
    models, inputs, tmp_path, key, name, told
):
    study = changed(make_study(tmp_path / "run", *inputs), **{f"roles__{key}": [name]})
    with pytest.raises(ConfigurationError, match=told) as caught:
        described(models, study)
    assert str(name) in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_roles_and_universality_are_columns_of_one_table_and_their_overlap_is_told(run, inputs):
    _, store = run
    reference, other = inputs[0]
    universal = [row["is_universal"] for row in rows_of(store, "roles", reference)]
    neurons = rows_of(store, "neurons", reference)
    assert universal == [bool(row["is_universal"]) for row in neurons] and any(universal)
    assert {row["is_universal"] for row in rows_of(store, "roles", other)} == {None}
    roles = store.get_json("tables/summary.json")["roles"]
    told = roles["references"][0]["overlap"]["prediction"]
    assert told["neurons"] == sum(universal)
    assert roles["models"][0]["roles"]["prediction"]["by_layer"] == [0, 0, 1]
    sets = roles["references"][0]["sets"]
    assert {entry["at"] for entry in sets} == {"zero", "mean"}
    whole = next(entry for entry in sets if entry["layer"] is None)
    assert whole["neurons"] == sum(universal)
    difference = whole["loss_universal"]["mean"] - whole["loss_random"]["mean"]
    assert whole["loss_difference"]["mean"] == pytest.approx(difference, abs=1e-9)


@pytest.mark.thorough
def test_interrupted_and_resumed_has_the_same_bits(run, tmp_path, monkeypatch):
    study, store = run
    folder = copied(Path(store.url).with_name("profiled"), tmp_path / "run")
    again = changed(study, run__dir=str(folder))
    batches = RolesStage.batches

    def cut_short(self, memory):
        for batch in batches(self, memory):
            if batch.name == "interventions":
                # Each counts by how much is done: together all tokens of each shard once.
                plan, counted = self.recipe.plan, sum(task.tokens for task in batch.tasks)
                assert counted == pytest.approx(plan.tokens * len(plan.intervened))
                by_method = {task.method: task.tokens for task in batch.tasks}
                assert by_method["intervene"] > 5 * by_method["ablate"]
                yield replace(batch, tasks=batch.tasks[:1])
                raise KeyboardInterrupt
            yield batch

    with monkeypatch.context() as patch:
        patch.setattr(RolesStage, "batches", cut_short)
        with pytest.raises(KeyboardInterrupt):
            make(again, ROLES_STAGE)
    resumed = make(again, ROLES_STAGE, executor=Disordering())
    for path in TABLE_PATHS:
        assert resumed.get_table(path) == store.get_table(path), path
    kept = {path: resumed.get(path) for path in resumed.list("roles")}
    assert make(again, ROLES_STAGE).get_table(TABLE_PATHS[0]) == store.get_table(TABLE_PATHS[0])
    assert {path: resumed.get(path) for path in resumed.list("roles")} == kept


def test_what_is_missing_or_too_short_is_refused_before_any_model_runs(inputs, tmp_path):
    study = make_study(tmp_path, *inputs)
    with pytest.raises(MissingError, match="holds no tables of profile"):
        make(study, ROLES_STAGE)
    study.roles.tokens = CONTEXT
    with pytest.raises(ConfigurationError, match=r"roles\.tokens"):
        make(study, ROLES_STAGE)
