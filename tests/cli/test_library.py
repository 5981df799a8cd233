"""The package as a library: its public names, their examples, and how quick it is to import."""

import doctest
import subprocess
import sys
from operator import attrgetter
from pathlib import Path

import pytest

import universal_ray
from universal_ray.errors import ConfigurationError, UniversalRayError

ROOT = Path(__file__).parents[2]
HEAVY = (
    "torch", "ray", "transformer_lens", "transformers", "tokenizers", "datasets", "huggingface_hub",
    "numpy", "scipy", "sklearn", "pandas", "pyarrow", "fsspec", "hydra", "omegaconf", "rich",
    "matplotlib", "spacy",
)  # fmt: skip
"""What takes from a tenth of a second to many, and is imported by what needs it."""


def imported_by(lines: str) -> set[str]:
    """Heavy packages that a fresh interpreter has loaded after some lines."""
    ended = subprocess.run(
        [sys.executable, "-c", f"import sys\n{lines}\nprint(*sys.modules)"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return set(ended.stdout.split()) & set(HEAVY)


def test_importing_the_package_loads_nothing_heavy():
    assert imported_by("import universal_ray") == set()
    # What a job imports before Ctrl-C ends it in a sentence.
    jobs = [f"import runpy; runpy.run_path({str(path)!r})" for path in ROOT.glob("jobs/*.py")]
    assert imported_by("\n".join(["import universal_ray.cli.doors", *jobs])) == set()


@pytest.mark.thorough
def test_correlating_matrices_loads_no_cluster_and_no_model():
    named = "universal_ray.Study, universal_ray.run, universal_ray.open, universal_ray.MissingError"
    light = "assert not {'torch', 'pandas'} & set(sys.modules)\nuniversal_ray.correlate"
    found = imported_by(f"import universal_ray\n{named}\n{light}")
    assert not found & {"ray", "transformer_lens", "transformers", "datasets", "hydra"}


def test_every_public_name_is_there():
    assert {"Study", "run", "open", "compose", "correlate", "Run", "UniversalRayError"} <= set(
        universal_ray.__all__
    )
    assert all(getattr(universal_ray, name) is not None for name in universal_ray.__all__)
    assert set(universal_ray.__all__) <= set(dir(universal_ray))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        universal_ray.nothing  # noqa: B018


def test_every_error_is_public():
    below = {each.__name__ for each in UniversalRayError.__subclasses__()}
    assert below | {"UniversalRayError"} <= set(universal_ray.__all__)


@pytest.mark.thorough
def test_the_examples_do_what_they_say(tmp_path, monkeypatch):
    """In one directory, one after another: the first makes the run that the others read."""
    monkeypatch.chdir(tmp_path)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    for name in (
        "run", "open", "Run", "Run.table", "compose", "correlate", "Study", "UniversalRayError"
    ):  # fmt: skip
        (example,) = doctest.DocTestFinder(recurse=False).find(
            attrgetter(name)(universal_ray), name, globs={}
        )
        assert example.examples, name
        assert runner.run(example).failed == 0, name


def test_an_executor_that_is_none_is_refused_before_there_is_a_run(tmp_path):
    study = universal_ray.compose(f"run.dir={tmp_path}/run")
    with pytest.raises(ConfigurationError, match=r"did you mean local \(of ray, local\)\?"):
        universal_ray.run(study, executor="locale")
    assert not (tmp_path / "run").exists()
