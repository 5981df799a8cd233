"""deploy/prefetch.py: the models of a study, by the options of jobs/run.py."""

from pathlib import Path

import pytest
from helpers_jobs import Ended, enter, start

from universal_ray import testbed

PREFETCH = "deploy/prefetch.py"


def test_every_model_of_a_study_is_named_with_its_place(tmp_path):
    ended = enter(PREFETCH, folder=tmp_path)
    places = [line.split(": ")[1] for line in ended.stdout.splitlines()]
    assert [Path(place).name for place in places] == ["a", "b", "c", "d", "e"]
    assert all((Path(place) / "model.safetensors").is_file() for place in places)
    assert ended.returncode == 0


def test_models_of_every_revision_are_named(tmp_path):
    places = {"x-1": "a", "y-1": "b", "x-20": "c", "y-20": "d"}
    for name, of in places.items():
        (tmp_path / name).symlink_to(testbed.resolve(of))
    followed = f"models.reference={tmp_path}/x-{{revision}}", "models.revisions=['1','20']"
    ended = enter(
        PREFETCH, *followed, f"models.compared=[{tmp_path}/y-{{revision}}]", folder=tmp_path
    )
    found = dict(line.split(": ") for line in ended.stdout.splitlines())
    assert found == {f"{tmp_path}/{name}": testbed.resolve(of) for name, of in places.items()}


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ("models.compared=[]", "error: models.compared is empty"),
        ("models.compare=[]", "error: models.compare=[] names no option"),
    ],
)
def test_what_cannot_be_had_is_one_sentence(tmp_path, option, sentence):
    check_refused(enter(PREFETCH, option, folder=tmp_path), sentence)


@pytest.mark.thorough
def test_a_model_that_is_not_at_hand_is_one_sentence_of_a_process(tmp_path, monkeypatch):
    """Of its own: the hub's client reads the environment as it is imported."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    ended = start(PREFETCH, "experiment=gpt2_small", folder=tmp_path)
    check_refused(ended, f"error: The hub's cache {tmp_path}/hub does not hold model 'stanford-crf")


def check_refused(ended: Ended, sentence: str) -> None:
    assert ended.returncode == 1
    assert ended.stderr.startswith(sentence)
    assert len(ended.stderr.splitlines()) == 1
