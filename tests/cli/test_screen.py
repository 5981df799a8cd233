"""The entry points as a user meets them: plan, results, status."""

import json
import time
from pathlib import Path
from types import SimpleNamespace

import pyarrow.compute as pc
import pytest
from helpers_jobs import enter
from helpers_study import ALL, make, make_models, make_study, make_tokens
from helpers_whole import changed, whole_study

from universal_ray.errors import MissingError, UniversalRayError
from universal_ray.report import status
from universal_ray.report.run import Run
from universal_ray.report.screen import console, show_results
from universal_ray.report.status import describe_run
from universal_ray.runtime.progress import Advance, Forecast, Progress
from universal_ray.storage.lock import RunLock
from universal_ray.storage.store import Store

RECORD = b"{configuration: {}, bits: {}, models: [], corpus: {rows: 1, context: 1, units: []}}"
"""The least that a `study.yaml` says."""
NAMES = ["m [v2]", "[bold]b"]
"""Of models."""


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("screen")
    study = make_study(folder / "run", make_models(folder, "ab"), make_tokens(folder / "tokens"))
    return make(study)


def test_results_name_partners_and_files(finished, capsys):
    show_results(console(), finished)
    shown = capsys.readouterr().out
    summary = finished.get_json("tables/summary.json")["references"][0]
    assert f"{summary['universal_share']:.2%}" in shown
    best = finished.get_table("tables/neurons.parquet").sort_by([("excess_corr", "descending")])
    first = best.to_pylist()[0]
    assert f"{first['layer']}.{first['neuron']}" in shown
    assert str(Path(finished.url) / "tables" / "neurons.parquet") in shown


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A study of all three stages, and the same asked with other thresholds.

    Its directory and models have names that a terminal's library would read as markup.
    """
    folder = tmp_path_factory.mktemp("whole") / "[bold]" / "run["
    folder.mkdir(parents=True)
    models = [
        str(Path(path).rename(folder / name))
        for path, name in zip(make_models(folder, "ab"), NAMES, strict=True)
    ]
    study = whole_study(folder / "x]", models, make_tokens(folder / "tokens", rows=24))

    def at(threshold: float) -> Store:
        return make(changed(study, universal__threshold=threshold), *ALL)

    return at


@pytest.mark.thorough
def test_all_or_none_or_one_universal_neuron_can_be_shown(whole, capsys):
    excess = pc.drop_null(whole(-1.0).get_table("tables/neurons.parquet")["excess_corr"])
    first, second = sorted(excess.to_pylist(), reverse=True)[:2]
    many = len(excess)
    for threshold, universal in ((-1.0, many), (2.0, 0), ((first + second) / 2, 1)):
        store = whole(threshold)
        told = store.get_json("tables/summary.json")["references"][0]
        assert told["universal"] == universal
        capsys.readouterr()
        show_results(console(), store)
        shown = capsys.readouterr().out
        assert f" of {universal} " in shown
        words = store.get_json("tables/summary.json")["descriptions"][0]
        for who, row in (("universal", words["universal"]), ("other", words["others"])):
            assert (
                f"{who} neurons: words hold for {row['described']} of {row['neurons']}, r "
            ) in shown.replace("\n", " ")
        progress = store.get_json("progress.json")  # whatever was planned is of a batch that was
        assert (progress["own"], progress["later"], progress["ahead"]) == (0, 0, [])
        assert f"\n{store.url}/tables/neurons.parquet\n" in shown
        assert all(name in shown for name in NAMES)
        assert "nan" not in shown and "None" not in shown


@pytest.mark.parametrize("columns", ["80", ""])
def test_where_there_is_no_terminal_lines_are_as_wide_as_asked_and_nothing_is_cut(
    whole, capsys, monkeypatch, columns
):
    monkeypatch.setenv("COLUMNS", columns)
    store = whole(-1.0)
    capsys.readouterr()
    show_results(console(), store)
    lines = [line for line in capsys.readouterr().out.splitlines() if store.url not in line]
    assert max(map(len, lines)) <= int(columns or 100)
    assert not any("…" in line for line in lines)
    pairs = store.get_table("tables/pairs.parquet").filter(pc.field("model") == NAMES[0])
    best = pairs.sort_by([("max_corr", "descending")]).to_pylist()[0]
    partner = f"{NAMES[1]}:{best['max_layer']}.{best['max_neuron']}("
    assert any(partner in line for line in lines)


def nulls(value):
    """Every number that is no name of a layer is null."""
    if isinstance(value, dict):
        return {key: each if key == "layer" else nulls(each) for key, each in value.items()}
    if isinstance(value, list):
        return [nulls(each) for each in value]
    return None if isinstance(value, int | float) else value


def test_null_is_not_measured_and_never_a_zero(whole, capsys, monkeypatch):
    store = whole(2.0)
    summary = store.get_json("tables/summary.json")
    kept = {key: summary[key] for key in ("tokens_kept", "tokens", "threshold")}
    reference = {**summary["references"][0], "published": {"universal": 3, "universal_share": 0.5}}
    empty = {**nulls({**summary, "references": [reference]}), **kept}
    monkeypatch.setattr(Run, "summary", empty)
    show_results(console(), store)
    shown = capsys.readouterr().out
    roles = shown.split("neurons by role")[1].split("tokens counted")[0]
    # In a narrow column it takes two lines.
    assert roles.count("measured") >= 3 * len(summary["roles"]["references"][0]["overlap"])
    assert not any(character.isdigit() for character in roles.split("└")[0].split("┡")[1])


def test_status_without_ray(finished):
    rows = dict(describe_run(finished))
    assert rows["stage"] == "finished"
    assert rows["finished tables"] == "correlations"
    assert rows["sums"].startswith("13 of 13 done, ")
    assert "tokens/s" in rows["sums"]
    assert "similarities" not in rows  # none was asked for


def test_status_while_a_run_is_on(tmp_path, monkeypatch):
    store = Store(str(tmp_path))
    store.put("study.yaml", RECORD)
    now = time.time()
    monkeypatch.setattr(status, "time", SimpleNamespace(time=lambda: now))
    progress = Progress(ahead={
        "correlations": Forecast({"sums": 100.0}), "roles": Forecast({"interventions": 3600.0})
    })  # fmt: skip
    progress.begin("correlations", Advance("sums", 10, 2, 8000, 2000.0, now - 25, now - 5))
    progress.started("unit 3")
    store.put_json("progress.json", progress.state())
    assert dict(describe_run(store))["stage"].startswith("interrupted")
    with RunLock(store) as lock:
        # What another driver told, and what this one did before it begins anew.
        between = "between: checks the study, writes the site or leaves the cluster; last, "
        rows = dict(describe_run(store))
        assert (rows["stage"], rows["remaining"]) == (f"{between}sums", "not known yet")
        for ended in ("finished", "stopped"):
            store.put_json("progress.json",
                           {**progress.state(), "driver": lock.owner, "stage": ended})
            rows = dict(describe_run(store))
            assert (rows["stage"], rows["remaining"]) == (f"{between}{ended}", "not known yet")
        progress.driver = lock.owner
        store.put_json("progress.json", progress.state())
        found = enter("jobs/status.py", f"run.dir={tmp_path}", folder=tmp_path)
        rows = dict(describe_run(store))
    assert found.returncode == 0
    assert rows["driver"].startswith("process")
    assert rows["sums"] == "2 of 10 done, 100 tokens/s"
    # A minute at that rate, of which five seconds had passed.
    assert rows["remaining"] == "55 s of sums, about 60 min left in all, with roles"
    assert rows["running"].startswith("unit 3 for ")
    assert "s of sums" in found.stdout and "unit 3 for" in found.stdout


@pytest.mark.parametrize(
    "written",
    [
        [], {}, {"stage": 3}, {"error": 1.5}, {"batches": {}}, {"batches": [[]]},
        {"batches": [{"name": "sums"}]}, {"running": []}, {"running": {"unit 3": "now"}},
        {"failures": [{"task": "unit 3", "at": None, "reason": ""}]}, {"failures": 0},
        {"own": "soon"}, {"later": []}, {"ahead": [3]}, {"driver": 7},
    ],
)
def test_a_progress_file_of_wrong_kinds_is_one_sentence(tmp_path, written):
    store = Store(str(tmp_path))
    store.put("study.yaml", RECORD)
    progress = Progress(ahead={"correlations": Forecast({})})
    progress.begin("correlations", Advance("sums", 10, 2, 8000))
    whole = progress.state()
    store.put_json("progress.json", whole)
    describe_run(store)
    broken = {**whole, **written} if written else written
    store.put("progress.json", json.dumps(broken).encode())
    with pytest.raises(UniversalRayError, match=r"progress\.json"):
        describe_run(store)


def test_status_of_no_run(tmp_path):
    with pytest.raises(MissingError, match="holds no run"):
        describe_run(Store(str(tmp_path)))


def test_dry_run_prints_the_plan_and_writes_nothing(tmp_path):
    found = enter("jobs/run.py", "dry_run=true", f"run.dir={tmp_path}/run", folder=tmp_path)
    assert found.returncode == 0
    assert found.stdout.startswith("Checking the study\n")  # before what imports for seconds
    for word in ("reference", "neurons", "tokens", "units", "FLOP", "memory", "already done"):
        assert word in found.stdout
    assert list(tmp_path.iterdir()) == []
