"""A whole study against float64 computations on the raw activations."""

from itertools import combinations
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from helpers_study import (
    CONTEXT,
    DEAD,
    LAYERS,
    WIDTH,
    inputs_of,
    make,
    make_models,
    make_study,
    make_tokens,
    plan_of,
)
from helpers_study import true_activations as activations
from scipy import stats
from scipy.optimize import linear_sum_assignment

from universal_ray.config.similarity import Measure
from universal_ray.config.study import Pairs
from universal_ray.maths.moments.accumulate import merge
from universal_ray.maths.moments.correlation import centred_cross, correlation, neuron_moments
from universal_ray.maths.moments.rotation import rotation
from universal_ray.planning.items import Item
from universal_ray.stages.correlations.folding import groups
from universal_ray.storage.store import Store

NEURONS, DENSE = LAYERS * 4 * WIDTH, 4 * WIDTH


class Truth:
    """Raw activations over the kept tokens, and everything made from them."""

    def __init__(self, paths, tokens):
        tokens_BP = np.array(datasets.load_from_disk(tokens)["tokens"])
        flat = tokens_BP.flatten()
        newline = 0
        from transformers import AutoTokenizer

        encoded = AutoTokenizer.from_pretrained(paths[0]).encode("\n")
        newline = encoded[0] if len(encoded) == 1 else 0
        self.kept = (flat != 0) & (flat != newline)
        self.x = {Path(path).name: activations(path, tokens_BP)[self.kept] for path in paths}

    def r(self, model, other):
        with np.errstate(invalid="ignore", divide="ignore"):
            matrix = np.corrcoef(self.x[model].T, self.x[other].T)
        return matrix[:NEURONS, NEURONS:]


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("truth")
    paths, tokens = make_models(folder), make_tokens(folder / "tokens")
    study = make_study(folder / "run", paths, tokens)
    study.models.pairs = Pairs.all
    study.similarity.measures = [Measure.cka]
    return study, make(study), Truth(paths, tokens)


def rows_of(store, model, other):
    table = store.get_table("tables/pairs.parquet").to_pylist()
    return [row for row in table if row["model"] == model and row["other"] == other]


def names_of(study):
    return [Path(name).name for name in (study.models.reference, *study.models.compared)]


def directions(study):
    names = names_of(study)
    return [(a, b) for a in names for b in names if a != b]


def test_every_correlation_of_every_pair(study):
    config, store, truth = study
    planned = plan_of(config)
    layout = planned.layout
    for pair in planned.pairs:
        moments = []
        for model in pair.models:
            item = Item((model,))
            moments.append(
                neuron_moments(
                    [merge(groups(store, layout, item, k)) for k in range(LAYERS)], "fp32"
                )
            )
        cross = torch.cat(
            [merge(groups(store, layout, pair, k))["cross"] for k in range(LAYERS)]
        )
        ours = correlation(
            centred_cross(cross, *moments, first=0), *moments, first=0, policy="fp32"
        ).numpy()
        true = truth.r(pair.models[0].name, pair.models[1].name)
        np.testing.assert_allclose(ours, true, atol=1e-6, rtol=0)
        assert np.isnan(true).any() == any(m.name == "a" for m in pair.models)


def test_extremes_partners_and_moments_in_both_directions(study):
    config, store, truth = study
    for model, other in directions(config):
        r = truth.r(model, other)
        alive = ~np.isnan(r).all(0)
        for row, true in zip(rows_of(store, model, other), r, strict=True):
            if row["null_reason"]:
                assert np.isnan(true).all()
                continue
            live = true[alive]
            order = np.argsort(-np.where(alive, true, -np.inf), kind="stable")[:50]
            assert row["max_corr"] == pytest.approx(live.max(), abs=1e-6)
            assert row["max_layer"] * DENSE + row["max_neuron"] == order[0]
            assert row["min_corr"] == pytest.approx(live.min(), abs=1e-6)
            worst = np.nanargmin(true)
            place = row["layer"] * DENSE + row["neuron"]
            for name, column in (("diag_corr", place), ("obo_corr", place + 1)):
                value = true[column] if column < NEURONS else np.nan
                expected = None if np.isnan(value) else pytest.approx(value, abs=1e-6)
                assert row[name] == expected, (name, place)
            assert row["min_layer"] * DENSE + row["min_neuron"] == worst
            np.testing.assert_allclose(row["top_corr"], true[order], atol=1e-6)
            found = np.array(row["top_layer"]) * DENSE + np.array(row["top_neuron"])
            # Two that differ by less than rounding may change places.
            np.testing.assert_allclose(true[found], true[order], atol=2e-7)
            assert len(set(found)) == 50
            np.testing.assert_allclose(row["bottom_corr"], np.sort(live)[:50], atol=1e-6)
            assert row["corr_mean"] == pytest.approx(live.mean(), abs=1e-7)
            assert row["corr_var"] == pytest.approx(live.var(), rel=1e-4)
            assert row["corr_skew"] == pytest.approx(stats.skew(live), abs=1e-4)
            assert row["corr_kurt"] == pytest.approx(stats.kurtosis(live, fisher=False), abs=1e-3)
            edges = np.concatenate([[-np.inf], np.linspace(-1, 1, 100), [np.inf]])
            counts = np.histogram(-live, -edges[::-1])[0][::-1]
            assert np.abs(np.array(row["hist"]) - counts).sum() <= 2  # one at an edge may move
            assert sum(row["hist"]) == alive.sum()
            index = row["layer"] * DENSE + row["neuron"]
            if not np.isnan(true[index]):
                assert row["diag_corr"] == pytest.approx(true[index], abs=1e-6)


