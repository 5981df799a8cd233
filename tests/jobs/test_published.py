"""A run beside a published table: agreement, flips and a picture."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pytest

from universal_ray.compare import compared
from universal_ray.errors import ConfigurationError, MissingError
from universal_ray.store import Store

ROOT = Path(__file__).parents[2]
NEURONS = 40


@pytest.fixture
def finished(tmp_path):
    """A run's table, and the published one of its universal neurons with one value altered."""
    rng = np.random.default_rng(0)
    excess = np.linspace(0, 1, NEURONS)
    own = pa.table(
        {
            "model": ["a"] * NEURONS,
            "layer": np.arange(NEURONS) // 20,
            "neuron": np.arange(NEURONS) % 20,
            "excess_corr": excess,
            "kurt": rng.normal(size=NEURONS),
            "family": ["unigram"] * NEURONS,
        }
    )
    store = Store(str(tmp_path / "run"))
    store.put_table("tables/neurons.parquet", own)
    store.put_json("tables/profile.json", {})
    chosen = own.filter(pa.array(excess > 0.55)).drop_columns(["model", "family"])
    kurt = chosen["kurt"].to_numpy().copy()
    kurt[3] += 2.0
    chosen = chosen.set_column(chosen.column_names.index("kurt"), "kurt", pa.array(kurt))
    chosen = chosen.slice(0, chosen.num_rows - 1)
    path = tmp_path / "published.csv"
    pyarrow.csv.write_csv(chosen, path)
    return store, path, chosen


def test_agreement_and_flips(finished):
    store, path, chosen = finished
    found, flipped, _, _ = compared(store, str(path), None, 0.5)
    assert set(found) == {"excess_corr", "kurt"}
    assert found["excess_corr"].max_difference == 0
    assert found["kurt"].max_difference == pytest.approx(2.0)
    place = chosen["layer"][3].as_py(), chosen["neuron"][3].as_py()
    assert found["kurt"].worst == place
    assert not flipped.lost
    # Ours between 0.5 and 0.55, and the one that the published table lacks at its end.
    assert set(flipped.gained) == {(1, 0), (1, 1), (1, 19)}


def test_the_job_shows_all_and_draws(finished, tmp_path):
    store, path, _ = finished
    done = subprocess.run(
        [sys.executable, ROOT / "jobs" / "compare.py", f"run.dir={store.url}",
         f"published={path}"],
        capture_output=True, text=True, cwd=tmp_path, check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "kurt" in done.stdout and "3 neurons gained" in done.stdout
    assert (tmp_path / "compare.svg").read_text().startswith("<?xml")


def test_tables_that_do_not_fit_are_refused(finished, tmp_path):
    store, path, chosen = finished
    with pytest.raises(MissingError, match="there is no table"):
        compared(store, "missing.csv", None, 0.5)
    with pytest.raises(ConfigurationError, match="is no reference of the run"):
        compared(store, str(path), "b", 0.5)
    pyarrow.csv.write_csv(chosen.drop_columns(["excess_corr"]), path)
    with pytest.raises(ConfigurationError, match="has no column excess_corr"):
        compared(store, str(path), None, 0.5)
    with pytest.raises(MissingError, match="holds no finished study"):
        compared(Store(str(tmp_path / "none")), str(path), None, 0.5)
