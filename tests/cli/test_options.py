"""What is refused at the doors: options that are none, choices that are not there, wrong kinds."""

import subprocess
import sys
from pathlib import Path

import pytest

from universal_ray.cli.help import options_of
from universal_ray.cli.options import check_arguments, composed
from universal_ray.cli.study import StudyCommand
from universal_ray.config.study import Study, check
from universal_ray.errors import ConfigurationError, MissingError

ROOT = Path(__file__).parents[2]
JOBS = {
    "run": "config", "status": "status", "compare": "compare", "benchmark": "benchmark",
    "train_saes": "train_saes", "train_seeds": "train_seeds",
}
EXPERIMENTS = sorted(path.stem for path in (ROOT / "conf" / "experiment").glob("*.yaml"))


def refused(*options: str, match: str) -> None:
    with pytest.raises(ConfigurationError, match=match) as caught:
        check(composed(list(options), "config", Study))
    assert "\n" not in str(caught.value)


@pytest.fixture(params=JOBS)
def door(request, monkeypatch, capsys):
    """Any entry point with options, in this process: its exit status and what it prints."""
    sys.path.insert(0, str(ROOT / "jobs"))
    module = __import__(request.param)
    sys.path.pop(0)

    def enter(*options: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", [f"jobs/{request.param}.py", *options])
        with pytest.raises(SystemExit) as caught:
            module.main()
        return int(str(caught.value.code)), capsys.readouterr().err

    return enter


@pytest.mark.parametrize(
    "option", ["experiment=gpt2-small", "+run.dirs=x", "++run._target_=x", "~run.dir"]
)
def test_every_door_refuses_it_in_one_sentence(door, option):
    status, told = door(option)
    assert status == 1
    assert told.startswith(f"error: {option} ") and told.count("\n") == 1


def test_hydras_flags_open_no_door(door):
    for flags in (["--cfg", "job", "+run.dirs=x"], ["--config-name", "other"]):
        status, told = door(*flags)
        assert status == 1 and told.startswith("error: ") and told.count("\n") == 1


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--hlep"], "--hlep is no flag: did you mean --help?"),
        (["--xyzzy", "x"], "--xyzzy is no flag: --help tells the flags"),
        (["--cfg", "x"], "argument --cfg/-c: invalid choice"),
    ],
)
def test_a_flag_that_is_none_is_refused_with_the_nearest(door, flags, told):
    status, wrong = door(*flags)
    assert status == 1 and wrong.startswith(f"error: {told}") and wrong.count("\n") == 1


def test_a_real_process_says_one_sentence(tmp_path):
    found = subprocess.run(
        [sys.executable, ROOT / "jobs" / "run.py", "baseline.rotation=3"],
        capture_output=True, text=True, cwd=tmp_path, check=False,
    )
    assert found.returncode == 1
    assert found.stderr == (
        "error: baseline.rotation=3 names no option (baseline.rotation): "
        "did you mean baseline.rotations?\n"
    )


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_experiments_compose_and_check(name):
    study = composed([f"experiment={name}"], "config", Study)
    check(study)
    models = [study.models.reference, *study.models.compared]
    embedded = "latents", "persistence", "tokenizers"
    assert name in embedded or all("@" in model for model in models)


def test_a_misspelt_choice_is_told_with_the_nearest():
    refused("experiment=gpt2-small", match=r"did you mean gpt2_small \(of .*gpt2_medium, .*160m")
    refused("models=gpt2", match="gpt2_small")
    refused("corpus=openwebtexts", match="did you mean openwebtext")


@pytest.mark.parametrize(
    "option",
    [
        "experiment=../../x", "corpus=../models/tiny", "corpus=/etc/passwd", "experiment=.",
        "experiment=", "experiment=gpt2_small.yaml", "experiment=[gpt2_small,pythia_160m]",
        "corpus={path: x}", "corpus=null", "+experiment=nope",
    ],
)
def test_no_choice_leaves_the_folder_of_its_group(option):
    refused(option, match="is no choice of (corpus|experiment)")