def test_mutual_partners(study):
    config, store, truth = study
    for model, other in directions(config):
        r = np.nan_to_num(truth.r(model, other), nan=-9)
        forth, back = r.argmax(1), r.argmax(0)
        for index, row in enumerate(rows_of(store, model, other)):
            if row["null_reason"] is None:
                assert row["mutual"] == (back[forth[index]] == index)


def test_the_matching_has_the_largest_sum_over_the_best_of_either_side(study):
    config, store, truth = study
    names = names_of(config)
    for model, other in combinations(names, 2):
        r = np.nan_to_num(truth.r(model, other), nan=-9)
        listed = np.zeros_like(r)  # a pair of nobody is worth nothing
        for axis in (0, 1):
            best = np.argsort(-r, axis=axis, kind="stable").take(range(50), axis)
            np.put_along_axis(listed, best, np.take_along_axis(r, best, axis).clip(0), axis)
        largest = listed[linear_sum_assignment(listed, maximize=True)].sum()
        forth, back = rows_of(store, model, other), rows_of(store, other, model)
        pairs = [
            (place, row["assigned_layer"] * DENSE + row["assigned_neuron"])
            for place, row in enumerate(forth) if row["assigned_corr"] is not None
        ]  # fmt: skip
        assert sum(r[pair] for pair in pairs) == pytest.approx(largest, abs=1e-4)
        assert {(b, a) for a, b in pairs} == {
            (place, row["assigned_layer"] * DENSE + row["assigned_neuron"])
            for place, row in enumerate(back) if row["assigned_corr"] is not None
        }  # fmt: skip
        assert len(dict(pairs)) == len({b for _, b in pairs}) == len(pairs) > NEURONS / 2
        for a, b in pairs:
            assert forth[a]["assigned_corr"] == pytest.approx(r[a, b], abs=1e-6)
    assert rows_of(store, names[0], names[1])[DEAD]["assigned_neuron"] is None


def test_anchors_are_further_models_whose_partners_agree(study):
    config, store, truth = study
    names = names_of(config)
    best = {(a, b): np.nan_to_num(truth.r(a, b), nan=-9).argmax(1) for a, b in directions(config)}
    for model, other in directions(config):
        (third,) = set(names) - {model, other}
        for place, row in enumerate(rows_of(store, model, other)):
            if row["null_reason"]:
                assert row["anchors"] is None
                continue
            ring = [place]
            for a, b in ((model, other), (other, third), (third, model)):
                ring.append(best[a, b][ring[-1]])
            _, partner, further, _ = ring
            mutual = (
                ring[3] == place and best[other, model][partner] == place
                and best[third, other][further] == partner and best[model, third][place] == further
            )  # fmt: skip
            assert row["anchors"] == mutual, (model, other, place)


def test_alignment_of_layers_is_that_of_kernels_of_tokens(study):
    config, store, truth = study
    table = store.get_table("tables/similarity.parquet").to_pylist()
    kernels = {}
    for model in names_of(config):
        for layer in range(LAYERS):
            x = truth.x[model][:, layer * DENSE : (layer + 1) * DENSE]
            x = x - x.mean(0)
            kernel = x @ x.T
            kernels[model, layer] = kernel / np.linalg.norm(kernel)
    layers = [row for row in table if row["other_layer"] is not None]
    assert len(layers) == 6 * LAYERS**2 and {row["measure"] for row in table} == {"cka"}
    for row in layers:
        mine = kernels[row["model"], row["layer"]]
        theirs = kernels[row["other"], row["other_layer"]]
        assert row["value"] == pytest.approx(np.vdot(mine, theirs), rel=1e-5)
        chance = mine.trace() * theirs.trace()
        assert row["null"] == pytest.approx(chance / (len(mine) - 1), abs=5 * row["null_se"])


