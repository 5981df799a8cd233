"""The entry points as a user meets them: plan, results, status."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers_study import make, make_models, make_study, make_tokens

from universal_ray.errors import MissingError
from universal_ray.lock import RunLock
from universal_ray.progress import Advance, Progress
from universal_ray.report.screen import console, show_results
from universal_ray.report.status import describe_run
from universal_ray.store import Store

ROOT = Path(__file__).parents[2]


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


def test_status_without_ray(finished):
    rows = dict(describe_run(finished))
    assert rows["stage"] == "finished"
    assert rows["sums"].startswith("13 of 13 done, ")
    assert "tokens/s" in rows["sums"]


def test_status_while_a_run_is_on(tmp_path):
    store = Store(str(tmp_path))
    store.put("study.yaml", b"")
    now = time.time()
    progress = Progress()
    progress.begin(Advance("sums", 10, 2, 8000, 2000.0, now - 25, now - 5))
    progress.started("unit 3")
    store.put_json("progress.json", progress.state())
    assert dict(describe_run(store))["stage"].startswith("interrupted")
    with RunLock(store):
        found = subprocess.run(
            [sys.executable, ROOT / "jobs" / "status.py", f"run.dir={tmp_path}"],
            capture_output=True, text=True, cwd=tmp_path, check=True,
        )
        rows = dict(describe_run(store))
    assert rows["driver"].startswith("process")
    assert rows["sums"] == "2 of 10 done, 100 tokens/s"
    # A minute at that rate, of which five seconds had passed.
    assert 40 <= float(rows["remaining"].removesuffix(" s of sums")) <= 55
    assert rows["running"].startswith("unit 3 for ")
    assert "s of sums" in found.stdout and "unit 3 for" in found.stdout


def test_status_of_no_run(tmp_path):
    with pytest.raises(MissingError, match="holds no run"):
        describe_run(Store(str(tmp_path)))


def test_dry_run_prints_the_plan_and_writes_nothing(tmp_path):
    found = subprocess.run(
        [sys.executable, ROOT / "jobs" / "run.py", "dry_run=true", f"run.dir={tmp_path}/run"],
        capture_output=True, text=True, cwd=tmp_path, check=True,
    )
    for word in ("reference", "neurons", "tokens", "units", "FLOP", "memory", "already done"):
        assert word in found.stdout
    assert list(tmp_path.iterdir()) == []
