"""A run directory that is read: `universal_ray.open`."""

import shutil

import pytest
from helpers_study import make, make_models, make_study, make_tokens
from helpers_whole import DAMAGES, copied, damage

import universal_ray
from universal_ray.errors import ConfigurationError, DamagedError, MissingError, StorageError
from universal_ray.report.run import PATHS
from universal_ray.storage.finished import TABLES


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The directory of a run whose correlations are finished, and nothing else."""
    folder = tmp_path_factory.mktemp("run")
    study = make_study(
        folder / "run", make_models(folder, "ab"), make_tokens(folder / "tokens", rows=12)
    )
    make(study)
    return folder / "run"


@pytest.fixture
def directory(made, tmp_path):
    return copied(made, tmp_path / "run")


def files(directory):
    return {path: path.stat().st_mtime_ns for path in directory.rglob("*") if path.is_file()}


def test_a_run_tells_what_it_is_of_and_what_is_there(directory):
    run = universal_ray.open(directory)
    assert run.url == str(directory)
    assert run.stages == ("correlations",)
    assert run.tables == ("pairs", "neurons", "similarity")
    assert repr(run) == f"<run in {directory}, finished: correlations>"
    assert run.record["configuration"]["baseline"]["rotations"] == 3
    assert run.summary["references"][0]["neurons"] == run.table("neurons").num_rows


def test_columns_can_be_chosen_and_keep_their_meaning(directory):
    run = universal_ray.open(str(directory))
    table = run.table("neurons", ["layer", "excess_corr"])
    assert table.column_names == ["layer", "excess_corr"]
    assert table.equals(run.table("neurons").select(["layer", "excess_corr"]))
    assert b"description" in table.schema.field("excess_corr").metadata


def test_every_table_that_a_stage_makes_has_its_name():
    paths = {path for paths in TABLES.values() for path in paths if path.endswith(".parquet")}
    assert set(PATHS.values()) == paths and len(PATHS) == len(paths)


def test_a_place_without_a_run_is_refused(tmp_path):
    for place in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(MissingError, match=f"{place} holds no run: give the run.dir"):
            universal_ray.open(place)
    assert not (tmp_path / "nowhere").exists()


def test_a_table_that_is_not_made_yet_names_its_stage(directory):
    run = universal_ray.open(directory)
    with pytest.raises(MissingError, match=r"statistics\.parquet is not .*stages=\[profile\]"):
        run.table("statistics")
    with pytest.raises(MissingError, match=r"roles\.parquet is not .*stages=\[roles\]"):
        run.table("roles")
    (directory / "tables" / "done.json").unlink()
    assert run.stages == run.tables == () and "nothing yet" in repr(run)
    with pytest.raises(MissingError, match=r"neurons\.parquet is not .*stages=\[correlations\]"):
        run.table("neurons")
    with pytest.raises(MissingError, match=r"summary\.json is not .*stages=\[correlations\]"):
        assert run.summary


def test_a_name_that_is_none_is_refused_with_the_nearest(directory):
    run = universal_ray.open(directory)
    with pytest.raises(ConfigurationError, match=r"did you mean neurons \(of pairs, neurons, "):
        run.table("neuron")
    with pytest.raises(ConfigurationError, match=r"no column excess: did you mean excess_corr\?"):
        run.table("neurons", ["layer", "excess"])
    with pytest.raises(ConfigurationError, match="no column xyzzy: its column_names are"):
        run.table("neurons", ["xyzzy"])


@pytest.mark.parametrize("kind", DAMAGES)
def test_what_was_altered_is_refused_and_left_as_it_is(directory, kind):
    run = universal_ray.open(directory)
    for name in ("neurons.parquet", "summary.json"):
        damage(directory / "tables" / name, kind)
    before = files(directory)
    refused = MissingError if kind == "gone" else DamagedError
    for read in (
        lambda: run.table("neurons"), lambda: run.table("neurons", ["layer"]), lambda: run.summary
    ):  # fmt: skip
        with pytest.raises(refused) as caught:
            read()
        assert "\n" not in str(caught.value) and str(directory) in str(caught.value)
    assert run.table("pairs").num_rows > 0
    assert files(directory) == before


def test_a_record_that_was_altered_is_refused(directory):
    run = universal_ray.open(directory)
    (directory / "study.yaml").unlink()
    (directory / "study.yaml").write_text("models: []")
    with pytest.raises(StorageError, match=r"study\.yaml cannot be read"):
        assert run.record


def test_nothing_is_kept_of_a_run_that_goes_on(directory):
    run = universal_ray.open(directory)
    shutil.rmtree(directory / "tables")
    assert run.stages == ()