def test_baseline_equals_rotating_the_raw_activations(study):
    config, store, truth = study
    identities = {Path(s.name).name: key for key, s in inputs_of(config).sources.items()}
    for model, other in directions(config):
        x = truth.x[model]
        best = np.full((3, NEURONS), -np.inf)
        for layer in range(LAYERS):
            v = truth.x[other][:, layer * DENSE : (layer + 1) * DENSE]
            for draw in range(3):
                R = rotation(
                    "gaussian",
                    seed=0,
                    identity=identities[other],
                    layer=layer,
                    draw=draw,
                    width=DENSE,
                ).numpy()
                with np.errstate(invalid="ignore", divide="ignore"):
                    r = np.corrcoef(x.T, (v @ R.T).T)[:NEURONS, NEURONS:]
                best[draw] = np.maximum(best[draw], r.max(1))
        for index, row in enumerate(rows_of(store, model, other)):
            if row["null_reason"] is None:
                np.testing.assert_allclose(row["baseline_draws"], best[:, index], atol=1e-6)
                assert row["baseline_corr"] == pytest.approx(best[:, index].mean(), abs=1e-6)
                spread = best[:, index].std(ddof=1) / 3**0.5
                assert row["baseline_se"] == pytest.approx(spread, abs=1e-6)


def test_standard_error_is_the_jackknife_over_blocks(study):
    config, store, truth = study
    model, other = directions(config)[0]
    kept = truth.kept.reshape(-1, CONTEXT).sum(1)
    sizes = [kept[start : start + 16].sum() for start in range(0, 97, 16)]
    ends = np.cumsum([0, *sizes])
    x, y, n = truth.x[model], truth.x[other], ends[-1]
    rows = [row for row in rows_of(store, model, other) if row["null_reason"] is None][:8]
    for row in rows:
        i = row["layer"] * DENSE + row["neuron"]
        j = row["max_layer"] * DENSE + row["max_neuron"]
        left = []
        for g in range(len(sizes)):
            rest = np.r_[0 : ends[g], ends[g + 1] : n]
            left.append(np.corrcoef(x[rest, i], y[rest, j])[0, 1])
        h = n / np.array(sizes)
        whole = np.corrcoef(x[:, i], y[:, j])[0, 1]
        estimate = len(h) * whole - ((1 - 1 / h) * left).sum()
        pseudo = h * whole - (h - 1) * np.array(left)
        error = np.sqrt(np.mean((pseudo - estimate) ** 2 / (h - 1)))
        assert row["corr_se"] == pytest.approx(error, rel=1e-3)


def test_neuron_table_follows_from_the_pairs(study):
    config, store, _ = study
    names = names_of(config)
    neurons = store.get_table("tables/neurons.parquet").to_pylist()
    assert len(neurons) == 3 * NEURONS
    for model in names:
        others = [rows_of(store, model, other) for other in names if other != model]
        mine = [row for row in neurons if row["model"] == model]
        for row, pairs in zip(mine, zip(*others, strict=True), strict=True):
            if row["null_reason"]:
                continue
            best = [pair["max_corr"] for pair in pairs]
            rotated = [pair["baseline_corr"] for pair in pairs]
            assert row["excess_corr"] == pytest.approx(np.mean(best) - np.mean(rotated), abs=1e-12)
            assert row["is_universal"] == (row["excess_corr"] > 0.5)
            assert (row["max_corr"], row["min_corr"]) == (max(best), min(best))
            errors = [pair["baseline_se"] for pair in pairs]
            assert row["baseline_se"] == pytest.approx(np.linalg.norm(errors) / 2, abs=1e-12)


def test_dead_neuron_is_null_with_its_reason_and_counted(study):
    config, store, truth = study
    a, b, _ = names_of(config)
    row = rows_of(store, a, b)[DEAD]
    assert row["null_reason"] == "constant over the kept tokens"
    assert [row[name] for name in ("max_corr", "top_corr", "hist", "baseline_corr", "mutual")] == [
        None
    ] * 5
    assert (row["n"], row["n_excluded"]) == (truth.kept.sum(), (~truth.kept).sum())
    summary = Store(config.run.dir).get_json("tables/summary.json")["references"]
    assert [entry["neurons_without_correlation"] for entry in summary] == [1, 0, 0]
    assert [entry["reasons_without_correlation"] for entry in summary] == [
        {"constant over the kept tokens": 1}, {}, {}
    ]
