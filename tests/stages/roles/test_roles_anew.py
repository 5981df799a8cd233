"""What of the roles is made anew, and what is found as it was, when something changes."""

import os
from copy import deepcopy
from pathlib import Path

import pytest
from helpers_study import CONTEXT, table_bytes
from helpers_whole import copied, make_inputs, run_stages, whole_study

from universal_ray.errors import DamagedError
from universal_ray.stages.roles.artifacts import DECLARED, EFFECTS, PATHS, RESPONSES, SCORES
from universal_ray.storage import checked, finished
from universal_ray.storage.artifacts import Artifact
from universal_ray.storage.store import Store

KINDS = {"scores": SCORES, "responses": RESPONSES, "effects": EFFECTS, "paths": PATHS}
"""By what the folders of each begin with."""
CHANGES = {
    "roles.tokens": (6 * CONTEXT, {"effects", "paths"}),
    "roles.sweep": ([0.0, 1.0], {"effects"}),
    "roles.sets": (2, {"effects"}),
    "roles.seed": (1, {"scores", "effects", "paths"}),
    "roles.candidates": (2, {"scores", "effects"}),
    "roles.controls": (2, {"scores", "effects"}),
    "roles.paths": (2, {"scores", "paths"}),
    "roles.kurtosis": (2.0, {"scores", "responses"}),
    "roles.partition": (0.5, {"scores", "responses"}),
    "roles.null_share": (0.0, {"scores", "effects"}),
    "roles.frequency": (0.0, {"scores", "effects"}),
}
"""Another value of every key, and what it makes anew in this study, the tables aside."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A finished study and its tables."""
    folder = tmp_path_factory.mktemp("anew")
    study = whole_study(folder / "run", *make_inputs(folder))
    return study, table_bytes(run_stages(study))


@pytest.fixture
def study(whole, tmp_path):
    """The same in a directory of its own."""
    again = deepcopy(whole[0])
    again.run.dir = str(copied(Path(again.run.dir), tmp_path / "run"))
    return again


def run_roles(study) -> Store:
    return run_stages(study, slice(2, 3))


def written(study) -> dict[str, int]:
    """Stored files of the roles; a file that is written again is another one."""
    folder = Path(study.run.dir)
    paths = [path for path in (folder / "roles").rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): os.stat(path).st_ino for path in paths}


def made(before: dict[str, int], after: dict[str, int]) -> set[str]:
    """Kinds of which something was written."""
    new = dict(after.items() - before.items())
    return {path.split("/")[1].split("-")[0] for path in new}


@pytest.mark.parametrize("key", CHANGES)
def test_a_change_makes_anew_what_its_artifacts_say_and_no_more(whole, study, key):
    value, expected = CHANGES[key]
    setattr(study.roles, key.removeprefix("roles."), value)
    before = written(study)
    tables = table_bytes(run_roles(study))
    assert made(before, written(study)) == expected
    for kind, artifact in KINDS.items():
        assert kind not in expected or artifact.touched_by(key)
        assert kind in expected or key not in artifact.keys
    assert tables != whole[1]


def test_every_key_of_the_roles_is_tried(study):
    assert {f"roles.{name}" for name in vars(study.roles)} == set(CHANGES)


@pytest.fixture
def raised():
    """Raises the version of an artifact while a test lasts."""
    were: list[tuple[Artifact, int | str]] = []

    def lift(artifact: Artifact) -> None:
        were.append((artifact, artifact.version))
        object.__setattr__(artifact, "version", f"{artifact.version} and more")

    yield lift
    for artifact, version in were:
        object.__setattr__(artifact, "version", version)


@pytest.mark.parametrize(
    ("artifact", "expected"),
    [(SCORES, {"scores"}), (RESPONSES, {"responses"}), (DECLARED, set()),
     (EFFECTS, {"effects"}), (PATHS, {"paths"})],
    ids=["scores", "responses", "declared", "effects", "paths"],
)  # fmt: skip
def test_a_raised_version_makes_that_anew_and_the_tables(whole, study, raised, artifact, expected):
    before, tables = written(study), finished.stages(Store(study.run.dir))
    raised(artifact)
    store = run_roles(study)
    assert made(before, written(study)) == expected
    stages = finished.stages(store)
    assert {name for name, of in stages.items() if of != tables[name]} == {finished.ROLES}
    assert table_bytes(store) == whole[1]


def test_what_is_whole_is_left_as_it_is(study):
    before = written(study)
    run_roles(study)
    assert written(study) == before


@pytest.mark.parametrize(
    ("kind", "tensor"),
    [("scores", "entropy.null_share_N"), ("scores", "attention.head_N"),
     ("responses", "found.detector_share_D"), ("responses", "detector_suppresses_D"),
     ("effects", "sums_MIT"), ("paths", "count")],
)  # fmt: skip
def test_a_missing_tensor_is_told_by_its_name_and_made_anew(whole, study, kind, tensor):
    store = Store(study.run.dir)
    path = next(p for p in store.list("roles") if f"/{kind}-" in p and p.endswith("safetensors"))
    shard = path.endswith("/sums.safetensors")
    marker = f"{path.rpartition('/')[0]}/done.json" if shard else checked.marker_of(path)
    tensors = checked.get_tensors(store, path, marker)
    del tensors[tensor]
    said = {name: value for name, value in checked.told(store, marker).items() if name != "files"}
    checked.finish(store, marker, [store.put_tensors(path, tensors)], **said)
    store.delete(finished.MARKER)
    with pytest.raises(DamagedError, match=rf"{path} lacks {tensor}:"):
        run_stages(study)
    assert not store.exists(marker)
    assert table_bytes(run_stages(study)) == whole[1]
