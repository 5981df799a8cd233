"""Measures of whole layers in a finished run, against float64 on the raw activations.

Shapes: T tokens, D neurons of a layer.
"""

from collections import defaultdict
from itertools import pairwise, permutations, product
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import pytest
import torch
from helpers_study import CONTEXT, inputs_of, make, true_activations
from helpers_whole import copied, whole_run
from scipy.optimize import linear_sum_assignment
from transformers import AutoTokenizer

from universal_ray.config.similarity import Measure
from universal_ray.maths.moments.rotation import rotation
from universal_ray.maths.similarity.measures import MEASURES
from universal_ray.maths.similarity.subspaces import LEADING, RESOLVED
from universal_ray.stages.correlations.partners import NOBODY, anchors
from universal_ray.storage.finished import PAIRS_PATH, SIMILARITY_PATH
from universal_ray.storage.store import Store

LAYERS, WIDTH, DRAWS = 2, 32, 2
ENDS = (0, 10, 12)
"""Rows of the block, and of the unit after it."""
EXACT = {"cka", "procrustes", "best", "matching"}


@pytest.fixture(scope="module")
def run(once):
    """The table of a finished run, raw activations [T, D] by model and layer, the rows that tokens
    are of, and what rotations are seeded by.
    """
    study, _ = whole_run(once)
    paths = [study.models.reference, *study.models.compared]
    tokens = np.array(datasets.load_from_disk(study.corpus.path)["tokens"])
    newline = AutoTokenizer.from_pretrained(paths[0]).encode("\n")
    kept = ~np.isin(tokens.flatten(), [0, *(newline if len(newline) == 1 else ())])
    x = {}
    for path in paths:
        every = true_activations(path, tokens)[kept]
        for layer in range(LAYERS):
            x[Path(path).name, layer] = every[:, layer * WIDTH : (layer + 1) * WIDTH]
    rows = np.repeat(np.arange(len(tokens)), CONTEXT)[kept]
    identity = {Path(each.name).name: key for key, each in inputs_of(study).sources.items()}
    table = Store(study.run.dir).get_table(SIMILARITY_PATH).to_pandas()
    return table, x, rows, identity


def of_layers(table, *measures):
    """Rows of two layers, as (model and layer, other and layer, row)."""
    kept = table[table["other_layer"].notna() & table["measure"].isin(measures)]
    for row in kept.to_dict("records"):
        yield (row["model"], row["layer"]), (row["other"], int(row["other_layer"])), row


def principal(x_TD):
    """Scores of the components that count, and how many lead."""
    u, s, _ = np.linalg.svd(x_TD - x_TD.mean(0), full_matrices=False)
    kept = s**2 > RESOLVED * (s**2).mean()
    share = (s[kept] ** 2).cumsum() / (s[kept] ** 2).sum()
    return (u * s)[:, kept], int((share < LEADING).sum()) + 1


def correlated(x_TD, y_TE):
    return np.corrcoef(x_TD.T, y_TE.T)[: x_TD.shape[1], x_TD.shape[1] :]


def matched(r):
    return linear_sum_assignment(r, maximize=True)


def partly(r, worth):
    rows, columns = matched((r - worth).clip(0))
    return (r[rows, columns] > worth).mean()


def of_neurons(r, worth):
    forth, back = r.argmax(1), r.argmax(0)
    return {
        "best": r.max(1).mean(), "mutual": (back[forth] == np.arange(len(r))).mean(),
        "matching": r[matched(r)].mean(), "partial": partly(r, worth),
    }  # fmt: skip


def of_subspaces(x_TD, y_TE):
    x, y = x_TD - x_TD.mean(0), y_TE - y_TE.mean(0)
    (a, leading), (b, others) = principal(x), principal(y)
    (q, _), (p, _) = np.linalg.qr(a), np.linalg.qr(b)
    u, r, _ = np.linalg.svd(q.T @ p, full_matrices=False)
    weights = np.abs((q @ u).T @ x).sum(1)
    first = np.linalg.svd(q[:, :leading].T @ p[:, :others], compute_uv=False)
    nuclear = np.linalg.svd(a.T @ b, compute_uv=False).sum()
    left = ((b - a @ np.linalg.lstsq(a, b)[0]) ** 2).sum()
    return {
        "cka": ((x.T @ y) ** 2).sum() / np.linalg.norm(x.T @ x) / np.linalg.norm(y.T @ y),
        "svcca": first.mean(), "pwcca": (weights * r).sum() / weights.sum(),
        "procrustes": nuclear / np.linalg.norm(a) / np.linalg.norm(b),
        "regression": 1 - left / (b**2).sum(),
    }  # fmt: skip


def rotated(x, identity, mine, other):
    """Correlations of a layer's neurons with every draw of the other rotated."""
    for draw in range(DRAWS):
        turn = rotation("gaussian", seed=0, identity=identity[other[0]], layer=other[1], draw=draw,
                        width=WIDTH).numpy()  # fmt: skip
        yield correlated(x[mine], x[other] @ turn.T)


def worth_of(x, identity, mine, other):
    ways = [*rotated(x, identity, mine, other), *rotated(x, identity, other, mine)]
    return np.mean([r.max(1).mean() for r in ways])


def by_layers(table, *measures):
    """Rows of two layers, by both."""
    found = defaultdict(list)
    for mine, other, row in of_layers(table, *measures):
        found[mine, other].append(row)
    return found.items()


