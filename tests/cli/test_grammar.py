"""What is typed is what is meant: signs that Hydra gives a meaning, and several values."""

import re
import shlex

import pytest

from universal_ray.cli.grammar import check_once, check_value, parsed, quoted, read, spelt
from universal_ray.cli.help import options_of
from universal_ray.cli.options import check_arguments, composed
from universal_ray.cli.study import StudyCommand
from universal_ray.config.study import Study
from universal_ray.errors import ConfigurationError

TEXTS = [
    "a=b", "it's", "~/a", "a~b", "[v2]/x", "a]b", "{x}/y", "a-step{revision}", "1e3", "1_000",
    "007", "true", "a b", "a:b", "s3://bucket/a=1", '"', "a\\", 'a\\"b', "(x", "x)", "a,b[",
]  # fmt: skip
"""Of which Hydra reads none as what it is."""


KNOWN = {each.key: each for each in options_of(StudyCommand)}


def value(option: str) -> object:
    """Of an option as it is typed."""
    override = read(spelt(option, KNOWN), KNOWN)
    check_once(override, KNOWN)
    found = override.value()
    check_value(found, KNOWN[override.key_or_group], str(override.input_line))
    return found


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_is_what_is_typed(text):
    assert value(f"run.dir={text}") == text
    assert parsed(f"x={quoted(text)}").value() == text


@pytest.mark.parametrize("text", [each for each in TEXTS if not re.search(r"[],'\"()\\]", each)])
def test_so_is_a_text_in_a_list(text):
    assert value(f"models.compared=[{text}, b]") == [text, "b"]
    assert value(f"models.compared=[b,{text}]") == ["b", text]


def test_what_hydra_reads_as_text_stays_so():
    assert value('run.dir="a,b"') == "a,b"
    assert value("run.dir='x=y'") == "x=y"
    assert value("models.tokenizer=null") is None
    assert value('models.tokenizer="null"') == "null"
    assert value("models.compared=['a,b',\"c\",[d]e]") == ["a,b", "c", "[d]e"]
    assert value("models.compared=[]") == []
    made = composed(["run.dir=${models.reference}=x", "models.reference=${testbed:b}",
                     "models.compared=[${testbed:c},x=y]"], "config", Study)  # fmt: skip
    assert made.run.dir == f"{made.models.reference}=x" and made.models.reference[-2:] == "/b"
    assert made.models.compared[0][-2:] == "/c" and made.models.compared[1] == "x=y"


@pytest.mark.parametrize("text", ["a,b", "[v2]", "{x: y}", "[a,b]"])
def test_what_could_be_several_is_refused_with_the_quotes_to_type(text):
    with pytest.raises(ConfigurationError, match="write '") as caught:
        value(f"run.dir={text}")
    assert str(caught.value).count(text) == 2  # once as typed, once as it is to be typed
    (remedy,) = shlex.split(str(caught.value).rpartition("write ")[2])
    assert value(remedy) == text


def test_several_values_of_a_list_are_told_their_brackets():
    with pytest.raises(ConfigurationError, match=r"write 'models\.compared=\[a,b\]'"):
        value("models.compared=a,b")


def test_the_followed_models_of_the_readme_need_no_quotes():
    options = ["models.reference=x-step{revision}", "models.compared=[y-step{revision}]",
               "models.revisions=[000250,1e3]"]  # fmt: skip
    made = composed(options, "config", Study)
    assert made.models.reference == "x-step{revision}"
    assert made.models.compared == ["y-step{revision}"]
    assert made.models.revisions == ["000250", "1e3"]


def test_arguments_are_spelt_for_hydra_and_nothing_else_is():
    given = ["baseline.rotations=3", "run.dir=a=b", "models=tiny"]
    spelt = check_arguments(given, "config", StudyCommand)
    assert spelt == ["baseline.rotations=3", 'run.dir="a=b"', "models=tiny"]


def test_of_several_jobs_each_is_held_to_what_can_be():
    several = ["-m", "run.dir=a=1,b", "experiment=glob(gpt2*)"]
    assert check_arguments(several, "config", StudyCommand)[1] == 'run.dir="a=1",b'
    for option in ("baseline.rotations=1,many", "models.pairs=all,some", "corpus=testbed,none"):
        with pytest.raises(ConfigurationError, match=option.partition("=")[0]):
            check_arguments(["-m", option], "config", StudyCommand)
    with pytest.raises(ConfigurationError, match=r"corpus\.text\.source has no value"):
        check_arguments(["-m", "corpus=testbed,text"], "config", StudyCommand)
