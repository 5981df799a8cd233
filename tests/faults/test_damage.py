"""Any file of a run directory is damaged at any moment; the same command gives the same tables."""

import re
from collections import Counter
from pathlib import Path

import pytest
from helpers_study import ALL, make, table_bytes
from helpers_whole import DAMAGES, changed, copied, damage, whole_run

from universal_ray.errors import UniversalRayError
from universal_ray.storage.store import Store

LEFT_ALONE = "lock/", ".nonce/", "study.yaml", "hardware.json"
"""Signs of drivers; and what says of which study a run directory is, and made on what."""
BATCHES = 20
"""Of all stages, with work in them."""


@pytest.fixture(scope="module")
def whole(once):
    """A study, the moments of its life and its tables."""
    study, moments = whole_run(once)
    assert len(moments) == BATCHES
    return study, [*moments, Path(study.run.dir)], table_bytes(Store(study.run.dir))


def kind_of(path: str) -> str:
    """Of what kind a file is: files of one kind differ in model, unit, shard or layer."""
    return re.sub(r"[0-9a-f]{8,}|\d+", "#", path)


def files(folder: Path) -> list[str]:
    found = [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()]
    return sorted(path for path in found if not path.startswith(LEFT_ALONE))


def one_of_each_kind(folder: Path) -> list[str]:
    return list({kind_of(path): path for path in files(folder)}.values())


def outcome(study, expected) -> str:
    """Of the same command, and of it again where it needs to be told twice."""
    for told in ("the same tables", "the same tables, told twice"):
        try:
            return told if table_bytes(make(study, *ALL)) == expected else "OTHER TABLES"
        except UniversalRayError as error:
            assert "\n" not in str(error)
            last = f"REFUSED: {error}"
        except Exception as error:
            return f"TRACEBACK: {error!r}"
    return last


def after_damage(whole, moment: Path, folder: Path, paths: list[str], kind: str) -> str:
    study, _, expected = whole
    again = changed(study, run__dir=str(copied(moment, folder)))
    for path in paths:
        damage(folder / path, kind)
    return outcome(again, expected)


@pytest.mark.thorough
@pytest.mark.parametrize(("place", "kind"), [(11, "half"), (18, "half"), (-1, "bit")])
def test_with_a_file_of_every_kind_damaged_the_same_command_gives_the_same_tables(
    whole, tmp_path, place, kind
):
    moment = whole[1][place]
    paths = one_of_each_kind(moment)
    assert len(paths) > 12
    assert after_damage(whole, moment, tmp_path / "run", paths, kind) == "the same tables"


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_of_any_file_damaged_at_any_moment_the_same_command_gives_the_same_tables(
    whole, tmp_path
):
    outcomes, wrong = Counter[str](), []
    for moment in whole[1]:
        for path in one_of_each_kind(moment):
            for kind in DAMAGES:
                name = f"{moment.name} {path} {kind}"
                found = after_damage(
                    whole, moment, tmp_path / f"{sum(outcomes.values())}", [path], kind
                )
                outcomes[found.split(":")[0]] += 1
                if found != "the same tables":
                    wrong.append(f"{name}: {found}")
    print(dict(outcomes))
    assert not wrong, "\n".join(wrong)
