"""A run beside a published table: agreement, flips and a picture."""

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pytest
from helpers_jobs import enter

from universal_ray.errors import ConfigurationError, MissingError, StorageError
from universal_ray.report.compare import compared, draw, rows
from universal_ray.storage import checked
from universal_ray.storage.finished import (
    MARKER,
    NEURONS_PATH,
    PROFILE,
    STATISTICS_PATH,
    SUMMARY_PATH,
)
from universal_ray.storage.names import STUDY_FILE
from universal_ray.storage.store import Store

NEURONS = 40
RECORD = (b"{configuration: {}, bits: {models.site: mlp_post}, models: [], "
          b"corpus: {rows: 1, context: 1, units: []}}")  # fmt: skip


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
    store.put(STUDY_FILE, RECORD)
    written = [store.put_table(NEURONS_PATH, own), store.put_json(SUMMARY_PATH, {})]
    checked.finish(store, MARKER, written, stages={PROFILE: ""})
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
    made = compared(store, str(path), None, 0.5)
    found, flipped = made.columns, made.flips
    assert made.notes == ["the tables share no column of weights, so that nothing shows one model"]
    assert set(found) == {"excess_corr", "kurt"}
    assert found["excess_corr"].max_difference == 0
    assert found["kurt"].max_difference == pytest.approx(2.0)
    place = chosen["layer"][3].as_py(), chosen["neuron"][3].as_py()
    assert found["kurt"].worst == place
    assert not flipped.lost
    # Ours between 0.5 and 0.55, and the one that the published table lacks at its end.
    assert set(flipped.gained) == {(1, 0), (1, 1), (1, 19)}


@pytest.fixture
def weighed(tmp_path):
    """`told(published, ...)`: a run with weights, moments and a histogram beside a table with some
    columns changed; and the columns as the authors would have them.
    """
    rng = np.random.default_rng(1)
    edges = np.linspace(-10, 15, 256)
    pre_NT = rng.normal(0, 1, (NEURONS, 1)) + rng.normal(0, 0.3, (NEURONS, 500))
    layer = np.arange(NEURONS) // 20
    own = {
        "layer": layer,
        "neuron": np.arange(NEURONS) % 20,
        "excess_corr": rng.uniform(0.6, 1, NEURONS),
        "w_in_norm": 5 * layer + rng.normal(size=NEURONS),
        "vocab_kurt": rng.normal(size=NEURONS) ** 4,
        "mean": rng.normal(size=NEURONS),
        "skew": rng.normal(size=NEURONS),
        "sparsity": (pre_NT > 0).mean(1),
    }
    bin_NT = np.searchsorted(edges, pre_NT)
    counts = [np.bincount(each, minlength=257).tolist() for each in bin_NT]
    named = {"model": ["a"] * NEURONS, **own}
    store = Store(str(tmp_path / "run"))
    store.put(STUDY_FILE, RECORD)
    order = rng.permutation(NEURONS)  # of the other table
    other = {name: named[name] for name in ("model", "layer", "neuron")} | {"histogram": counts}
    written = [
        store.put_table(NEURONS_PATH, pa.table(named)),
        store.put_table(STATISTICS_PATH, pa.table(other).take(order)),
        store.put_json(SUMMARY_PATH, {"chance": "shifted"}),
    ]
    checked.finish(store, MARKER, written, stages={PROFILE: ""})
    theirs = own | {"sparsity": (pre_NT > edges[101]).mean(1)}  # a bin below zero

    def told(**changes):
        path = tmp_path / "published.csv"
        pyarrow.csv.write_csv(pa.table(theirs | changes), path)
        return compared(store, str(path), None, 0.5)

    return told, theirs, rng


def test_sparsity_is_compared_as_the_authors_count_it(weighed):
    told, theirs, _ = weighed
    made = told()
    assert made.columns["sparsity"].max_difference == 0
    assert "above -0.098" in made.notes[0] and len(made.notes) == 2
    assert "is over other tokens in the run (baseline.kind=shifted), and" in made.notes[1]
    assert (theirs["sparsity"] > 0).any()


