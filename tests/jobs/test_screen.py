"""The entry points as a user meets them: plan, results, status."""

import subprocess
import sys
from pathlib import Path

import pytest
from helpers_study import make, make_models, make_study, make_tokens

from universal_ray.errors import MissingError
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