def test_every_measure_is_that_of_the_activations(run):
    table, x, _, identity = run
    seen = set()
    for (mine, other), rows in by_layers(table, *MEASURES):
        worth = worth_of(x, identity, mine, other)
        true = of_subspaces(x[mine], x[other]) | of_neurons(correlated(x[mine], x[other]), worth)
        for row in rows:
            near = 1e-5 if row["measure"] in EXACT else 2e-3
            if row["measure"] in ("mutual", "partial"):
                near = 1.01 / WIDTH  # one that is as good as another
            assert row["value"] == pytest.approx(true[row["measure"]], abs=near), row
            seen.add((mine, other, row["measure"]))
    places = list(product("ab", range(LAYERS)))
    assert seen == {(a, b, name) for a in places for b in places if a[0] != b[0]
                    for name in MEASURES}  # fmt: skip


def test_what_chance_gives_of_neurons_is_that_of_rotated_activations(run):
    table, x, _, identity = run
    for (mine, other), rows in by_layers(table, "best", "mutual", "matching", "partial"):
        worth = worth_of(x, identity, mine, other)
        drawn = [of_neurons(r, worth) for r in rotated(x, identity, mine, other)]
        for row in rows:
            true = [each[row["measure"]] for each in drawn]
            near = 1e-5 if row["measure"] in EXACT else 1.01 / WIDTH
            np.testing.assert_allclose(row["null_draws"], true, atol=near)
            assert row["null"] == pytest.approx(np.mean(row["null_draws"]))
            spread = np.std(row["null_draws"], ddof=1) / DRAWS**0.5
            assert row["null_se"] == pytest.approx(spread) and row["null_kind"] == "rotation"
    tokens = table[~table["measure"].isin(["best", "mutual", "matching", "partial"])]
    assert set(tokens["null_kind"]) == {"tokens"} and (tokens["value"] > tokens["null"]).all()


def test_errors_leave_out_groups_of_tokens_one_by_one(run):
    table, x, rows, _ = run
    inside = [(rows >= a) & (rows < b) for a, b in pairwise(ENDS)]
    for mine, other, row in of_layers(table, "cka", "regression", "best", "matching"):
        name = row["measure"]
        held = matched(correlated(x[mine], x[other]))

        def value(kept, mine=mine, other=other, name=name, held=held):
            if name in ("cka", "regression"):
                return of_subspaces(x[mine][kept], x[other][kept])[name]
            r = correlated(x[mine][kept], x[other][kept])
            return r[held].mean() if name == "matching" else r.max(1).mean()

        h = len(rows) / np.array([each.sum() for each in inside])
        whole, left = value(rows >= 0), np.array([value(~each) for each in inside])
        estimate = len(h) * whole - ((1 - 1 / h) * left).sum()
        error = np.sqrt(np.mean((h * whole - (h - 1) * left - estimate) ** 2 / (h - 1)))
        assert row["se"] == pytest.approx(error, rel=0.02, abs=1e-5), row


def test_the_best_layer_has_what_chance_gives_of_the_best_of_as_many(run):
    table, *_ = run
    keys = ["model", "other", "measure", "layer"]
    for key, own in table.groupby(keys):
        best, layers = own[own["other_layer"].isna()], own[own["other_layer"].notna()]
        assert len(best) == 1 and len(layers) == LAYERS
        (found,) = best.to_dict("records")
        chosen = layers.loc[layers["value"].idxmax()]
        assert (found["value"], found["se"]) == (chosen["value"], chosen["se"]), key
        draws = np.stack(layers["null_draws"].to_list()).max(0)
        np.testing.assert_array_equal(found["null_draws"], draws)
        assert found["null"] == pytest.approx(draws.mean())
        assert found["null"] >= layers["null"].max()
    assert not table.duplicated([*keys, "other_layer"]).any()


def test_a_study_that_asks_for_no_measure_has_none_and_the_rest_as_it_was(once, tmp_path):
    study, _ = whole_run(once)
    before = Store(study.run.dir)
    study.run.dir = str(copied(Path(study.run.dir), tmp_path / "run"))
    study.similarity.measures = []
    store = make(study)
    assert store.get_table(SIMILARITY_PATH).num_rows == 0
    assert store.get_table(SIMILARITY_PATH).schema == before.get_table(SIMILARITY_PATH).schema
    assert store.get(PAIRS_PATH) == before.get(PAIRS_PATH)
    kept = {path.split("/")[2] for path in store.list("similarity")}
    assert kept == {"matched.safetensors", "matched.json"}


def test_a_neuron_has_an_anchor_in_each_further_model_whose_mutual_partners_agree():
    """Four models of six neurons, of causes that they share: neuron 5 of each is of none."""
    rng = np.random.default_rng(0)
    causes = rng.standard_normal((200, 5))
    x = {name: np.hstack([causes[:, rng.permutation(5)], rng.standard_normal((200, 1))])
         + rng.normal(0, 1.8, (200, 6)) for name in "abcd"}  # fmt: skip
    best = {}
    for a, b in permutations("abcd", 2):
        forth, back = (r.argmax(1) for r in (correlated(x[a], x[b]), correlated(x[b], x[a])))
        best[a, b] = torch.tensor([p if back[p] == i else NOBODY for i, p in enumerate(forth)])
    counts = set()
    for a, b in permutations("abcd", 2):
        found = anchors(best, a, b, "abcd").tolist()
        for neuron, count in enumerate(found):
            partner = int(best[a, b][neuron])
            rings = [
                (int(best[a, c][neuron]), int(best[b, c][partner])) for c in {*"abcd"} - {a, b}
            ] if partner != NOBODY else []  # fmt: skip
            assert count == sum(one == other != NOBODY for one, other in rings)
            counts.add(count)
    assert counts == {0, 1, 2}
    assert anchors(best, "a", "b", "ab") is None


def test_measures_are_named_alike_everywhere():
    assert tuple(measure.value for measure in Measure) == MEASURES
    assert pd.Series(MEASURES).is_unique