def test_groups_are_neither_added_nor_taken_away():
    refused("+experiment=gpt2_small", match="write experiment=gpt2_small")
    refused("~corpus", match="takes a group away")
    refused("+models@other=tiny", match="names no option")
    refused("corpus=tokens,text", match="several values")


@pytest.mark.parametrize("sign", ["", "+", "++", "~"])
def test_a_key_beyond_the_schema_is_refused_with_the_nearest(sign):
    refused(f"{sign}baseline.rotation=3", match=r"did you mean baseline\.rotations\?")
    refused(f"{sign}rotations=3", match=r"did you mean baseline\.rotations\?")
    refused(f"{sign}corpus.text.sources=x", match=r"did you mean corpus\.text\.source\?")
    refused(f"{sign}expriment=gpt2_small", match="did you mean experiment")


@pytest.mark.parametrize("sign", ["", "+", "++", "~"])
def test_an_option_that_has_another_name_now_is_told_with_it(sign):
    now = r"write models\.site=mlp_post \(for post\) or models\.site=mlp_pre \(for pre\)"
    refused(f"{sign}models.activation=pre", match=rf"names no option \(models\.activation\): {now}")


@pytest.mark.parametrize(
    ("option", "named"),
    [
        ("+models._target_=os.system", "Hydra's machinery"),
        ("hydra.launcher._target_=os.system", "Hydra's machinery"),
        ("+hydra.foo=1", "without +"),
        ("++hydra/launcher=basic", "without +"),
        ("models.reference={_target_: x}", "a structure where models.reference is text"),
        ("cluster={worker: 3}", "worker"),
        ("+baseline.rotations=3", r"write baseline\.rotations=3"),
        ("~baseline.rotations", "takes an option away"),
        ("corpus.text.source=x", r"choose one that has it \(.*corpus=text\)"),
        ("corpus.text={source: x}", r"choose one that has it \(.*corpus=text\)"),
        ("baseline.rotations=many", "many is not a whole number: give one"),
        ("baseline.rotations=[1]", "not a whole number"),
        ("cluster.workers=1.5", "workers=1.5 is not a whole number: give one"),
        ("cluster.workers=null", "takes its value away: give a whole number"),
        ("models.pairs=some", "no choice of models.pairs: choose from reference, all"),
        ("roles.sweep=3", r"no list: write roles.sweep=\[3\]"),
        ("roles.sweep=[1,[2]]", r"roles\.sweep"),
        ("models.compared=[a,[b]]", r"models\.compared is \['a', \['b'\]\]"),
        ("taxonomy.words=[{a: b}]", r"taxonomy\.words"),
        ("models.compared=x", r"is no list: write models\.compared=\[x\]"),
        ("corpus.tokens=1e6", "is not a whole number: write 1000000"),
        ("models.dtype=float23", r"did you mean float32 \(of float32, tfloat32, "),
        ("cluster=3", r"is no value of cluster: give its options .* cluster\.NAME=VALUE"),
        ("roles.sweep=[1,high]", r"high in roles\.sweep=\[1,high\] is not a number"),
        ("corpus=text", r"corpus\.text\.source has no value: write corpus\.text\.source=VALUE \("),
        ("experiment", "cannot be read"),
        ("run.dir=${nowhere}", "run.dir refers to something that is not there: give"),
        ("models.reference=${testbed:z}", "no embedded model"),
        ("cluster.address=ray://head:10001", "deploy/job_submit.sh"),
        ("cluster.address=localhost", "is no address: give auto or HOST:PORT"),
        ("cluster.address=localhost:abc", "is no address: give auto or HOST:PORT"),
        ("cluster.address=localhost:65536", "is no address: give auto or HOST:PORT"),
        ("cluster.memory=nan", r"cluster\.memory"),
        ("roles.kurtosis=inf", r"roles\.kurtosis"),
        ("roles.sweep=[nan]", r"roles\.sweep"),
        ("baseline.seed=10000000000000000000", r"baseline\.seed"),
        ("corpus.seed=-1", r"corpus\.seed"),
        ("cluster.threads=0", r"cluster\.threads"),
    ],
)
def test_what_cannot_be_is_refused_by_name(option, named):
    refused(option, match=named)


