"""Studies of latents, and of the baseline of other tokens, against plain computations."""

import json

import numpy as np
import pytest
import torch
from helpers_models import make_gpt2
from helpers_study import (
    CONTEXT,
    VOCABULARY,
    computed,
    inputs_of,
    make,
    make_tokens,
    plan_of,
    table_bytes,
)
from helpers_whole import changed, whole_study
from safetensors.torch import save_file

from universal_ray.config.study import Baseline, Exclusion, Study, check
from universal_ray.corpus.rows import open_corpus
from universal_ray.errors import ConfigurationError, MissingError, ModelError
from universal_ray.maths.moments.shift import partners
from universal_ray.models.capture import Capture
from universal_ray.models.site import site_of
from universal_ray.planning.capacity import Footprint
from universal_ray.planning.costs import forward_flops
from universal_ray.planning.items import Model, make_items
from universal_ray.report.run import Run
from universal_ray.report.units import no_neurons
from universal_ray.stages.correlations.stage import CorrelationsStage
from universal_ray.stages.registry import possible
from universal_ray.storage.names import ours
from universal_ray.storage.store import Store

D, ROWS, SILENT = 24, 10, 3
PLACES = ["resid_post of layer 0", "resid_post of layer 1"]


def save(folder, seed: int, model: str, *, hook: str = "hook_resid_post", layers: int = 2):
    """Sparse autoencoders of every layer; one latent never fires."""
    for layer in range(layers):
        torch.manual_seed(10 * seed + layer)
        where = folder / f"layer-{layer}"
        where.mkdir(parents=True)
        metadata = {"hook_name": f"blocks.{layer}.{hook}", "model_name": model}
        (where / "cfg.json").write_text(
            json.dumps({"architecture": "standard", "metadata": metadata})
        )
        weight, bias = torch.randn(8, D), torch.randn(D) - 0.5
        bias[SILENT] = -1000
        save_file({"W_enc": weight, "b_enc": bias, "b_dec": torch.zeros(8)},
                  where / "sae_weights.safetensors")  # fmt: skip


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Study:
    folder = tmp_path_factory.mktemp("latents")
    models = []
    for seed, name in enumerate("ab"):
        models.append(str(make_gpt2(folder / name, seed, width=8, vocabulary=VOCABULARY,
                                    context=CONTEXT)))  # fmt: skip
        save(folder / "saes" / name, seed, name)
    tokens = make_tokens(folder / "tokens", ROWS)
    found = whole_study(folder / "run", models, tokens, models__site=f"sae:{folder}/saes/{{model}}",
                        baseline__kind=Baseline.shifted)  # fmt: skip
    found.units.tokens, found.units.batch = 4 * CONTEXT, 3 * CONTEXT
    return found


def values(study: Study, name: str) -> np.ndarray:
    """Latents [B, P, N] of a model, float64."""
    site = site_of(study.models.site)
    tokens_BP = torch.as_tensor(open_corpus(str(study.corpus.path)).read(0, ROWS))
    found: list[torch.Tensor] = []
    capture = Capture(site.find(name), dtype=torch.float64, sites=[site])
    capture.read(tokens_BP, lambda _, __, x_TD: found.append(x_TD.clone()))
    return torch.cat(found, dim=1).unflatten(0, tokens_BP.shape).numpy()


