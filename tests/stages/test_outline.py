"""Inputs of a study: an outline that reads no tokens, and what the tokens then say."""

from dataclasses import replace

import pytest
from helpers_study import CONTEXT, ROWS, make, make_models, make_study, make_tokens

from universal_ray.config.study import TextConfig
from universal_ray.corpus.rows import TokenCorpus, glance, open_corpus
from universal_ray.errors import ConfigurationError, CorpusError
from universal_ray.models.capture import Capture
from universal_ray.stages.correlations.prepare import claimed, find_done
from universal_ray.stages.correlations.stage import CorrelationsStage
from universal_ray.stages.inputs import Inputs, find_models, outline, prepare, read
from universal_ray.storage.store import Store


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    return make_models(folder, "ab"), make_tokens(folder / "tokens")


@pytest.fixture
def study(made, tmp_path):
    return make_study(tmp_path / "run", *made)


def unreadable(monkeypatch):
    """No tokens can be read and no model can run."""

    def refuse(*_, **__):
        raise AssertionError("a plan needs none of it")

    monkeypatch.setattr(TokenCorpus, "_read", refuse)
    monkeypatch.setattr(Capture, "__init__", refuse)


def test_an_outline_reads_no_tokens_and_runs_no_model(study, monkeypatch):
    unreadable(monkeypatch)
    store = Store(study.run.dir)
    found = outline(find_models(study, store), store)
    assert (found.rows, found.context) == (ROWS, CONTEXT)
    rows = dict(CorrelationsStage.describe(found, store))
    assert rows["units"] == "13 (6 blocks of 2, 1 after them), 0 already done"


def test_inputs_are_the_outline_with_its_tokens(study):
    store = Store(study.run.dir)
    models = find_models(study, store)
    found, inputs = outline(models, store), read(models, store)
    assert isinstance(inputs, Inputs)
    assert inputs.settled == found.settled and inputs.bits == found.bits
    assert [unit.content for unit in found.layout.units] == [""] * 13
    assert len({unit.content for unit in inputs.layout.units}) == 13


def test_a_plan_of_a_run_tells_what_is_there_without_reading_it(study, monkeypatch):
    store = make(study)
    done, _ = find_done(store, prepare(study, store).items, prepare(study, store).layout)
    unreadable(monkeypatch)
    found = outline(find_models(study, store), store)
    assert claimed(found, store) == done and len(done) == 13 * len(found.items)
    assert dict(CorrelationsStage.describe(found, store))["units"].endswith("13 already done")


def test_text_that_is_not_tokenised_has_as_many_tokens_as_are_asked_for(study, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("never read\n")
    study.corpus = replace(
        study.corpus, path=None, text=TextConfig(source=str(text)), context=CONTEXT,
        tokens=20 * CONTEXT,
    )  # fmt: skip
    store = Store(study.run.dir)
    found = outline(find_models(study, store), store)
    assert (found.rows, found.context) == (20, CONTEXT)
    assert not store.list("corpus-640")
    study.corpus.tokens = None
    assert outline(find_models(study, store), store) is None


def test_a_glance_sees_what_opening_sees(made):
    corpus = open_corpus(made[1])
    assert glance(made[1]) == (corpus.rows, corpus.context)


def test_other_rows_than_asked_for_are_refused_before_they_are_read(study, monkeypatch):
    unreadable(monkeypatch)
    study.corpus.context = CONTEXT // 2
    store = Store(study.run.dir)
    with pytest.raises(CorpusError, match=f"has rows of {CONTEXT} tokens"):
        outline(find_models(study, store), store)


def test_a_run_of_other_tokens_is_refused_when_they_are_read(study, tmp_path):
    store = make(study)
    study.corpus.path = make_tokens(tmp_path / "others", seed=1)
    models = find_models(study, store)
    assert outline(models, store)
    with pytest.raises(ConfigurationError, match="are not the tokens of the run"):
        read(models, store)
