"""What a newcomer reads and calls is there: documents, their links, targets of make, hooks."""

import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from test_borders import FLOORS

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("deploy/*.md")])
LINK = re.compile(r"\]\(([^)#\s]+)[^)]*\)")
PLACE = re.compile(r"`((?:universal_ray|tests|docs|deploy|conf|jobs|examples)/[\w/.-]*)`")
"""A file or folder of the repository."""
MODULE = re.compile(r"`((?:cli|config|maths|features|planning|storage|corpus|models|runtime|stages|"
                    r"report|benchmark|testbed)/[\w/]+\.py)`")  # fmt: skip
"""A module of the package, by its place within it."""


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_what_a_page_points_to_is_there(page):
    text = page.read_text(encoding="utf-8")
    links = [page.parent / link for link in LINK.findall(text) if "://" not in link]
    places = [ROOT / place for place in PLACE.findall(text)]
    modules = [ROOT / "universal_ray" / module for module in MODULE.findall(text)]
    told = [] if page.name == "CHANGELOG.md" else [*places, *modules]  # it tells of what was, too
    assert [str(path) for path in [*links, *told] if not path.exists()] == []


def test_every_page_is_in_the_index():
    text = (ROOT / "docs/index.md").read_text(encoding="utf-8")
    listed = {(ROOT / "docs" / link).resolve() for link in LINK.findall(text) if "://" not in link}
    assert set(PAGES) - {ROOT / "docs/index.md"} <= listed


def test_the_floors_are_drawn_as_they_are():
    drawn = (ROOT / "docs/architecture.md").read_text(encoding="utf-8").split("```")[1]
    assert [line.split()[0] for line in drawn.strip().splitlines()] == FLOORS[::-1]


def test_make_help_says_what_every_target_is_for():
    make = shutil.which("make")
    if make is None:
        pytest.skip("there is no make")
    phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert phony
    said = subprocess.run([make, "-C", str(ROOT), "-s", "help"], capture_output=True, text=True)
    assert re.findall(r"^make ([\w-]+) +\S", said.stdout, re.MULTILINE) == phony[1].split()


def test_who_works_here_is_told_of_every_marker():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    options = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]
    for marker in options["markers"]:
        assert f"`{marker.partition(':')[0]}`" in text


def test_hooks_run_the_projects_own_environment_and_fetch_nothing():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert [each["repo"] for each in hooks] == ["local"]
    for hook in hooks[0]["hooks"]:
        assert hook["language"] == "system"
        assert ".venv/bin/" in hook["entry"]
