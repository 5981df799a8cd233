"""What is declared, pinned and shipped agrees with itself."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "universal_ray"
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


def git_files() -> list[Path]:
    """Every file that git knows or would take."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    paths = [ROOT / name for name in listed.stdout.decode().split("\0") if name]
    return [path for path in paths if path.is_file()]


def shipped() -> list[Path]:
    """Those of text."""
    binary = {".safetensors", ".arrow", ".png"}
    return [path for path in git_files() if path.suffix not in binary]


def test_no_package_index_nor_path_of_a_developers_machine_is_named():
    index = r"py[p]i\.org|python[h]osted|download\.py[t]orch|index-url[ =]+[\"']?http"
    machine = r"(?<![\w.])/(work|root)/"
    found = [
        f"{path.relative_to(ROOT)}: {match[0]}"
        for path in shipped()
        for match in re.finditer(f"{index}|{machine}", path.read_text(errors="replace"))
    ]
    assert not found


def test_every_entry_point_that_is_named_is_there():
    """In errors, prose and manifests; CHANGELOG.md alone tells of what was."""
    named = {
        (str(path.relative_to(ROOT)), name)
        for path in shipped()
        if path.name != "CHANGELOG.md"
        for name in re.findall(r"\bjobs/\w+\.py\b", path.read_text(errors="replace"))
    }
    assert len(named) > 10
    assert not {(path, name) for path, name in named if not (ROOT / name).is_file()}


@pytest.fixture(scope="session")
def wheel(tmp_path_factory) -> Path:
    """A wheel of the files that git knows or would take."""
    folder = tmp_path_factory.mktemp("wheel")
    for path in [*git_files(), PACKAGE / "conf"]:
        copy = folder / "source" / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy, follow_symlinks=False)
    pip = [sys.executable, "-m", "pip", "wheel", "--no-index", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--quiet", "--wheel-dir", folder, folder / "source"], check=True)
    (built,) = folder.glob("*.whl")
    return built


def test_a_wheel_has_all_that_the_package_has(wheel):
    """Code, configuration, rules, word lists, embedded models and tokens."""
    packed = set(zipfile.ZipFile(wheel).namelist())
    wanted = {str(path.relative_to(ROOT)) for path in git_files() if PACKAGE in path.parents}
    choices = {f"universal_ray/{path.relative_to(ROOT)}" for path in ROOT.glob("conf/**/*.yaml")}
    assert len(choices) > 15
    assert not (wanted | choices) - packed
    folders = {name.split("/")[0] for name in packed}
    assert {each for each in folders if not each.endswith(".dist-info")} == {"universal_ray"}


def test_a_wheel_brings_the_command(wheel):
    with zipfile.ZipFile(wheel) as packed:
        (told,) = (name for name in packed.namelist() if name.endswith("/entry_points.txt"))
        assert "universal-ray = universal_ray.cli.doors:main" in packed.read(told).decode()


@pytest.mark.thorough
def test_an_installed_wheel_makes_a_study_away_from_the_checkout(wheel, tmp_path):
    """In a new environment that has the packages of this one, but not its link to a checkout."""
    away, home = tmp_path / "away", tmp_path / "environment"
    away.mkdir()
    venv.create(home, with_pip=False)
    python = home / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet"]
    subprocess.run([*pip, "--no-index", "--no-deps", wheel], check=True)
    (packages,) = home.glob("lib/python*/site-packages")
    (packages / "those_of_the_tests.pth").write_text(f"{sysconfig.get_path('purelib')}\n")

    def said(*command: str | Path) -> str:
        clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        return subprocess.run(
            command, cwd=away, env=clean, stdout=subprocess.PIPE, text=True, check=True
        ).stdout

    command = home / "bin" / "universal-ray"
    models = "models.compared=[${testbed:b}]"
    shown = said(command, "run", "stages=[correlations]", models, "corpus.tokens=4096")
    assert "tables/neurons.parquet" in shown
    assert "finished tables" in said(command, "status", "run.dir=runs/tiny")
    lines = (
        "import universal_ray; print(universal_ray.__file__);"
        "print(universal_ray.open('runs/tiny').table('neurons').num_rows)"
    )
    place, rows = said(python, "-c", lines).splitlines()
    assert Path(place).is_relative_to(home) and rows == "2048"
