"""Who may import whom, and how long a file may be. The tables are the design; files obey them."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = "universal_ray"
FILES = sorted([*ROOT.glob(f"{PACKAGE}/**/*.py"), *ROOT.glob("jobs/*.py")])

ONLY_IN = {
    "transformer_lens": ["universal_ray/models.py"],
    "fsspec": ["universal_ray/store.py"],
    "ray": [
        "universal_ray/cluster.py",
        "universal_ray/scheduler.py",
        "jobs/train_seeds.py",
    ],
    "hydra": ["universal_ray/options.py"],
    "omegaconf": ["universal_ray/options.py"],
}
"""Packages that one seam alone touches: files, or folders by a slash at the end."""

PURE = [
    "calibration", "capacity", "changes", "errors", "gelu", "items", "moments", "names", "plan",
    "profile/plan", "progress", "rotation", "study", "summary", "sums", "wellformed",
]
PURE_PACKAGES = {"torch", "numpy", "jaxtyping"}
"""Pure modules import these, the standard library and each other."""

OWN = {
    "store": ["disk", "errors", "failures", "names"],
    "disk": [],
    "checked": ["errors", "store"],
    "finished": ["checked", "errors", "store"],
    "failures": [],
    "names": [],
    "wellformed": [],
    "gelu": [],
    "calibration": ["errors"],
    "moments": ["calibration", "errors"],
    "rotation": [],
    "summary": [],
    "items": ["errors", "study"],
    "capacity": ["errors", "items", "study"],
    "plan": ["capacity", "items", "study"],
    "profile/plan": ["capacity", "errors", "items"],
    "sums": ["capacity", "items", "moments"],
    "study": ["errors"],
    "changes": ["study"],
    "configuration": ["errors", "wellformed"],
    "hub": ["errors"],
    "checkpoint": ["configuration", "errors"],
    "errors": [],
    "progress": [],
    "driver": ["cluster", "errors", "lock", "scheduler", "store", "study"],
}
"""All of the project that these modules may import."""

NEVER = {
    "worker": [
        "assemble", "cluster", "driver", "job", "preflight", "reduce", "report", "scheduler",
    ],
    "reduce": ["assemble", "cluster", "driver", "job", "preflight", "report", "scheduler"],
    "scheduler": [
        "assemble", "correlation_stage", "driver", "items", "job", "plan", "preflight", "profile",
        "reduce", "report", "roles", "worker",
    ],
    "correlation_stage": ["driver", "job", "profile", "report", "roles"],
    "models": ["store", "worker", "driver", "reduce"],
    "corpus": ["models", "store", "worker", "driver", "reduce"],
}
"""Ways back that must not be taken."""

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


def violations(source: str, path: str) -> list[str]:
    """What a file at `path` (relative to the repository) does that it must not."""
    found = []
    module = path.removeprefix(f"{PACKAGE}/").removesuffix(".py")
    limit = JOB_LINES if path.startswith("jobs/") else MODULE_LINES
    if len(source.splitlines()) > limit:
        found.append(f"{path} has more than {limit} lines")
    for name in sorted(imported(source, path)):
        top, _, inner = name.partition(".")
        own = inner.split(".")[0] if top == PACKAGE else None
        homes = ONLY_IN.get(top)
        if homes and not any(path == h or (h[-1] == "/" and path.startswith(h)) for h in homes):
            found.append(f"{path} imports {top}")
        if own is None:
            if module in PURE and top not in PURE_PACKAGES | sys.stdlib_module_names:
                found.append(f"{path} imports {top} and is pure")
        elif own not in OWN.get(module, [own]) or own in NEVER.get(module, []):
            found.append(f"{path} imports {PACKAGE}.{own}")
    return found


@pytest.mark.parametrize("path", [str(path.relative_to(ROOT)) for path in FILES])
def test_files_keep_to_their_borders(path):
    assert violations((ROOT / path).read_text(encoding="utf-8"), path) == []


def test_the_tables_name_files_that_exist():
    paths = {str(path.relative_to(ROOT)) for path in FILES}
    for module in {*PURE, *OWN, *NEVER}:
        assert f"{PACKAGE}/{module}.py" in paths
    for home in [home for homes in ONLY_IN.values() for home in homes if home[-1] != "/"]:
        assert home in paths
    assert set(PURE) <= set(OWN)


def test_models_and_tokenizers_are_loaded_in_one_place_each():
    """Where what a checkpoint lacks and whose code would run is looked at."""
    loading = [path for path in FILES if ".from_pretrained(" in path.read_text(encoding="utf-8")]
    assert [path.name for path in loading] == ["checkpoint.py", "tokenizer.py"]


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("universal_ray/corpus.py", "import transformer_lens"),
        ("universal_ray/taxonomy/profile.py", "from transformer_lens.model_bridge import Bridge"),
        ("universal_ray/driver.py", "import fsspec.core as core"),
        ("universal_ray/reduce.py", "def task():\n    import ray\n"),
        ("universal_ray/worker.py", "if TYPE_CHECKING:\n    from ray.actor import Handle\n"),
        ("jobs/run.py", "import ray"),
        ("universal_ray/study.py", "from hydra.core.config_store import ConfigStore"),
        ("universal_ray/driver.py", "from omegaconf import OmegaConf"),
        ("universal_ray/moments.py", "import scipy.stats"),
        ("universal_ray/moments.py", "from universal_ray.store import Store"),
        ("universal_ray/moments.py", "from .store import Store"),
        ("universal_ray/plan.py", "from universal_ray import store"),
        ("universal_ray/plan.py", "from . import store"),
        ("universal_ray/rotation.py", "import universal_ray.moments"),
        ("universal_ray/worker.py", "from universal_ray.driver import run"),
        ("universal_ray/worker.py", "from universal_ray import driver"),
        ("universal_ray/store.py", "from universal_ray.plan import Unit"),
        ("jobs/run.py", "\n" * 80),
        ("universal_ray/report/screen.py", "\n" * 401),
    ],
)
def test_a_planted_violation_is_found(path, source):
    assert violations(source, path)


def test_what_is_allowed_is_not_found():
    for path, source in [
        ("universal_ray/moments.py", "import torch\nfrom universal_ray.errors import E"),
        ("universal_ray/models.py", "import transformer_lens"),
        ("universal_ray/scheduler.py", "import ray\nfrom universal_ray import cluster"),
        ("universal_ray/options.py", "import hydra"),
        ("universal_ray/corpus.py", "import raycast, hydrant"),
    ]:
        assert violations(source, path) == []
