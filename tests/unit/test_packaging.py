"""What is declared, pinned and shipped agrees with itself."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from universal_ray import testbed

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
PINS = dict(
    line.split("==")
    for line in (ROOT / "requirements.txt").read_text().splitlines()
    if not line.startswith("#")
)
VERSIONS = {canonicalize_name(name): version for name, version in PINS.items()}


@pytest.mark.parametrize("text", [*PROJECT["dependencies"], *EXTRAS["test"], *EXTRAS["lint"]])
def test_every_declared_requirement_is_pinned_within_its_bounds(text):
    requirement = Requirement(text)
    version = VERSIONS[canonicalize_name(requirement.name)]
    assert requirement.specifier.contains(version), version


def test_torch_is_pinned_without_a_local_label():
    assert PINS["torch"] == "2.13.0"


def shipped() -> list[Path]:
    """Every text file that git knows or would take."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    paths = [ROOT / name for name in listed.stdout.decode().split("\0") if name]
    binary = {".safetensors", ".arrow", ".png"}
    return [path for path in paths if path.is_file() and path.suffix not in binary]


def test_no_package_index_nor_path_of_a_developers_machine_is_named():
    index = r"py[p]i\.org|python[h]osted|download\.py[t]orch|index-url[ =]+[\"']?http"
    machine = r"(?<![\w.])/(work|root)/"
    found = [
        f"{path.relative_to(ROOT)}: {match[0]}"
        for path in shipped()
        for match in re.finditer(f"{index}|{machine}", path.read_text(errors="replace"))
    ]
    assert not found


def test_every_file_of_the_testbed_goes_into_a_wheel():
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    folder = Path(testbed.__file__).parent
    packed = {
        path for p in patterns["package-data"]["universal_ray.testbed"] for path in folder.glob(p)
    }
    assert packed >= {path for path in (folder / "data").rglob("*") if path.is_file()}