def correlated(x_TN: np.ndarray, y_TM: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        r_NM = np.corrcoef(x_TN.T, y_TM.T)[: x_TN.shape[1], x_TN.shape[1] :]
    return np.nan_to_num(r_NM, nan=-np.inf)


def best(x_TN: np.ndarray, y_TM: np.ndarray) -> np.ndarray:
    return correlated(x_TN, y_TM).max(1)


def test_latents_and_their_baseline_are_those_of_a_plain_computation(study):
    store = make(study)
    assert [path for path in store.list() if not ours(path)] == []
    rows = store.get_table("tables/pairs.parquet").to_pylist()
    assert {row["site"] for row in rows} == {"sae"}
    assert {row["unit_kind"] for row in rows} == {"latent"}
    x, y = (values(study, name) for name in (study.models.reference, *study.models.compared))
    tokens_BP = torch.as_tensor(open_corpus(str(study.corpus.path)).read(0, ROWS))
    kept_BP = ~torch.isin(tokens_BP, torch.tensor(inputs_of(study).excluded))
    assert 0.9 < kept_BP.double().mean() < 1
    kept_T = kept_BP.flatten().numpy()
    flat = [each.reshape(-1, each.shape[2]) for each in (x, y)]
    chance = []
    site = site_of(study.models.site)
    a, b = (site.find(name) for name in (study.models.reference, *study.models.compared))
    swapped = a.identity > b.identity  # whose tokens are moved
    for drawn in study.baseline.shifts:
        order: list[torch.Tensor] = []
        for start in range(0, ROWS, 4):  # units, and their batches
            for first in range(start, min(start + 4, ROWS), 3):
                part_BP = kept_BP[first : min(first + 3, start + 4, ROWS)]
                order.append(partners(part_BP, drawn) + first * CONTEXT)
        moved_T = torch.cat(order).numpy()
        one = (flat[0][moved_T], flat[1]) if swapped else (flat[0], flat[1][moved_T])
        chance.append([correlated(u[kept_T], v[kept_T]) for u, v in (one, one[::-1])])
    for side, name in enumerate("ab"):
        told = [row for row in rows if row["model"] == name]
        expected = best(flat[side][kept_T], flat[1 - side][kept_T])
        dead = np.ptp(flat[side][kept_T], axis=0) == 0
        assert dead.sum() >= 2 and not dead.all()
        for index, row in enumerate(told):
            if dead[index]:
                assert row["max_corr"] is None
                assert row["null_reason"] == "constant over the kept tokens"
                continue
            assert row["max_corr"] == pytest.approx(expected[index], abs=1e-5)
            drawn = [draw[side][index].max() for draw in chance]
            assert row["baseline_corr"] == pytest.approx(np.mean(drawn), abs=1e-5)
    measured = {
        (row["model"], row["layer"], row["other_layer"]): row["null"]
        for row in store.get_table("tables/similarity.parquet").to_pylist()
        if row["measure"] == "best" and row["other_layer"] is not None
    }
    assert len(measured) == 8
    for (model, layer, other), null in measured.items():
        drawn = []
        for draw in chance:
            r_DE = draw["ab".index(model)][layer * D :, other * D :][:D, :D]
            drawn.append(r_DE.max(1)[np.isfinite(r_DE.max(1))].mean())
        assert null == pytest.approx(np.mean(drawn), abs=1e-5)


def test_a_run_is_known_by_the_content_of_its_latents_and_not_by_their_folder(study, tmp_path):
    import shutil

    inputs = inputs_of(study)
    assert inputs.bits["models.site"] == "sae"
    shutil.copytree(study.models.site.removeprefix("sae:").replace("{model}", ""), tmp_path / "s")
    site = f"sae:{tmp_path}/s/{{model}}"
    models = [study.models.reference, *study.models.compared]
    moved = whole_study(tmp_path / "run", models, str(study.corpus.path), models__site=site)
    again = inputs_of(moved)
    assert [m.identity for m in again.everyone] == [m.identity for m in inputs.everyone]
    assert possible(study.models.site) == ("correlations", "profile", "report")


def test_one_model_with_several_sets_of_latents_has_a_label_for_each(study, tmp_path):
    for seed in range(3):
        save(tmp_path / f"saes/seed{seed}", seed, "a")
    named = [f"{study.models.reference}#seed{seed}" for seed in range(3)]
    site = f"sae:{tmp_path}/saes/{{label}}"
    found = whole_study(tmp_path / "run", named, str(study.corpus.path), models__site=site)
    found.baseline.kind = Baseline.shifted
    store = make(found)
    summary = Run(store).summary
    assert [each["places"] for each in summary["models"]] == 3 * [PLACES]
    assert no_neurons(summary).endswith("of the site sae.")
    rows = store.get_table("tables/pairs.parquet").to_pylist()
    assert {(row["model"], row["other"]) for row in rows} >= {("a#seed0", "a#seed1"),
                                                              ("a#seed0", "a#seed2")}  # fmt: skip
    x, y = (values(found, name) for name in named[:2])
    errors = store.get_table("tables/similarity.parquet")["se"]
    assert errors.null_count == len(errors) > 0  # of one group of tokens
    expected = best(x.reshape(-1, 2 * D), y.reshape(-1, 2 * D))
    told = [row for row in rows if (row["model"], row["other"]) == ("a#seed0", "a#seed1")]
    assert np.median([abs(row["max_corr"] - expected[index]) for index, row in enumerate(told)
                      if row["max_corr"] is not None]) < 0.05  # fmt: skip
    found.models.reference = study.models.reference
    with pytest.raises(ModelError, match=r"has no label where models.site has \{label\}: write it"):
        inputs_of(found)
    found.models.reference, found.models.site = named[0], f"sae:{tmp_path}/saes/seed0"
    with pytest.raises(MissingError, match=r"There is no model .*a#seed0"):
        inputs_of(found)


def test_latents_of_another_model_or_place_are_refused_before_any_model_runs(
    study, tmp_path, monkeypatch
):
    monkeypatch.setattr(Capture, "__init__", None)
    models, tokens = [study.models.reference, *study.models.compared], str(study.corpus.path)
    folder = study.models.site.removeprefix("sae:").replace("{model}", "a")
    of_a = whole_study(tmp_path / "run", models, tokens, models__site=f"sae:{folder}")
    with pytest.raises(ModelError, match=r"is of model 'a', not of .*b': give those of this model"):
        inputs_of(of_a)
    save(tmp_path / "saes/a", 0, "a")
    save(tmp_path / "saes/b", 1, "b", hook="hook_mlp_out")
    site = f"sae:{tmp_path}/saes/{{model}}"
    mixed = whole_study(tmp_path / "run", models, tokens, models__site=site)
    with pytest.raises(ModelError, match=r"read resid_post of layer 0, .* mlp_out of layer 0"):
        inputs_of(mixed)
    mixed.models.site = "sae:"
    with pytest.raises(ConfigurationError, match="names no sparse autoencoders: write sae: and"):
        check(mixed)


def test_neurons_have_the_shifted_baseline_too(study, tmp_path):
    models, tokens = [study.models.reference, *study.models.compared], str(study.corpus.path)
    neurons = whole_study(tmp_path / "run", models, tokens, baseline__kind=Baseline.shifted)
    neurons.corpus.exclude = Exclusion.none
    plan = plan_of(neurons)
    assert len(plan.pairs) == 1 and len(plan.items) == 2 + 1 + 2
    rows = make(neurons).get_table("tables/pairs.parquet").to_pylist()
    assert all(-1 < row["baseline_corr"] < 1 for row in rows)


def test_a_batch_of_too_few_rows_for_its_draws_is_told(study, tmp_path):
    def told() -> str:
        found = inputs_of(few)
        return dict(CorrelationsStage.describe(found, Store(few.run.dir)))["baseline"]

    few = changed(study, run__dir=str(tmp_path / "run"), units__batch=3 * CONTEXT)
    assert told() == "2 shifts of tokens, each as long as the correlations"
    few.baseline.rotations = 4
    assert "each as long as the correlations, of which only 2 are unlike among the 3 rows" in told()
    few.units.batch = CONTEXT + 1
    with pytest.raises(ConfigurationError, match=r"which is of one row of 32 tokens: raise u"):
        told()


def test_layers_of_coders_of_some_layers_are_told_to_be_those(study, tmp_path):
    found = changed(study, run__dir=str(tmp_path), models__site=f"{study.models.site}/layer-1")
    told = dict(CorrelationsStage.describe(inputs_of(found), Store(str(tmp_path))))
    assert told["read by layer"] == PLACES[1] == "resid_post of layer 1"
    (one, _) = inputs_of(found).everyone
    assert (one.layers, one.places) == (1, (PLACES[1],))
    summary = {"unit_kind": "latent", "site": "sae", "models": [{"places": one.places}]}
    assert no_neurons(summary).endswith("sae. Of these, layer 0 reads resid_post of layer 1.")


@pytest.mark.thorough
def test_of_another_baseline_only_what_is_new_is_summed(study, tmp_path):
    expected = table_bytes(make(study))

    def summed(**changes) -> set[str]:
        """Items of new sums, without their models."""
        before = len(computed(store)) if store.exists("metrics.jsonl") else 0
        make(changed(study, run__dir=store.url, **changes))
        lines = store.get("metrics.jsonl").decode().splitlines()[before:]
        return {item.split("-")[0] for line in lines for item in json.loads(line)["items"]}

    store = Store(str(tmp_path / "run"))
    assert summed(baseline__kind=Baseline.gaussian) == {"model", "pair"}
    rotated = table_bytes(store)
    assert summed(baseline__rotations=1) == {"shifted0.0"}
    assert summed() == {"shifted0.1"}
    assert table_bytes(store) == expected
    assert summed(baseline__seed=1) == {"shifted1.0", "shifted1.1"}
    assert table_bytes(store) != expected
    assert summed(baseline__kind=Baseline.gaussian) == set()
    assert table_bytes(store) == rotated
    old = next(path for path in store.list("moments/") if "shifted0.1" in path and "done" in path)
    marker = json.loads(store.get(old))
    del marker["of"]["shift"]  # as of draws that were of other tokens
    store.put(old, json.dumps(marker).encode())
    assert summed() == {"shifted0.1"}
    assert table_bytes(store) == expected


def wide(name: str, reads: int) -> Model:
    return Model(name=name, given=name, identity=name * 16, layers=12, width=24_576, d_model=768,
                 d_mlp=3072, reads=reads, signed=False)  # fmt: skip


def test_wide_latents_are_planned_within_a_workers_memory_with_their_encoders():
    from universal_ray.config.study import Device, Pairs, Policy

    footprint = Footprint(4096, Device.cuda, Policy.fp16)
    memory = 80 * 2**30
    models = [wide("aaaa", 768), wide("bbbb", 768)]
    items = make_items([models], Pairs.reference, ("0.0",))
    groups = footprint.groups(items, memory)
    held = {}
    for group in groups:
        for parts in group:
            assert footprint.bytes_of(parts) <= 0.9 * memory
            for part in parts:
                held.setdefault(part.item.key, []).extend(range(part.start, part.stop))
    assert held == {item.key: list(range(12)) for item in items}
    encoders = 4 * 12 * 24_576 * 768
    without = footprint.model_bytes(wide("aaaa", 0))
    assert footprint.model_bytes(models[0]) - without == encoders
    assert footprint.working_bytes(models) > footprint.working_bytes([wide("aaaa", 0)])
    more = forward_flops(models[0], 512) - forward_flops(wide("aaaa", 0), 512)
    assert more == 2 * 12 * 24_576 * 768
    with pytest.raises(ConfigurationError, match=r"one layer of aaaa and bbbb takes .* GiB"):
        footprint.groups(items, 16 * 2**30)
