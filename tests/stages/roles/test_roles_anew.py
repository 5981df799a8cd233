"""What changes of a finished study of the roles make anew: what depends on them, and no more."""

import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from helpers_planted_study import CONTEXT, INTERVENED
from helpers_study import make, table_bytes
from helpers_tiers import tiers
from helpers_whole import changed, copied

from universal_ray.config.study import Bound, RolesConfig, Study
from universal_ray.planning.items import marker
from universal_ray.stages.roles.artifacts import (
    ARTIFACTS,
    DECLARED,
    EFFECTS,
    PATHS,
    RESPONSES,
    SCORES,
    TABLES,
)
from universal_ray.storage import checked, finished
from universal_ray.storage.artifacts import Artifact
from universal_ray.storage.finished import CORRELATIONS, INTERVENTIONS_PATH, PROFILE
from universal_ray.storage.finished import ROLES as ROLES_STAGE
from universal_ray.storage.store import Store

pytestmark = pytest.mark.usefixtures("several_shards")

KINDS = {"scores": SCORES, "responses": RESPONSES, "effects": EFFECTS, "paths": PATHS}
"""By what the folders of each begin with."""
CHANGES = {
    "roles.tokens": (INTERVENED * CONTEXT + 3 * CONTEXT, {"effects", "paths"}),
    "roles.sweep": ([0.0, 6.0], {"effects"}),
    "roles.sweep_pre": ([-1.0], {"effects"}),
    "roles.bounds": ([Bound.relu], set()),  # one of those that were held to
    "roles.sets": (1, {"effects"}),
    "roles.seed": (1, {"scores", "effects"}),
    "roles.candidates": (1, {"scores"}),
    "roles.controls": (1, {"scores"}),  # of those that were held
    "roles.paths": (["2", "0.4>1.0"], {"scores", "paths"}),
    "roles.neurons": (["0.3"], {"scores", "effects"}),
    "roles.kurtosis": (3.0, {"scores", "responses"}),
    "roles.partition": (0.5, {"scores", "responses"}),
    "roles.null_share": (0.0, {"scores", "effects"}),
    "roles.frequency": (0.0, {"scores", "effects"}),
}
"""Another value of every key, and what it makes anew here, the tables aside: where it leads
to the same choice, nothing is intervened on again."""
QUICK = {"roles.paths", "scores", "declared"}
"""Keys and artifacts that stand for the others."""


def assert_as_from_nothing(study, kind: str) -> None:
    """The tables are those that are made where none of a kind of sums was there before."""
    store = Store(study.run.dir)
    tables = table_bytes(store)
    for path in store.list("roles"):
        if path.startswith(f"roles/{kind}-"):
            store.delete(path)
    store.delete(finished.MARKER)
    make(study, CORRELATIONS, PROFILE, ROLES_STAGE)
    assert table_bytes(store) == tables


@pytest.fixture
def copy(run, tmp_path) -> Study:
    """The finished study in a directory of its own."""
    folder = copied(Path(run[0].run.dir), tmp_path / "run")
    return changed(run[0], run__dir=str(folder))


def run_roles(study: Study) -> set[str]:
    """Kinds of which it wrote a file; one that is written again is another file."""
    before = _written(study)
    make(study, ROLES_STAGE)
    return {path.split("/")[1].split("-")[0] for path, _ in _written(study) - before}


def _written(study: Study) -> set[tuple[str, int]]:
    folder = Path(study.run.dir)
    paths = [path for path in (folder / "roles").rglob("*") if path.is_file()]
    return {(str(path.relative_to(folder)), path.stat().st_ino) for path in paths}


@pytest.mark.parametrize("key", tiers(CHANGES, QUICK))
def test_a_changed_key_makes_anew_what_depends_on_it_and_no_more(run, copy, key):
    value, expected = CHANGES[key]
    setattr(copy.roles, key.removeprefix("roles."), value)
    assert run_roles(copy) == expected
    for kind, artifact in KINDS.items():
        assert artifact.touched_by(key) or kind not in expected
        assert key not in artifact.keys or kind in expected
    stages = (finished.stages(store)[ROLES_STAGE] for store in (run[1], Store(copy.run.dir)))
    assert len({*stages}) == 2  # the tables


