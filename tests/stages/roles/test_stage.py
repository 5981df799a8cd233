"""The whole of the roles on planted models, as a study runs it: what was planted is found."""

from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import pyarrow.compute as pc
import pytest
import torch
import yaml
from helpers_planted import (
    ENTROPY,
    MEMBERS,
    PROMOTER,
    SUPPRESSOR,
    SWITCH,
    SWITCHED_HEAD,
    SWITCHED_LAYER,
    WIDTH,
    plant,
)
from helpers_roles import hooked_logits, load
from helpers_stages import Sending
from transformers import AutoTokenizer

from universal_ray.config.study import (
    BaselineConfig,
    ClusterConfig,
    CorpusConfig,
    ModelsConfig,
    RolesConfig,
    RunConfig,
    Study,
    TaxonomyConfig,
    UnitsConfig,
    UniversalConfig,
)
from universal_ray.errors import ConfigurationError, MissingError
from universal_ray.planning.items import marker
from universal_ray.runtime import driver
from universal_ray.runtime.scheduler import Scheduler
from universal_ray.stages.correlations.stage import CorrelationStage
from universal_ray.stages.inputs import prepare
from universal_ray.stages.profile.stage import ProfileStage
from universal_ray.stages.roles import plan as roles_plan
from universal_ray.stages.roles import stage as roles_stage
from universal_ray.stages.roles.assemble import PATHS, shard_folder
from universal_ray.stages.roles.schemas import ROLES
from universal_ray.stages.roles.stage import RolesStage
from universal_ray.storage import checked
from universal_ray.storage.names import ours
from universal_ray.storage.store import Store

CONTEXT, ROWS, INTERVENED = 32, 240, 16
CANDIDATES = 2


def make_study(folder: Path, models: list[str], tokens: str, words: str) -> Study:
    return Study(
        run=RunConfig(dir=str(folder)),
        models=ModelsConfig(reference=models[0], compared=models[1:]),
        corpus=CorpusConfig(path=tokens),
        units=UnitsConfig(tokens=60 * CONTEXT, batch=30 * CONTEXT, fold=2),
        cluster=ClusterConfig(workers=1),
        baseline=BaselineConfig(rotations=2),
        universal=UniversalConfig(threshold=0.02),
        taxonomy=TaxonomyConfig(
            topics=2, unigram_ids=0, unigram_occurrences=1, minimum_support=5, syntax=None,
            words=[words],
        ),
        roles=RolesConfig(
            tokens=INTERVENED * CONTEXT, candidates=CANDIDATES, controls=3, sets=2, paths=2,
            null_share=0.8,
        ),
    )  # fmt: skip


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """Two planted models, random tokens, and a list of what the promoter writes."""
    folder = tmp_path_factory.mktemp("roles")
    models = [str(plant(folder / f"seed-{seed}", seed)) for seed in (3, 4)]
    rng = np.random.default_rng(0)
    tokenizer = AutoTokenizer.from_pretrained(models[0])
    tokens_BP = rng.integers(1, len(tokenizer), (ROWS, CONTEXT))  # beyond it ids are padding
    tokens_BP[:, 0] = 0
    datasets.Dataset.from_dict({"tokens": tokens_BP.tolist()}).save_to_disk(str(folder / "tokens"))
    texts = [tokenizer.decode([index]) for index in MEMBERS]
    words = folder / "words.yaml"
    feature = {"description": "ids that were planted", "words": texts}
    words.write_text(yaml.safe_dump(
        {"family": "planted", "match": "case", "features": {"planted_class": feature}}
    ))
    return models, str(folder / "tokens"), str(words)


def stages(study: Study, store: Store) -> list:
    prepared = prepare(study, store)
    return [
        CorrelationStage(prepared, store),
        ProfileStage(prepared, store),
        RolesStage(prepared, store),
    ]


def run_all(study: Study, chosen: slice = slice(None)) -> Store:
    store = Store(study.run.dir)
    driver.run(lambda: stages(study, store)[chosen], store, Sending())
    return store


def run_roles_on_ray(study: Study) -> Store:
    store = Store(study.run.dir)
    driver.run(lambda: stages(study, store)[2:], store, Scheduler(study.cluster))
    return store


