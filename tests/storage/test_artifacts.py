"""Kinds of stored work: what decides them, and how their tensors are typed."""

from dataclasses import dataclass, field, replace

import pytest
import torch
from helpers_stages import follows
from torch import Tensor

from universal_ray.errors import DamagedError
from universal_ray.storage import artifacts
from universal_ray.storage.artifacts import Artifact, lacking
from universal_ray.storage.checked import marker_of, put_tensors
from universal_ray.storage.store import Store

PATH = f"calibration/{12 * '0'}-{12 * '1'}.safetensors"
SUMS = Artifact(name="sums", version=1, depends_on=("units.batch",), grows_with=("corpus.tokens",))
SCORES = Artifact(name="scores", version=2, depends_on=("roles.seed", SUMS))
EFFECTS = Artifact(
    name="effects", version=1, depends_on=("roles.sweep",), chosen_by=(SCORES,)
)
SETTLED = {"units.batch": 8, "roles.seed": 0, "roles.sweep": [1.0], "corpus.tokens": 64}


@pytest.mark.parametrize("key", SETTLED)
def test_a_fingerprint_changes_with_the_keys_of_all_it_is_made_of_and_no_others(key):
    altered = {**SETTLED, key: "another"}
    for artifact, keys in (
        (SUMS, {"units.batch"}),
        (SCORES, {"units.batch", "roles.seed"}),
        (EFFECTS, {"roles.sweep"}),
    ):
        same = artifact.fingerprint(SETTLED, "a") == artifact.fingerprint(altered, "a")
        assert same == (key not in keys)


def test_a_fingerprint_changes_with_what_it_is_made_of():
    assert SUMS.fingerprint(SETTLED, "a") != SUMS.fingerprint(SETTLED, "b")
    assert SUMS.fingerprint(SETTLED, "a", "b") != SUMS.fingerprint(SETTLED, "ab")


def test_a_raised_version_outdates_what_is_made_of_it_and_not_what_it_chooses():
    raised = replace(SUMS, version=2)
    scores = replace(SCORES, depends_on=("roles.seed", raised))
    effects = replace(EFFECTS, chosen_by=(scores,))
    assert scores.fingerprint(SETTLED) != SCORES.fingerprint(SETTLED)
    assert effects.fingerprint(SETTLED) == EFFECTS.fingerprint(SETTLED)


def test_keys_touch_what_follows_them():
    assert SUMS.touched_by("corpus.tokens") and EFFECTS.touched_by("corpus.tokens")
    assert EFFECTS.touched_by("roles.seed") and not SUMS.touched_by("roles.seed")
    assert follows(EFFECTS, SUMS) and not follows(SUMS, EFFECTS)


def test_a_key_that_is_not_settled_is_no_default():
    with pytest.raises(KeyError, match=r"roles\.sweep"):
        EFFECTS.fingerprint({"units.batch": 8})


@dataclass(frozen=True)
class Inner:
    error: Tensor
    low: Tensor | None


@dataclass(frozen=True)
class Outer:
    n: float
    heads: int
    rows: Inner
    columns: Inner | None
    more: dict[str, Tensor]


def outer(**changes) -> Outer:
    inner = Inner(torch.arange(3), None)
    return replace(Outer(2.5, 7, inner, None, {"x": torch.ones(2)}), **changes)


def test_what_is_stored_comes_back_as_it_was(tmp_path):
    store = Store(str(tmp_path))
    stored = outer(columns=Inner(torch.zeros(1), torch.ones(1)))
    artifacts.put(store, PATH, stored)
    back = artifacts.get(store, PATH, Outer)
    assert (back.n, back.heads, back.rows.low) == (2.5, 7, None)
    for mine, other in (
        (back.rows.error, stored.rows.error), (back.columns.low, stored.columns.low),
        (back.more["x"], stored.more["x"]),
    ):  # fmt: skip
        assert torch.equal(mine, other) and mine.dtype == other.dtype


def test_optional_fields_stay_absent():
    found = artifacts.tensors(outer())
    assert set(found) == {"n", "heads", "rows.error", "more.x"}
    assert artifacts.of(Outer, found, "there").columns is None


@pytest.mark.parametrize("name", ["n", "heads", "rows.error"])
def test_a_missing_tensor_is_told_by_its_name_and_made_anew(tmp_path, name):
    store = Store(str(tmp_path))
    found = artifacts.tensors(outer())
    del found[name]
    put_tensors(store, PATH, found)
    with pytest.raises(DamagedError, match=f"{PATH} lacks {name}: "):
        artifacts.get(store, PATH, Outer)
    assert not store.exists(marker_of(PATH))  # the marker fell: whoever makes it makes it anew


def test_a_tensor_that_nothing_declares_is_refused():
    found = {**artifacts.tensors(outer()), "rows.other": torch.ones(1)}
    with pytest.raises(DamagedError, match=r"holds rows\.other too"):
        artifacts.of(Outer, found, "there")


@dataclass(frozen=True, kw_only=True)
class Explained:
    name: str
    bias: Tensor | None = field(metadata=lacking("bias"))
    by_kind: dict[str, Tensor] = field(metadata={"names": ("current", "previous")})
    not_measured: dict[str, str]


def explained(**changes) -> Explained:
    kinds = {"current": torch.ones(1), "previous": torch.zeros(1)}
    reasons = {"up": "no gate", "bias": "no bias"}  # not in the order of the alphabet
    return replace(
        Explained(name="é", bias=None, by_kind=kinds, not_measured=reasons), **changes
    )


def test_text_and_reasons_come_back_in_their_order(tmp_path):
    store = Store(str(tmp_path))
    artifacts.put(store, PATH, explained())
    back = artifacts.get(store, PATH, Explained)
    assert back.name == "é" and list(back.not_measured.items()) == [
        ("up", "no gate"), ("bias", "no bias")
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"not_measured": {"up": "no gate"}}, "bias"),
        ({"not_measured": {}}, "bias"),
        ({"by_kind": {"current": torch.ones(1)}}, r"by_kind\.previous"),
    ],
)
def test_what_is_missing_without_a_reason_is_told_by_its_name(changes, name):
    with pytest.raises(DamagedError, match=f"there lacks {name}: "):
        artifacts.of(Explained, artifacts.tensors(explained(**changes)), "there")


def test_what_is_missing_without_a_reason_is_never_stored(tmp_path):
    store = Store(str(tmp_path))
    with pytest.raises(KeyError, match=f"{PATH} would lack bias"):
        artifacts.put(store, PATH, explained(not_measured={}))
    assert store.list() == []


def test_missing_reasons_are_missing_too():
    found = artifacts.tensors(explained())
    del found["not_measured"]
    with pytest.raises(DamagedError, match="lacks not_measured: "):
        artifacts.of(Explained, found, "there")