def test_columns_are_told_by_how_far_they_are_apart_weights_first(weighed):
    told, theirs, rng = weighed
    made = told(mean=theirs["mean"] + 0.5, skew=theirs["skew"] + rng.normal(0, 0.01, NEURONS))
    shown = rows(made.columns)
    assert [row[0] for row in shown[:4]] == ["vocab_kurt", "w_in_norm", "mean", "skew"]
    mean, skew = made.columns["mean"], made.columns["skew"]
    assert mean.pearson > skew.pearson  # a constant leaves r at 1
    assert mean.relative_difference == pytest.approx(0.5 / (theirs["mean"] + 0.5).std())


def test_a_table_of_other_weights_is_refused_and_one_column_of_them_told(weighed):
    told, theirs, rng = weighed
    other = {
        "w_in_norm": 5 * theirs["layer"] + rng.normal(size=NEURONS),  # as like as layers make it
        "vocab_kurt": rng.normal(size=NEURONS) ** 4,
    }
    assert np.corrcoef(other["w_in_norm"], theirs["w_in_norm"])[0, 1] > 0.8
    with pytest.raises(ConfigurationError, match=r"weights are of another model, .* w_in_norm by "):
        told(**other)
    made = told(vocab_kurt=other["vocab_kurt"])
    assert made.notes[1].startswith("vocab_kurt are of weights alone, and differ")
    rounded = {name: theirs[name].astype(np.float16) for name in other}
    assert len(told(**{name: each.astype(float) for name, each in rounded.items()}).notes) == 2


def test_the_job_shows_all_and_draws(finished, tmp_path):
    store, path, _ = finished
    options = f"run.dir={store.url}", f"published={path}"
    done = enter("jobs/compare.py", *options, folder=tmp_path)
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
    with pytest.raises(MissingError, match="holds no run"):
        compared(Store(str(tmp_path / "none")), str(path), None, 0.5)


HEAD = "layer,neuron,excess_corr,kurt\n"


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("", "no table of commas"),
        (b"\xff\xfe\x00\x81,a\n1,2\n", "published.csv"),
        (HEAD, "has no rows"),
        ("layer,neuron,excess_corr,kurt,kurt\n1,1,0.6,3,3\n", "two columns kurt"),
        (HEAD + "1,one,0.6,3\n", "column neuron .* whole numbers"),
        (HEAD + "1.5,1,0.6,3\n", "column layer .* whole numbers"),
        (HEAD + ",1,0.6,3\n", "column layer .* whole numbers"),
        (HEAD + "1,1,nan,3\n", "column excess_corr .* finite numbers"),
        (HEAD + "1,1,,3\n", "column excess_corr .* finite numbers"),
        (HEAD + "1,1,high,3\n", "column excess_corr .* finite numbers"),
        (HEAD + "1,1,0.6,high\n", "column kurt .* 'high' where numbers belong"),
        (HEAD + "1,1,0.6\n", "no table of commas"),
        (HEAD + "1,1,0.9,3\n1,1,0.9,3\n", "twice"),
        (HEAD + "7,1,0.9,3\n", "lacks 1 of the 1 published neurons"),
    ],
)
def test_a_file_that_is_no_published_table_is_refused(finished, content, told):
    store, path, _ = finished
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConfigurationError, match=told) as caught:
        compared(store, str(path), None, 0.5)
    assert "\n" not in str(caught.value)


def test_a_column_without_values_is_told_as_such_and_not_drawn(finished, tmp_path):
    store, path, _ = finished
    path.write_text(HEAD + "1,1,0.9,\n1,2,0.9,nan\n")
    made = compared(store, str(path), None, 0.5)
    found, own, theirs = made.columns, made.own, made.published
    shown = {row[0]: row[1:] for row in rows(found)}
    assert shown["kurt"] == ("0", "-", "-", "-", "-", "-")
    draw(found, own, theirs, tmp_path / "some.svg")
    assert "kurt" not in (tmp_path / "some.svg").read_text()
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="picture="):
        draw(found, own, theirs, tmp_path / "file" / "some.svg")
