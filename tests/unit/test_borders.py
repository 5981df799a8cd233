"""Who may import whom, by folder, and how long a file may be. The tables are the design."""

import ast
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = "universal_ray"
FILES = sorted([*ROOT.glob(f"{PACKAGE}/**/*.py"), *ROOT.glob("jobs/*.py")])

FLOORS = [
    "errors", "config", "maths", "features", "planning", "storage", "corpus", "models", "runtime",
    "testbed", "stages", "report", "benchmark", "cli",
]  # fmt: skip
"""A module imports its own folder and those before it in this list, never one that comes after."""

HUB = "storage.hub", "storage.hub_answers"
NARROW = {
    "config": ["errors"],
    "maths": ["errors"],
    "features": ["errors", "maths"],
    "planning": ["errors", "config"],
    "storage": ["errors", "config"],
    "corpus": ["errors", "config.wellformed", "storage.disk", *HUB],
    "models": [
        "errors", "config.hashing", "config.site", "config.wellformed", "maths", *HUB,
    ],
    "report": ["errors", "config", "maths", "storage", "runtime", "stages"],
}
"""Folders that may import even less of the project than their floor allows: folders or modules."""

FIELD = {"torch", "numpy", "jaxtyping"}
PACKAGES = {
    "errors": set(),
    "config": set(),
    "maths": FIELD | {"scipy"},
    "features": FIELD | {"scipy", "sklearn", "spacy", "yaml"},
    "planning": FIELD,
}
"""All that these folders import beside the standard library: pure, but for the data of features."""

ONLY_IN = {
    "transformer_lens": ["models/bridge", "models/source"],
    "fsspec": ["storage/store"],
    "ray": ["runtime/cluster", "runtime/scheduler", "jobs/train_seeds"],
    "hydra": ["cli/options", "cli/checks", "cli/grammar"],
    "omegaconf": ["cli/options"],
}
"""Packages that one seam alone touches: modules, or folders by a slash at the end."""

STAGES = ["correlations", "profile", "roles", "report"]
ROOMS = {"artifacts", "schemas"}
"""What a stage may know of the stages before it."""

JOB_LINES, MODULE_LINES = 79, 400


def imported(source: str, path: str) -> set[str]:
    """Full dotted names of everything a file imports, anywhere in it, under any guard."""
    names = set()
    package = path.removesuffix(".py").split("/")[:-1]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            names |= {f"{base}.{alias.name}" for alias in node.names}
    return names


def _upward(here: list[str], there: list[str]) -> bool:
    """Whether a module of the package, by the parts of its name, must not import another."""
    mine, other = here[0], there[0]
    if mine == other:
        return mine == "stages" and _reaches(here[1:], there[1:])
    if mine == "__init__":
        return False  # the public names
    if other not in FLOORS or FLOORS.index(other) > FLOORS.index(mine):
        return True
    allowed = [name.split(".") for name in NARROW.get(mine, FLOORS)]
    return not any(there[: len(name)] == name for name in allowed)


def _reaches(here: list[str], there: list[str]) -> bool:
    """Whether something in `stages` reaches into a stage where it must not."""
    if there[0] not in STAGES or here[0] == there[0]:
        return False
    if here[0] not in STAGES:
        return True  # what all stages share knows none of them
    earlier = STAGES.index(there[0]) < STAGES.index(here[0])
    return not (earlier and len(there) > 1 and there[1] in ROOMS)


def violations(source: str, path: str) -> Iterator[str]:
    """What a file at `path` (relative to the repository) does that it must not."""
    module = path.removesuffix(".py").removeprefix(f"{PACKAGE}/")
    parts = module.split("/")
    limit = JOB_LINES if path.startswith("jobs/") else MODULE_LINES
    if len(source.splitlines()) > limit:
        yield f"{path} has more than {limit} lines"
    for name in sorted(imported(source, path)):
        top, _, inner = name.partition(".")
        homes = ONLY_IN.get(top)
        if homes and not any(module == h or (h[-1] == "/" and module.startswith(h)) for h in homes):
            yield f"{path} imports {top}, which is for {' and '.join(homes)}"
        if path.startswith("jobs/"):
            continue
        if top == PACKAGE:
            if inner and _upward(parts, inner.split(".")):
                yield f"{path} imports {name}"
        elif top not in PACKAGES.get(parts[0], {top}) | sys.stdlib_module_names:
            yield f"{path} imports {top}, and {parts[0]} is pure"


def arrows() -> dict[str, set[str]]:
    """Every module of the package with those that it imports."""
    paths = [path for path in FILES if path.parts[len(ROOT.parts)] == PACKAGE]
    modules = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in paths}
    found = {}
    for module, path in modules.items():
        names = imported(path.read_text(encoding="utf-8"), str(path.relative_to(ROOT)))
        found[module] = {
            each for name in names for each in (name, name.rpartition(".")[0]) if each in modules
        } - {module}
    return found


def circles(graph: dict[str, set[str]]) -> list[str]:
    """Modules that can reach themselves."""
    left = dict(graph)
    while free := [module for module, others in left.items() if not others & left.keys()]:
        for module in free:
            del left[module]
    return sorted(left)