def groups_done(study: Study, kind: str = "effects") -> list[str]:
    """Keys of the groups of interventions, or of the paths, that are stored, once for each shard
    and piece.
    """
    store = Store(study.run.dir)
    paths = [path for path in store.list("roles") if re.match(rf"roles/{kind}-.*done\.json", path)]
    return [key for path in paths for key, _ in checked.told(store, path)["groups"]]


@pytest.mark.thorough
def test_another_threshold_runs_only_interventions_that_are_new(run, copy):
    before = groups_done(copy)
    shards = -(-INTERVENED // 4)
    assert before and set(Counter(before).values()) == {shards}
    copy.universal.threshold /= 2  # other neurons are universal, and other random ones beside them
    make(copy, CORRELATIONS, PROFILE)
    assert run_roles(copy) == {"effects"}
    store = Store(copy.run.dir)
    assert store.get_table(INTERVENTIONS_PATH) != run[1].get_table(INTERVENTIONS_PATH)
    after = groups_done(copy)
    assert set(Counter(after).values()) == {shards}  # none twice
    assert len(set(after) & set(before)) >= 1 + 3  # the untouched model and every neuron swept
    assert_as_from_nothing(copy, "effects")


@pytest.mark.thorough
def test_one_more_path_is_ablated_alone_and_told_among_the_others(run, copy):
    before = groups_done(copy, "paths")
    shards = -(-INTERVENED // 4)
    assert set(Counter(before).values()) == {shards}
    copy.roles.paths = ["2", "0.4>1.0", ">2.1"]  # one is new, one is named no more
    assert run_roles(copy) == {"scores", "paths"}
    after = groups_done(copy, "paths")
    assert set(Counter(after).values()) == {shards}  # none twice
    assert len(set(after) - set(before)) == 1
    assert_as_from_nothing(copy, "paths")


def test_every_key_of_the_roles_is_changed():
    assert {f"roles.{name}" for name in vars(RolesConfig())} == set(CHANGES)
    assert all(TABLES.touched_by(key) for key in CHANGES)
    assert set(ARTIFACTS) == {*KINDS.values(), TABLES}


def test_more_tokens_leave_the_shards_that_are_there(run, copy):
    copy.roles.tokens += 4 * CONTEXT
    before = _written(copy)
    assert run_roles(copy) == {"effects", "paths"}
    assert before < _written(copy)


@pytest.fixture
def lift() -> Iterator[Callable[[Artifact], None]]:
    """Raises the version of an artifact while a test lasts."""
    were: list[tuple[Artifact, int | str]] = []

    def lift(artifact: Artifact) -> None:
        were.append((artifact, artifact.version))
        object.__setattr__(artifact, "version", f"{artifact.version} raised")

    yield lift
    for artifact, version in were:
        object.__setattr__(artifact, "version", version)


@pytest.mark.parametrize("name", tiers([*KINDS, "declared", "tables"], QUICK))
def test_a_raised_version_makes_that_anew_and_the_tables(run, copy, lift, name):
    before = finished.stages(run[1])
    lift({**KINDS, "declared": DECLARED, "tables": TABLES}[name])
    assert run_roles(copy) == {name} & KINDS.keys()
    store = Store(copy.run.dir)
    after = finished.stages(store)
    assert {stage for stage in after if after[stage] != before[stage]} == {finished.ROLES}
    assert table_bytes(store) == table_bytes(run[1])


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("kind", "tensor"),
    [("scores", "attention.head_N"), ("responses", "found.detector_share_D"),
     ("effects", "sums_MIT"), ("paths", "count")],
)  # fmt: skip
def test_a_missing_tensor_is_told_by_its_name_and_made_anew(run, copy, lift, caplog, kind, tensor):
    store = Store(copy.run.dir)
    paths = [path for path in store.list("roles") if path.endswith(".safetensors")]
    path = next(path for path in paths if path.startswith(f"roles/{kind}-"))
    shard, _, file = path.rpartition("/")
    told = marker(shard) if file == "sums.safetensors" else checked.marker_of(path)
    tensors = checked.get_tensors(store, path, told)
    del tensors[tensor]
    said = {name: each for name, each in checked.told(store, told).items() if name != "files"}
    checked.finish(store, told, [store.put_tensors(path, tensors)], **said)
    lift(TABLES)
    assert run_roles(copy) == {kind}
    assert f"{path} lacks {tensor}: " in caplog.text
    assert table_bytes(store) == table_bytes(run[1])
