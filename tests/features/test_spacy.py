"""Pipelines of spaCy: what is said when one is missing, and labels given by known components."""

import sys
from typing import Any

import numpy as np
import pytest
from helpers_taxonomy import make_rows

from universal_ray.errors import ConfigurationError
from universal_ray.features.spacy import SpacyPipeline
from universal_ray.features.syntax import TokenLabels, pipeline


def test_without_spacy_the_extra_is_named(monkeypatch):
    monkeypatch.setattr("universal_ray.features.spacy.find_spec", lambda name: None)
    with pytest.raises(ConfigurationError, match=r"pip install 'universal_ray\[syntax\]'"):
        pipeline("en_core_web_trf")


def test_a_missing_pipeline_is_named_with_its_command():
    pytest.importorskip("spacy")
    with pytest.raises(ConfigurationError, match="`python -m spacy download en_none_such`"):
        pipeline("en_none_such")


def language(**columns: list[Any]) -> Any:
    """English whose only component gives every document these annotations."""
    spacy = pytest.importorskip("spacy")
    found = spacy.blank("en")

    @spacy.Language.component("given")
    def given(document: Any) -> Any:
        words = [token.text for token in document]
        spaces = [bool(token.whitespace_) for token in document]
        return spacy.tokens.Doc(document.vocab, words, spaces, **columns)

    found.add_pipe("given")
    return found


def test_annotations_become_labels_of_tokens():
    annotated = language(
        pos=["PRON", "AUX", "PART", "VERB", "PROPN", "PUNCT", "INTJ"],
        deps=["nsubj", "aux", "neg", "ROOT", "dobj", "punct", "ROOT"],
        heads=[3, 3, 3, 3, 3, 3, 6],
        morphs=["Number=Plur|Person=1", "Tense=Past", "", "VerbForm=Inf", "Number=Sing", "", ""],
        ents=["O", "O", "O", "O", "B-GPE", "O", "O"],
        sent_starts=[True, False, False, False, False, False, True],
    )
    rows = make_rows(["We", " did", "n't", " see", " Par", "is", ".", " Oh"])
    spacy = SpacyPipeline(annotated)
    # A component that is no parser declares no labels of dependencies or entities.
    assert not any(name.startswith(("dep_", "ent_")) for name in spacy.labels)
    spacy.labels |= {"dep_neg": "", "dep_aux": "", "ent_GPE": ""}
    found = {key: value.astype(int).tolist() for key, value in TokenLabels(spacy)(rows).items()}
    assert found["pos_PRON"] == [1, 0, 0, 0, 0, 0, 0, 0]
    assert found["pos_AUX"] == found["dep_aux"] == [0, 1, 0, 0, 0, 0, 0, 0]
    assert found["dep_neg"] == [0, 0, 1, 0, 0, 0, 0, 0]
    assert found["pos_PROPN"] == found["ent_GPE"] == [0, 0, 0, 0, 1, 1, 0, 0]
    assert found["morph_Number=Plur"] == found["morph_Person=1"] == [1, *[0] * 7]
    assert found["morph_Number=Sing"] == [0, 0, 0, 0, 1, 1, 0, 0]
    assert found["sent_begin"] == [1, 0, 0, 0, 0, 0, 0, 1]
    assert found["sent_end"] == [0, 0, 0, 0, 0, 0, 1, 1]
    assert found["sentence_tokens_2_to_4"] == [0, 1, 1, 1, 0, 0, 0, 0]
    assert found["is_stop"] == [1, 1, 1, 1, 0, 0, 0, 0]


def test_a_blank_pipeline_gets_sentences_in_every_passage():
    spacy = pytest.importorskip("spacy")
    rows = make_rows([None, "One", ".", " Two", "."], ["Three", "é", None, " four", None])
    found = TokenLabels(SpacyPipeline(spacy.blank("en")))(rows)
    assert found["sent_begin"].astype(int).tolist() == [0, 1, 0, 1, 0, 1, 1, 0, 1, 0]
    assert not np.any([value for key, value in found.items() if key.startswith(("pos_", "morph_"))])
    assert not TokenLabels(SpacyPipeline(spacy.blank("en")))(make_rows([None]))["sent_begin"].any()


def test_rules_need_no_spacy(monkeypatch):
    monkeypatch.setitem(sys.modules, "spacy", None)
    rows = make_rows(["We", " did", "n't"])
    assert TokenLabels(pipeline("rules"))(rows)["dep_neg"].tolist() == [False, False, True]