def test_an_experiment_of_ones_own_is_held_to_the_schema(tmp_path):
    (tmp_path / "conf" / "experiment").mkdir(parents=True)
    own = tmp_path / "conf" / "experiment" / "mine.yaml"
    own.write_text("# @package _global_\nbaseline:\n  rotation: 3\n")
    for name in ("config.yaml", "models", "corpus"):
        (tmp_path / "conf" / name).symlink_to(ROOT / "conf" / name)
    meant = r"mine names no option \(baseline\.rotation\): did you mean baseline\.rotations\?"
    with pytest.raises(ConfigurationError, match=meant):
        check_arguments(["experiment=mine"], "config", Study, tmp_path / "conf")
    own.write_text("# @package _global_\nmodels:\n  activation: pre\n")
    with pytest.raises(ConfigurationError, match=r"mine names .*: write models\.site=mlp_post"):
        check_arguments(["experiment=mine"], "config", Study, tmp_path / "conf")
    own.write_text("# @package _global_\ndefaults:\n  - override /models: gpt2-small\n")
    with pytest.raises(ConfigurationError, match="did you mean gpt2_small"):
        check_arguments(["experiment=mine"], "config", Study, tmp_path / "conf")


def test_a_folder_of_ones_own_choices_is_held_to_the_schema_too(tmp_path):
    folder = tmp_path / "my choices"
    own = folder / "experiment" / "mine.yaml"
    own.parent.mkdir(parents=True)
    own.write_text("# @package _global_\n# My own.\nbaseline:\n  rotations: 3\n")
    flags = ["--config-dir", str(folder)]
    check_arguments([*flags, "experiment=mine", "models=tiny"], "config", Study)
    for content, told in (
        ("baseline:\n  rotation: 3\n", r"baseline\.rotation\): did you mean baseline\.rotations\?"),
        ("baseline:\n  rotations: many\n", r"rotations that cannot be: give a whole number"),
    ):
        own.write_text(f"# @package _global_\n{content}")
        with pytest.raises(ConfigurationError, match=told):
            check_arguments([*flags, "experiment=mine"], "config", Study)
    for content, told in (
        ("baseline:\n  rotations: 3\n", "begin its file with the line `# @package _global_`"),
        ("# @package _global_\nbaseline: [\n", "is no YAML"),
    ):
        own.write_text(content)
        with pytest.raises(ConfigurationError, match=told) as caught:
            check_arguments([*flags, "experiment=mine"], "config", Study)
        assert "\n" not in str(caught.value)
    with pytest.raises(ConfigurationError, match="did you mean mine"):
        check_arguments([*flags, "experiment=min"], "config", Study)
    with pytest.raises(MissingError, match="--config-dir"):
        check_arguments(["--config-dir", str(tmp_path / "none")], "config", Study)


def test_every_key_of_the_readme_is_one_of_the_schema():
    keys = {each.key for each in options_of(StudyCommand)}
    assert {"corpus.text.source", "corpus.text", "dry_run", "roles.sweep"} <= keys
    table = (ROOT / "README.md").read_text().split("| key | default")[1].split("\n\n")[0]
    told = [word for line in table.splitlines()[2:] for word in line.split("|")[1].split("`")[1::2]]
    assert {each for each in told if "." in each} <= keys


def test_names_of_neurons_and_paths_stay_as_they_are_typed():
    """23.10 is a number, the same as 23.1, and another neuron."""
    given = ["roles.neurons=[23.10,a@step1:2.3, 'b,c:1.2']", 'roles.paths=[4.30>5.0,">5.1",3]']
    roles = composed(given, "config", Study).roles
    assert roles.neurons == ["23.10", "a@step1:2.3", "b,c:1.2"]
    assert roles.paths == ["4.30>5.0", ">5.1", "3"]
    assert composed(["roles.paths=2"], "config", Study).roles.paths == 2
