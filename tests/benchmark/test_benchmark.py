"""The benchmark measures the same mathematics on both sides, and tells what it measured."""

import json
from functools import partial
from itertools import groupby

import numpy as np
import pytest
import torch
from helpers_jobs import enter, start
from helpers_models import make_gpt2
from helpers_study import make_tokens

from universal_ray import testbed
from universal_ray.benchmark import naive, report, sections
from universal_ray.benchmark.exactness import Extent
from universal_ray.benchmark.features import beside
from universal_ray.benchmark.loop import REDUCTION, Means, Shape, batches, make_study, measure
from universal_ray.config.study import Device, ForwardType, Policy, UnitsConfig
from universal_ray.errors import ConfigurationError
from universal_ray.maths.moments.accumulate import POLICIES
from universal_ray.runtime.local import LocalExecutor
from universal_ray.stages.correlations.reduce import read_pair

MEANS = Means(Device.cpu, 2, Policy.fp32, ForwardType.float32)
TINY = Shape(layers=2, width=64, seeds=3, tokens=2048, context=32)
WIDTH = 16
"""Channels of small models; their layers have four times as many neurons."""
SLIGHT = Extent(layers=2, width=12, tokens=16_384, seeds=2, text=256, rotations=1)


def test_the_naive_scheme_is_numpys_best_correlation():
    rng = np.random.default_rng(0)
    x_TN, y_TM = rng.standard_normal((2, 600, 12)).astype(np.float32)
    y_TM[:, 3] = x_TN[:, 7] + 0.1 * y_TM[:, 3]
    kept_T = torch.from_numpy(rng.random(600) < 0.9)
    shape = naive.Shape(3, 4)
    rotations = [torch.from_numpy(rng.standard_normal((4, 4)).astype(np.float32)) for _ in range(3)]
    for drawn in (None, rotations):
        sums = naive.stream(
            (lambda rows: torch.from_numpy(x_TN[rows]), shape),
            (lambda rows: torch.from_numpy(y_TM[rows]), shape),
            [(torch.arange(start, start + 200), kept_T[start : start + 200])
             for start in (0, 200, 400)],
            drawn,
        )
        other = y_TM if drawn is None else np.concatenate(
            [y_TM[:, 4 * k : 4 * k + 4] @ drawn[k].numpy().T for k in range(3)], 1
        )
        r_NM = np.corrcoef(x_TN[kept_T], other[kept_T], rowvar=False)[:12, 12:]
        np.testing.assert_allclose(naive.best_correlations(sums), r_NM.max(1), atol=2e-3)


@pytest.mark.thorough
def test_both_schemes_find_the_same_correlations(tmp_path):
    study = make_study(tmp_path, TINY, MEANS)
    study.units = UnitsConfig(tokens=512, batch=256, fold=2)
    timing, stage = measure(study, LocalExecutor(), REDUCTION[-1])
    reference, other = (
        naive.activations(stage.inputs.sources[model.identity], "cpu")
        for model in stage.plan.models[:2]
    )
    form = naive.Shape(TINY.layers, TINY.width)
    naive_N = naive.best_correlations(
        naive.stream((reference, form), (other, form), batches(stage, TINY.tokens))
    )
    x_TN, y_TN = (
        torch.cat([model(tokens)[kept] for tokens, kept in batches(stage, TINY.tokens)])
        for model in (reference, other)
    )
    r_NM = np.corrcoef(x_TN.numpy(), y_TN.numpy(), rowvar=False, dtype=np.float64)
    exact_N = r_NM[: TINY.neurons, TINY.neurons :].max(1)
    np.testing.assert_allclose(naive_N, exact_N, atol=3e-3)
    both = set(stage.plan.models[:2])
    pair = next(item for item in stage.plan.pairs if set(item.models) == both)
    directions = read_pair(stage.store, stage.recipe, pair)
    ours = next(d for d in directions if d.model == stage.plan.models[0])
    np.testing.assert_allclose(ours.summary.top_RK[:, 0], exact_N, atol=1e-6)
    assert pair.flops(timing.tokens) * 2 == timing.cross_flops
    assert timing.sums > 0 and timing.peak_bytes > 2**20
    assert {"forward", "products", "write", "fold", "reduce"} <= set(timing.seconds)


@pytest.mark.thorough
def test_sections_tell_shares_and_ratios():
    (row,) = [sections.schemes(TINY, MEANS, 1024, lambda _: LocalExecutor())]
    assert row["naive_tokens"] == 1024 and row["tokens"] == 2048
    assert row["naive_seconds"] < row["naive_total_seconds"] < 2 * row["naive_seconds"]
    assert row["ratio"] == pytest.approx(row["naive_total_seconds"] / row["total_seconds"])
    assert row["loop_share"] > 0
    with pytest.raises(ConfigurationError, match="sections has speed, which is none"):
        next(report.run(["speed"], TINY, MEANS, 1024, SLIGHT))