@pytest.mark.parametrize("path", [str(path.relative_to(ROOT)) for path in FILES])
def test_files_keep_to_their_borders(path):
    assert list(violations((ROOT / path).read_text(encoding="utf-8"), path)) == []


def test_models_and_tokenizers_are_loaded_in_one_place_each():
    """Where what a checkpoint lacks and whose code would run is looked at."""
    loading = [path for path in FILES if ".from_pretrained(" in path.read_text(encoding="utf-8")]
    assert [path.name for path in loading] == ["checkpoint.py", "tokenizer.py"]


def test_no_modules_import_each_other_in_a_circle():
    assert circles(arrows()) == []
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": set()}) == ["a", "b", "c"]


def reached(graph: dict[str, set[str]], starts: list[str]) -> set[str]:
    """Modules that some modules import, directly or by others."""
    found, left = set[str](), list(starts)
    while left:
        module = left.pop()
        if module not in found:
            found.add(module)
            left += graph[module]
    return found


def test_what_runs_without_a_cluster_imports_none():
    graph = arrows()
    runtime = [f"{PACKAGE}.runtime.{name}" for name in ("driver", "executor", "local", "worker")]
    stages = [module for module in graph if module.startswith(f"{PACKAGE}.stages.")]
    clusters = {f"{PACKAGE}.runtime.cluster", f"{PACKAGE}.runtime.scheduler"}
    assert not reached(graph, runtime + stages) & clusters
    assert reached(graph, [f"{PACKAGE}.cli.study"]) >= clusters
    assert reached({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": set()}, ["a"]) == {"a", "b", "c"}


def test_every_file_stands_in_a_folder_of_the_design():
    top = {path.name for path in (ROOT / PACKAGE).glob("*.py")}
    assert top == {"__init__.py", "errors.py"}
    folders = {path.name for path in (ROOT / PACKAGE).iterdir() if list(path.glob("*.py"))}
    assert folders | {"errors"} == set(FLOORS)


def test_no_two_files_of_tests_have_one_name():
    """pytest and mypy know them by their names alone."""
    names = Counter(path.name for path in (ROOT / "tests").glob("**/*.py"))
    del names["conftest.py"]  # by its folder
    assert [name for name, count in names.items() if count > 1] == []


def test_the_seams_exist():
    modules = {str(path.relative_to(ROOT).with_suffix("")) for path in FILES}
    for home in {home for homes in ONLY_IN.values() for home in homes if home[-1] != "/"}:
        assert home in modules or f"{PACKAGE}/{home}" in modules


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("universal_ray/corpus/rows.py", "import transformer_lens"),
        ("universal_ray/features/bank.py", "from transformer_lens.model_bridge import Bridge"),
        ("universal_ray/runtime/driver.py", "import fsspec.core as core"),
        ("universal_ray/stages/correlations/reduce.py", "def task():\n    import ray\n"),
        ("universal_ray/runtime/worker.py", "def f():\n    from ray.actor import Handle\n"),
        ("jobs/run.py", "import ray"),
        ("universal_ray/config/study.py", "from hydra.core.config_store import ConfigStore"),
        ("universal_ray/runtime/driver.py", "from omegaconf import OmegaConf"),
        ("universal_ray/maths/moments/accumulate.py", "import sklearn.cluster"),
        ("universal_ray/maths/moments/accumulate.py", "from universal_ray.storage import store"),
        ("universal_ray/maths/moments/accumulate.py", "from ...config.study import Study"),
        ("universal_ray/planning/items.py", "from universal_ray.storage.store import Store"),
        ("universal_ray/runtime/worker.py", "from universal_ray.stages import inputs"),
        ("universal_ray/storage/store.py", "from universal_ray.planning.items import Unit"),
        ("universal_ray/stages/profile/stage.py",
         "from universal_ray.stages.correlations.reduce import TOP"),
        ("universal_ray/stages/correlations/stage.py",
         "from universal_ray.stages.profile.artifacts import PATH"),
        ("universal_ray/stages/inputs.py", "from universal_ray.stages.roles.schemas import ROLES"),
        ("universal_ray/report/screen.py", "from universal_ray.models.source import resolve"),
        ("jobs/run.py", "\n" * 80),
        ("universal_ray/report/screen.py", "\n" * 401),
    ],
)  # fmt: skip
def test_a_planted_violation_is_found(path, source):
    assert list(violations(source, path))


def test_what_is_allowed_is_not_found():
    for path, source in [
        ("universal_ray/maths/moments/accumulate.py",
         "import torch\nfrom universal_ray.errors import E"),
        ("universal_ray/models/bridge.py", "import transformer_lens"),
        ("universal_ray/runtime/scheduler.py",
         "import ray\nfrom universal_ray.runtime import cluster"),
        ("universal_ray/stages/roles/stage.py",
         "from universal_ray.stages.profile.artifacts import PATH"),
        ("jobs/run.py", "\n" * 79),
        ("universal_ray/corpus/rows.py", "import raycast, hydrant"),
    ]:  # fmt: skip
        assert list(violations(source, path)) == []