@pytest.fixture(scope="module", autouse=True)
def several_shards():
    """Of four rows each, where so few would be one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("universal_ray.stages.roles.plan.SHARD_TOKENS", 4 * CONTEXT)
        yield


@pytest.fixture(scope="module")
def run(inputs, tmp_path_factory):
    study = make_study(tmp_path_factory.mktemp("run"), *inputs)
    return study, run_all(study)


def test_every_file_of_a_run_bears_a_name_of_ours(run):
    assert [path for path in run[1].list() if not ours(path)] == []


def rows_of(store: Store, table: str, model: str) -> list[dict]:
    found = store.get_table(f"tables/{table}.parquet")
    return found.filter(pc.equal(found["model"], model)).to_pylist()


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
    """Loss and entropy of every sweep, by hooks on the Hugging Face model in float64."""
    _, store = run
    reference = inputs[0][0]
    model = load(Path(reference), torch.float64)
    ids = len(AutoTokenizer.from_pretrained(reference))
    tokens = np.asarray(datasets.load_from_disk(inputs[1])["tokens"][:INTERVENED])
    tokens_BP = torch.from_numpy(tokens)
    keep_BP = tokens_BP != 0
    keep_BP[:, -1] = False
    target_BP = tokens_BP.roll(-1, 1)
    checked = 0
    for row in rows_of(store, "interventions", reference):
        if row["kind"] not in ("untouched", "sweep") or row["value"] not in (None, 0.0, 6.0):
            continue
        held = {} if row["neuron"] is None else {row["layer"]: {row["neuron"]: row["value"]}}
        logits_BPV, scale_BP = hooked_logits(model, tokens_BP, held)
        log_BPV = logits_BPV[..., :ids].log_softmax(-1)  # padding is never predicted
        loss_BP = -log_BPV.gather(-1, target_BP[..., None])[..., 0]
        entropy_BP = -(log_BPV.exp() * log_BPV).sum(-1)
        for name, value_BP in (("loss", loss_BP), ("entropy", entropy_BP), ("scale", scale_BP)):
            assert row[name] == pytest.approx(float(value_BP[keep_BP].mean()), rel=1e-5), row
            assert row[f"{name}_low"] <= row[name] <= row[f"{name}_high"]
        assert row["tokens"] == int(keep_BP.sum())
        checked += 1
    assert checked >= 1 + 2 * (1 + 3)


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


def test_what_was_stored_with_another_meaning_is_not_taken_for_this(run, monkeypatch):
    study, store = run

    def places() -> list[str]:
        stage = stages(study, store)[2]
        model, stage._folders = stage.order.models[0], set()
        scores = stage.order.scores_path(model)
        if not store.exists(scores):
            checked.put_tensors(store, scores, tensors)
        sums = shard_folder(stage._declared(model)[1], 0)
        return [scores, stage.order.responses_path(model, 0), marker(sums)]

    now = places()
    assert all(map(store.exists, now))
    tensors = store.get_tensors(now[0])
    for module in (roles_plan, roles_stage):
        monkeypatch.setattr(module, "MEANING", roles_plan.MEANING + 1)
    other = places()
    store.delete(other[0])
    assert not any(map(store.exists, other))


def test_interrupted_and_resumed_has_the_same_bits(run, inputs, tmp_path, monkeypatch):
    _, store = run
    again = make_study(tmp_path, *inputs)
    again.cluster.workers = 2
    run_all(again, slice(2))
    batches = RolesStage.batches

    def cut_short(self, memory):
        for batch in batches(self, memory):
            if batch.name == "interventions":
                yield replace(batch, tasks=batch.tasks[:1])
                raise KeyboardInterrupt
            yield batch

    with monkeypatch.context() as patch:
        patch.setattr(RolesStage, "batches", cut_short)
        with pytest.raises(KeyboardInterrupt):
            run_all(again, slice(2, 3))
    resumed = run_roles_on_ray(again)
    for path in PATHS:
        assert resumed.get_table(path) == store.get_table(path), path
    kept = {path: resumed.get(path) for path in resumed.list("roles")}
    assert run_all(again, slice(2, 3)).get_table(PATHS[0]) == store.get_table(PATHS[0])
    assert {path: resumed.get(path) for path in resumed.list("roles")} == kept


def test_what_is_missing_or_too_short_is_refused_before_any_model_runs(inputs, tmp_path):
    study = make_study(tmp_path, *inputs)
    with pytest.raises(MissingError, match="holds no profile"):
        run_all(study, slice(2, 3))
    study.roles.tokens = CONTEXT
    with pytest.raises(ConfigurationError, match=r"roles\.tokens"):
        run_all(study, slice(2, 3))