@pytest.mark.thorough
def test_exactness_keeps_its_bounds_in_every_table(monkeypatch, tmp_path):
    for seed, name in enumerate(testbed.MODEL_NAMES[: SLIGHT.seeds]):  # no larger than need be
        make_gpt2(tmp_path / name, seed, width=WIDTH)
    make_tokens(tmp_path / "tokens")
    monkeypatch.setattr(testbed, "resolve", lambda name: str(tmp_path / name))
    (found,) = report.run(["exactness"], TINY, MEANS, 1024, SLIGHT)
    rows = found["exactness"]
    by_tokens, of_relus, by_chunk, by_size, by_change, by_type = (
        list(group) for _, group in groupby(rows, lambda row: row["table"])
    )
    assert [row["tokens"] for row in by_tokens] == [256, 2_048, 16_384]
    assert [row["chunk"] for row in by_chunk] == [1_024, 4_096, 16_384]
    assert [row["tokens"] for row in of_relus] == [256, 16_384]
    for row in by_tokens + of_relus + by_chunk + by_size:
        assert 0 < row["fp32"] < 1e-6 and 0 < row["split"] < 1e-6 and 0 < row["fp16"] < 1e-4
    usual = by_chunk[1]  # the same trial, told three times
    for policy in POLICIES:
        assert usual[policy] == by_tokens[2][policy] == max(row[policy] for row in by_size)
    assert sum(row["pairs"] for row in by_size) == 24**2
    assert sum(row["pairs"] for row in by_change) == (2 * 4 * WIDTH) ** 2
    for row in by_change:  # eight bits of mantissa against eleven
        assert 0 < row["float16: largest"] < row["bfloat16: largest"] < 0.05
        assert row["bfloat16: 99.9 %"] <= row["bfloat16: largest"]
    assert [row["forward"] for row in by_type] == ["bfloat16", "float16"]
    for row in by_type:
        assert 0 < row["change of excess: 99.9 %"] <= row["largest"] < 0.05
        assert abs(row["universal"] - row["in float32"]) <= row["changed sides"] < 4 * WIDTH
    text = "\n".join(report.tables(found))
    assert "Largest error of r by chunk, 16,384 tokens:" in text
    assert text.count("| bfloat16 |") == 1


def test_features_all_at_once_are_those_of_one_group_by_each():
    assert beside(tokens=4_096, neurons=16, features=20)["largest_difference"] < 1e-6


@pytest.mark.speed
def test_features_all_at_once_are_far_faster_than_one_group_by_each():
    row = beside(tokens=10_240, neurons=256, features=200)
    assert row["largest_difference"] < 1e-6
    assert row["ratio"] >= 50


@pytest.mark.thorough
@pytest.mark.parametrize("ray", [False, pytest.param(True, marks=pytest.mark.cluster)])
def test_the_job_writes_table_picture_and_figures(monkeypatch, tmp_path, ray):
    if not ray:
        here = partial(sections.schemes, executor=lambda _: LocalExecutor())
        monkeypatch.setattr(sections, "schemes", here)
    done = enter(
        "jobs/benchmark.py", f"output={tmp_path}", "sections=[schemes,libraries]",
        "shape.layers=2", "shape.width=64", "shape.seeds=2", "shape.tokens=2048",
        "naive_tokens=1024", folder=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "results.json").read_text())
    assert found["schemes"][0]["ratio"] > 0
    assert [row["scheme"] for row in found["libraries"]] == ["torch.corrcoef", "numpy.corrcoef"]
    table = (tmp_path / "table.md").read_text()
    assert "| ratio |" in table
    assert all(line in done.stdout for line in table.splitlines())
    assert (tmp_path / "speed.svg").read_text().startswith("<?xml")


def test_the_job_is_a_program(tmp_path):
    done = start("jobs/benchmark.py", "shape.layer=2", folder=tmp_path)
    assert done.returncode == 1
    assert "did you mean shape.layers?" in done.stderr


def test_libraries_are_left_out_where_they_do_not_fit():
    (row,) = sections.libraries(Shape(100, 2**20, 2, tokens=4096), MEANS)
    assert row["seconds"].startswith("does not fit: ")


def test_picture_has_a_panel_for_everything_that_grew(tmp_path):
    spent = {"forward": 1.0, "products": 3.0}
    found = {
        "schemes": [{"shape": "2 models of 2 x 64 neurons", "seconds": spent}],
        "tokens": [{"tokens": 2**k, "microseconds_per_token": 7.0} for k in (16, 20)],
        "workers": [{"workers": n, "threads": 1, "tokens_per_second": 1e4 * n} for n in (1, 2)],
    }
    report.draw(found, tmp_path / "speed.svg")
    drawn = (tmp_path / "speed.svg").read_text()
    for words in ("where the time goes", "µs of sums per token", "workers × threads", "2 × 1"):
        assert f"<!-- {words} -->" in drawn


@pytest.mark.speed
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_bars_on_two_cores():
    """Five seeds of 4096 neurons with baseline, and a pair of GPT-2-small's shape."""
    row = sections.schemes(Shape(4, 1024, 5, tokens=524_288, context=512), MEANS, 49_152)
    assert row["ratio"] >= 2.5
    assert row["products_share"] >= 0.85
    pair = sections.loop(Shape(12, 3072, 2, tokens=16_384, context=512), MEANS)
    assert pair["loop_share"] >= 0.75
    costs = [each["microseconds_per_token"] for each in sections.growth(
        [Shape(2, 512, 2, tokens=2**k) for k in (16, 20)], MEANS)]
    assert max(costs) / min(costs) < 1.1
    rates = [each["tokens_per_second"] for each in sections.workers(
        Shape(2, 512, 2, tokens=2**19), MEANS, [(1, 1), (2, 1)])]
    assert rates[1] >= rates[0]
