"""deploy/prefetch.py: the models of a study, by the options of jobs/run.py."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def prefetch(*options: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "deploy" / "prefetch.py"), *options],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=280,
    )


def test_every_model_of_a_study_is_named_with_its_place():
    ended = prefetch()
    places = [line.split(": ")[1] for line in ended.stdout.splitlines()]
    assert [Path(place).name for place in places] == ["a", "b", "c", "d", "e"]
    assert all((Path(place) / "model.safetensors").is_file() for place in places)
    assert ended.returncode == 0


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            ["experiment=gpt2_small"],
            "error: 'stanford-crfm/alias-gpt2-small-x21@checkpoint-400000'",
        ),
        (["models.compared=[]"], "error: models.compared is empty"),
        (["models.compare=[]"], "error: models.compare=[] names no option"),
    ],
)
def test_what_cannot_be_had_is_one_sentence(tmp_path, options, sentence):
    ended = prefetch(*options, HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path))
    assert ended.returncode == 1
    assert ended.stderr.startswith(sentence)
    assert len(ended.stderr.splitlines()) == 1
