"""The shell scripts: checked by shellcheck, and run with the cluster's commands stood in for."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted(
    path for pattern in ("*.sh", "*.sbatch") for path in ROOT.glob(f"deploy/**/{pattern}")
)
SBATCH = ROOT / "deploy" / "slurm" / "study.sbatch"
SUBMIT = ROOT / "deploy" / "job_submit.sh"

RECORD = """#!/bin/sh
{
    echo "== $(basename "$0")"
    printf '%s\\n' "$@"
    env | grep -E '^(RAY_|HF_HUB_OFFLINE)' | sort
} >> "$RECORDED"
"""
STANDINS = {
    "ray": RECORD + 'test -z "$RAY_AUTH_TOKEN_PATH" || stat -c "mode %a %s" "$RAY_AUTH_TOKEN_PATH" '
    '>> "$RECORDED"\nexit "${RAY_ENDS:-0}"\n',
    "srun": RECORD + 'shift\nexec "$@"\n',
    "scontrol": '#!/bin/sh\ncase "$1" in\nshow) printf "node7\\nnode8\\n" ;;\n'
    '*) echo "scontrol $*" >> "$RECORDED" ;;\nesac\n',
    "python": f'#!/bin/sh\ncase "$1" in\n-c) exec {sys.executable} "$@" ;;\nesac\n'
    + RECORD.removeprefix("#!/bin/sh\n")
    + 'exit "${PREFETCH_ENDS:-0}"\n',
}
"""Commands that write down how they were called; `python -c` is Python itself."""


@pytest.fixture
def place(tmp_path: Path) -> dict[str, str]:
    """An environment with the stand-ins first in PATH, a home directory and a Slurm job."""
    commands = tmp_path / "bin"
    commands.mkdir()
    for name, text in STANDINS.items():
        (commands / name).write_text(text)
        (commands / name).chmod(0o755)
    (tmp_path / "home").mkdir()
    return {
        "PATH": f"{commands}:{os.environ['PATH']}",
        "HOME": str(tmp_path / "home"),
        "RECORDED": str(tmp_path / "recorded"),
        "RUN_DIR": "/shared/a run",
        "SLURM_JOB_ID": "12345",
        "SLURM_SUBMIT_DIR": str(ROOT),
        "SLURM_JOB_NODELIST": "node[7-8]",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_CPUS_PER_TASK": "10",
    }


def run(script: Path, environment: dict[str, str], *options: str) -> tuple[int, str, list[str]]:
    """Exit status, standard error, and the lines the stand-ins wrote."""
    command = ["bash", str(script), *options]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    recorded = Path(environment["RECORDED"])
    return (
        ended.returncode,
        ended.stderr,
        recorded.read_text().splitlines() if recorded.exists() else [],
    )


def after(lines: list[str], first: str) -> list[str]:
    """The record of one command's only call."""
    [start] = [index for index, line in enumerate(lines) if line == f"== {first}"]
    rest = lines[start + 1 :]
    return rest[: next((i for i, line in enumerate(rest) if line.startswith("== ")), len(rest))]


