"""The command `universal-ray`: what it says of itself, and which stages it is asked for."""

import shlex
import sys
from dataclasses import fields
from pathlib import Path

import pytest
from helpers_study import make, make_models, make_study, make_tokens

from universal_ray import __version__
from universal_ray.cli.commands import COMMANDS, Benchmark, Compare, Status, main
from universal_ray.cli.help import documented, options_of
from universal_ray.cli.options import composed
from universal_ray.cli.study import STAGES, StudyCommand, check_stages
from universal_ray.config.study import Study
from universal_ray.errors import ConfigurationError

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "jobs"))
from train_saes import TrainSaes  # noqa: E402
from train_seeds import TrainSeeds  # noqa: E402

sys.path.pop(0)
SCHEMAS = {
    "run": StudyCommand, "status": Status, "compare": Compare, "benchmark": Benchmark,
    "train_saes": TrainSaes, "train_seeds": TrainSeeds,
}
BY_ITSELF = {"layers", "tokens", "rotations", "device", "threads", "forward", "heads", "context",
             "vocabulary", "batch", "steps", "warmup", "learning_rate", "weight_decay"}  # fmt: skip
"""Names of fields that say what they are where nothing else is told."""


@pytest.fixture
def typed(monkeypatch, capsys):
    """The command as it is typed: its exit status, what it prints and what it says went wrong."""

    def enter(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["/somewhere/bin/universal-ray", *words])
        status = 0
        try:
            main()
        except SystemExit as ended:
            status = int(str(ended.code or 0))
        return status, *capsys.readouterr()

    return enter


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"]])
def test_help_names_every_command(typed, words):
    status, told, wrong = typed(*words)
    assert (status, wrong) == (0, "")
    assert all(f"\n  {name} " in told for name in COMMANDS)


def test_the_version_is_told(typed):
    assert typed("--version") == (0, f"{__version__}\n", "")


def test_a_command_that_is_none_is_refused_with_the_nearest(typed):
    status, told, wrong = typed("stats", "run.dir=x")
    assert (status, told) == (1, "")
    assert wrong == (
        "error: stats is no command: did you mean status (of run, status, compare, benchmark)?\n"
    )


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_a_command_tells_its_options(typed, name):
    status, told, wrong = typed(name, "--help")
    assert (status, wrong) == (0, "")
    assert f"usage: universal-ray {name} " in told
    about, *examples = told.split("\n\n  ")[0].split(f"\n  universal-ray {name} ")
    assert about.split(f"\n\nusage: universal-ray {name} ")[0].rstrip().endswith(".")
    assert len(examples) == 2
    configuration = "config" if name == "run" else name
    for example in examples:  # each is what it may be
        composed(shlex.split(example.splitlines()[0]), configuration, SCHEMAS[name])
    assert ("Groups of values" in told) == (name == "run")  # others have only their own keys
    for option in options_of(SCHEMAS[name]):
        assert option.section or f"\n  {option.key}=" in told
        assert " ".join(option.told.split()) in " ".join(told.split())
    assert max(map(len, told.splitlines())) <= 100 or "{testbed" in told


def test_help_tells_choices_and_the_values_that_options_lead_to(typed, tmp_path):
    own = tmp_path / "experiment" / "mine.yaml"
    own.parent.mkdir()
    own.write_text("# @package _global_\n# Mine alone. No other.\nbaseline:\n  rotations: 17\n")
    flags = ["--help", "--config-dir", str(tmp_path)]
    status, told, _ = typed("run", *flags, "experiment=mine", "roles.sweep=[1,2.5]")
    assert status == 0
    assert "\n  experiment=mine\n      Mine alone\n" in told
    assert "First, for twenty minutes: python jobs/train_saes.py\n" in told
    assert "\n  baseline.rotations=17\n" in told and "\n  roles.sweep=[1.0,2.5]\n" in told
    assert "\n  models.tokenizer=null\n" in told and "\n  dry_run=false\n" in told
    assert "\n  corpus.text.source=\n" in told  # of a section that is null
    assert "\n      all: every two models\n" in told
    status, told, wrong = typed("run", "--help", "experiment=yours")
    assert (status, told) == (1, "") and wrong.startswith("error: experiment=yours is no choice")


@pytest.mark.parametrize("schema", SCHEMAS.values())
def test_every_option_says_what_it_is(schema):
    options = [option for option in options_of(schema) if not option.section]
    silent = {o.key for o in options if not o.told and o.key.split(".")[-1] not in BY_ITSELF}
    assert not silent


def test_docstrings_under_fields_are_found():
    assert documented(StudyCommand)["dry_run"] == "Print the plan and stop."
    assert "what its tables say" not in " ".join(documented(StudyCommand).values())


def test_stages_are_taken_in_their_order():
    assert check_stages(["roles", "correlations", "roles"]) == ("correlations", "roles")
    assert check_stages("profile") == ("profile",)
    assert composed([], "config", StudyCommand).stages == list(STAGES)


@pytest.mark.parametrize(
    ("option", "told"),
    [
        ("stages=[correlation]", "stages=correlation is no stage: did you mean correlations (of "),
        ("stages=[taxonomy]", "stages=taxonomy is no stage: choose from correlations, profile"),
        ("stages=[]", "stages is empty: choose from correlations, profile, roles"),
    ],
)
def test_stages_that_are_none_are_refused_before_there_is_a_run(typed, tmp_path, option, told):
    status, _, wrong = typed("run", option, f"run.dir={tmp_path}/run")
    assert status == 1 and wrong.startswith(f"error: {told}") and wrong.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_stage_whose_predecessors_are_missing_is_refused_before_there_is_a_run(typed, tmp_path):
    status, _, wrong = typed("run", "stages=[roles]", f"run.dir={tmp_path}/run")
    assert status == 1
    assert wrong == (
        f"error: {tmp_path}/run holds no tables of correlations and profile for roles to build "
        "on: make them with it, by stages=[correlations,profile,roles]\n"
    )
    assert not (tmp_path / "run").exists()


def test_a_stage_builds_on_tables_that_are_there(typed, tmp_path):
    folder = tmp_path / "run"
    study = make_study(folder, make_models(tmp_path, "ab"), make_tokens(tmp_path / "tokens", 12))
    make(study)
    status, _, wrong = typed("run", "stages=[roles]", f"run.dir={folder}")
    assert status == 1
    assert f"{folder} holds no tables of profile for roles" in wrong


def test_what_is_done_now_is_not_of_the_study():
    job = composed(["stages=[profile]", "dry_run=true", "baseline.rotations=3"], "config",
                   StudyCommand)  # fmt: skip
    assert type(job.study) is Study
    assert job.study == composed(["baseline.rotations=3"], "config", Study)
    assert not {"stages", "dry_run"} & {field.name for field in fields(Study)}
    with pytest.raises(ConfigurationError, match="names no option"):
        composed(["stages=[profile]"], "config", Study)
