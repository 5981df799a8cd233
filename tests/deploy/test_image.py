"""The image: what it copies is there, and what it installs is pinned."""

import re
from importlib.metadata import requires
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text()


def pins(path: str) -> dict[str, str]:
    lines = (ROOT / path).read_text().splitlines()
    pairs = [line.split("==") for line in lines if not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in pairs}


def test_the_clusters_part_of_ray_is_pinned_too():
    both = {**pins("requirements.txt"), **pins("deploy/requirements.txt")}
    wanted = [Requirement(text) for text in requires("ray") or []]
    wanted = [each for each in wanted if each.marker and each.marker.evaluate({"extra": "default"})]
    assert {"aiohttp", "opencensus"} <= {each.name for each in wanted}
    for each in wanted:
        assert each.specifier.contains(both[canonicalize_name(each.name)], prereleases=True), each


def test_no_package_is_pinned_twice():
    assert not pins("requirements.txt").keys() & pins("deploy/requirements.txt").keys()


def test_every_file_copied_is_there():
    sources = re.findall(r"^COPY (\S+) \S+$", DOCKERFILE, re.MULTILINE)
    assert sources == ["requirements.txt", "deploy/requirements.txt", "."]
    assert all((ROOT / source).exists() for source in sources)


def test_it_runs_as_a_number_that_is_not_roots():
    [user] = re.findall(r"^USER (\d+)$", DOCKERFILE, re.MULTILINE)
    assert int(user) > 0
    assert f"--uid {user}" in DOCKERFILE


def test_nothing_made_in_a_checkout_goes_into_the_image():
    left_out = {line.strip("/") for line in (ROOT / ".dockerignore").read_text().splitlines()}
    made = {line.strip("/") for line in (ROOT / ".gitignore").read_text().splitlines()}
    covered = {re.sub(r"^\.\w+_cache$", ".*_cache", name) for name in made} - {"__pycache__"}
    assert {*covered, ".git", "**/__pycache__"} <= left_out
