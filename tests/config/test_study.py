"""The configuration: its checks and its plain values."""

import json
from dataclasses import fields, is_dataclass

import pytest

from universal_ray.config.hashing import fingerprint
from universal_ray.config.study import (
    Baseline,
    Join,
    Policy,
    Study,
    TextConfig,
    check,
    keys,
    plain,
    value_of,
)
from universal_ray.corpus.documents import JOINS
from universal_ray.errors import ConfigurationError
from universal_ray.maths.moments.accumulate import POLICIES
from universal_ray.maths.moments.rotation import KINDS
from universal_ray.maths.moments.shift import SHIFTED


def valid() -> Study:
    study = Study()
    study.models.reference, study.models.compared = "a", ["b", "c"]
    study.corpus.path = "tokens"
    return study


def put(study: Study, key: str, value) -> Study:
    *folders, name = key.split(".")
    place = study
    for folder in folders:
        place = getattr(place, folder)
    assert hasattr(place, name), key
    setattr(place, name, value)
    return study


def leaves(value, prefix=""):
    """Dotted keys of every option; `corpus.text` is one, none where no text is tokenised."""
    for field in fields(value):
        entry = getattr(value, field.name)
        if is_dataclass(entry):
            yield from leaves(entry, f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}"


# Checks


def test_a_valid_study_passes():
    check(valid())
    text = valid()
    text.corpus.path, text.corpus.text = None, TextConfig(source="file.txt")
    check(text)


POSITIVE = [
    "units.tokens", "units.batch", "units.fold", "cluster.workers", "cluster.threads",
    "baseline.rotations", "corpus.tokens", "corpus.context",
]

WRONG = [
    *[([(key, wrong)], f"{key} is {wrong}: give a number of at least 1")
      for key in POSITIVE for wrong in (0, -3)],
    ([("models.compared", [])], "models.compared is empty: name at least one model to compare"),
    ([("models.compared", ["b", "b"])], "model b is named twice: name each model once"),
    ([("models.compared", ["b", "a"])], "model a is named twice: name each model once"),
    ([("corpus.path", None)], "corpus.path and corpus.text are both set or both missing"),
    ([("corpus.text", TextConfig(source="t"))], "corpus.path and corpus.text are both set"),
    ([("units.batch", 2_000), ("units.tokens", 1_000)],
     "units.batch (2000) is larger than units.tokens (1000)"),
    *[([("universal.threshold", wrong)], f"universal.threshold is {wrong}: give a correlation")
      for wrong in (-1.5, 2.5)],
    ([("universal.threshold", float("nan"))], "universal.threshold is nan: give a number that is"),
]


@pytest.mark.parametrize(("changes", "sentence"), WRONG)
def test_each_check_is_one_sentence(changes, sentence):
    study = valid()
    for key, value in changes:
        put(study, key, value)
    with pytest.raises(ConfigurationError) as caught:
        check(study)
    message = str(caught.value)
    assert sentence in message
    assert "\n" not in message and ". " not in message and ": " in message


def test_the_edges_of_what_is_allowed():
    study = valid()
    for key in POSITIVE:
        put(study, key, 1)
    for threshold in (-1, 0, 2):
        check(put(study, "universal.threshold", float(threshold)))


# Plain values


def test_keys_are_all_that_is_configured_but_the_place():
    assert set(keys()) == set(leaves(Study())) - {"run.dir"}


def test_plain_values():
    study = valid()
    assert json.loads(json.dumps(plain(study))) == plain(study)
    assert plain(study)["models"]["pairs"] == "reference"
    assert value_of(study, "models.compared") == ["b", "c"]
    assert value_of(study, "precision.moments") is None
    assert value_of(put(study, "corpus.text", TextConfig(source="t")), "corpus.text.source") == "t"


def test_fingerprints_do_not_depend_on_the_order_of_keys():
    assert fingerprint({"a": 1, "b": [2]}) == fingerprint({"b": [2], "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 1.5})
    assert fingerprint([1, 2]) != fingerprint([2, 1])


def test_options_name_what_the_core_knows():
    assert tuple(policy.value for policy in Policy) == POLICIES
    assert tuple(kind.value for kind in Baseline) == (*KINDS, SHIFTED)
    assert tuple(join.value for join in Join) == JOINS