def shellcheck(path: Path) -> subprocess.CompletedProcess[str]:
    command = Path(sys.executable).parent / "shellcheck"
    return subprocess.run([command, path], capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck_has_nothing_to_say(script):
    found = shellcheck(script)
    assert (found.returncode, found.stdout) == (0, "")


def test_both_scripts_are_looked_at():
    assert SCRIPTS == [SUBMIT, SBATCH]


def test_shellcheck_would_find_a_fault(tmp_path):
    script = tmp_path / "faulty.sbatch"
    script.write_text(SBATCH.read_text().replace('"$SLURM_JOB_NUM_NODES"', "$SLURM_JOB_NUM_NODES"))
    assert "SC2086" in shellcheck(script).stdout


def test_slurm_prefetches_on_every_node_then_starts_one_cluster(place):
    status, error, lines = run(SBATCH, place, "experiment=gpt2_small", "corpus.exclude=none")
    assert (status, error) == (0, "")
    fetch = lines.index("deploy/prefetch.py")
    assert lines[:fetch][-2:] == ["--ntasks-per-node=1", "python"]
    assert lines[fetch + 1 : fetch + 3] == ["experiment=gpt2_small", "corpus.exclude=none"]
    ray = after(lines, "ray")
    assert lines.index("== ray") > fetch
    assert ray[:7] == [
        "symmetric-run",
        "--address",
        "node7:22345",
        "--min-nodes",
        "2",
        "--num-cpus",
        "10",
    ]
    assert ray[ray.index("--dashboard-host") + 1] == "127.0.0.1"
    study = ray[ray.index("--") + 1 :]
    assert study[:6] == [
        "env",
        "HF_HUB_OFFLINE=0",
        "python",
        "jobs/run.py",
        "cluster.address=node7:22345",
        "run.dir=/shared/a run",
    ]
    assert study[6:8] == ["experiment=gpt2_small", "corpus.exclude=none"]


def test_slurm_keeps_workers_off_the_hub_and_the_driver_as_it_was(place):
    _, _, lines = run(SBATCH, {**place, "HF_HUB_OFFLINE": "1"})
    ray = after(lines, "ray")
    assert ray.count("HF_HUB_OFFLINE=1") == 2  # what the cluster sees, and what the driver is given
    _, _, lines = run(SBATCH, {**place, "RECORDED": place["RECORDED"] + "2"})
    assert "HF_HUB_OFFLINE=1" in after(lines, "ray")
    first = lines.index("== python")
    assert not any("HF_HUB_OFFLINE" in line for line in lines[: first + 3])


def test_slurm_makes_a_token_for_its_user_alone_and_takes_it_away(place):
    _, _, lines = run(SBATCH, place)
    ray = after(lines, "ray")
    path = Path(place["HOME"], ".ray", "universal_ray-12345")
    assert "RAY_AUTH_MODE=token" in ray
    assert f"RAY_AUTH_TOKEN_PATH={path}" in ray
    assert "mode 600 64" in ray
    assert not path.exists()
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


@pytest.mark.parametrize("variable", ["RAY_ENDS", "PREFETCH_ENDS"])
def test_slurm_ends_as_the_study_or_the_prefetch_did(place, variable):
    status, _, lines = run(SBATCH, {**place, variable: "3"})
    assert status == 3
    assert ("== ray" in lines) == (variable == "RAY_ENDS")
    assert not list(Path(place["HOME"], ".ray").iterdir())


def test_slurm_queues_itself_again_before_its_time_is_up(place):
    slow = Path(place["PATH"].split(":")[0], "ray")
    slow.write_text(RECORD + "kill -USR1 $PPID\nsleep 1\n")
    slow.parent.joinpath("srun").write_text('#!/bin/sh\nshift\n"$@"\n')
    # srun is a child of the script; its own parent is what Slurm's B: signals.
    slow.write_text(slow.read_text().replace("$PPID", '"$(ps -o ppid= -p "$PPID" | tr -d " ")"'))
    status, _, lines = run(SBATCH, place)
    assert "scontrol requeue 12345" in lines
    assert status == 128 + 10  # interrupted, not done


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_run_directory_must_be_named(place, script):
    del place["RUN_DIR"]
    status, error, lines = run(script, place)
    assert status == 1
    assert "RUN_DIR: set it to a directory that every node sees" in error
    assert lines == []


def test_submission_sends_the_checkout_with_a_token_to_the_loopback_dashboard(place):
    status, _, lines = run(SUBMIT, place, "experiment=gpt2_small")
    assert status == 0
    assert lines[1:10] == [
        "job",
        "submit",
        "--runtime-env",
        "deploy/runtime_env.yaml",
        "--",
        "python",
        "jobs/run.py",
        "cluster.address=auto",
        "run.dir=/shared/a run",
    ]
    assert lines[10] == "experiment=gpt2_small"
    assert "RAY_ADDRESS=http://127.0.0.1:8265" in lines
    assert "RAY_AUTH_MODE=token" in lines


def test_submission_keeps_what_is_set(place):
    set_so = {"RAY_ADDRESS": "https://head", "RAY_AUTH_MODE": "disabled"}
    _, _, lines = run(SUBMIT, {**place, **set_so})
    assert {f"{name}={value}" for name, value in set_so.items()} <= set(lines)


def test_what_is_sent_leaves_out_what_git_does():
    environment = yaml.safe_load((ROOT / "deploy" / "runtime_env.yaml").read_text())
    assert environment["working_dir"] == "."
    left_out = {line.strip("/") for line in environment["excludes"]}
    assert left_out >= {line.strip("/") for line in (ROOT / ".gitignore").read_text().splitlines()}
