"""What this project did not make is never deleted, and a folder of others is never taken."""

import os
from pathlib import Path

import pytest
from helpers_study import inputs_of, make, make_models, make_study, make_tokens

from universal_ray.errors import ConfigurationError
from universal_ray.storage.lock import RunLock
from universal_ray.storage.names import ours
from universal_ray.storage.store import Store

FOREIGN = (
    "roles/web/tasks/main.yml", "roles/scores.json", "profile/me.json", "profile/weights/mine.json",
    "reduce/notes.txt", "reduce/layer-00.json", "moments/done.json", "calibration/old.safetensors",
    ".nonce/secret", "lock/door.json", "lock/000001.json.bak", "tables/mine.parquet",
    "film.mkv.partial-abcdefgh/film.mkv", "tables/mine.parquet.partial-abcdefgh/half",
    "corpus-2019/text", "readme",
)  # fmt: skip


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ours")
    return make_models(folder, "ab"), make_tokens(folder / "tokens", rows=30)


def put(folder: Path, names: tuple[str, ...]) -> None:
    """Files of somebody, from long ago."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
        os.utime(path, (0, 0))
        os.utime(path.parent, (0, 0))


def everything(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def test_files_of_others_stay_beside_a_run_that_drops_all_it_can(inputs, tmp_path):
    study = make_study(tmp_path, *inputs)
    store = make(study)
    put(tmp_path, FOREIGN)
    half = tmp_path / "tables" / "pairs.parquet.partial-0_bcdefg"
    put(tmp_path, (f"{half.relative_to(tmp_path)}/pairs.parquet",))
    old = {path for path in store.list("reduce") if ours(path)}
    whole = next(path for path in store.list("moments") if "layer" in path and "unit" in path)
    (tmp_path / whole).write_bytes(b"cut")
    study.baseline.rotations = 4
    make(study)
    for name in FOREIGN:
        assert (tmp_path / name).read_text() == name
    assert not old & set(store.list("reduce"))
    assert not half.exists()


@pytest.mark.parametrize("foreign", ["roles/web/tasks/main.yml", "readme", ".git/HEAD"])
@pytest.mark.parametrize("dry", [True, False])
def test_a_folder_of_others_is_refused_before_anything_is_written(inputs, tmp_path, foreign, dry):
    put(tmp_path, (foreign,))
    study, before = make_study(tmp_path, *inputs), everything(tmp_path)
    with pytest.raises(ConfigurationError, match=r"holds .* no study\.yaml: .*by run\.dir"):
        inputs_of(study) if dry else RunLock(Store(study.run.dir)).__enter__()
    assert everything(tmp_path) == before


def test_the_current_folder_is_not_taken_for_want_of_a_name(inputs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    study = make_study(tmp_path, *inputs)
    study.run.dir = ""
    with pytest.raises(ConfigurationError, match=r"run\.dir is empty"):
        inputs_of(study)
    assert not everything(tmp_path)


def test_a_start_that_was_cut_short_before_the_study_was_written_goes_on(inputs, tmp_path):
    study = make_study(tmp_path / "run", *inputs)
    put(tmp_path / "run", ("corpus-all/state.json", "corpus-960.partial-host-1/x"))
    with RunLock(Store(study.run.dir)):
        pass
    inputs_of(study)
