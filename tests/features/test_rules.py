"""Syntax by rules: sentences whose labels are known, word by word."""

import time

import numpy as np
import pytest
from helpers_taxonomy import embedded_rows, make_rows

from universal_ray.features.features import TokenRows
from universal_ray.features.rules import LEXICON, Lexicon
from universal_ray.features.syntax import TokenLabels, pipeline, syntax_features

RULES = pipeline("rules")


def labelled(text: str) -> list[tuple[str, set[str]]]:
    """Every word of the text with its labels."""
    rows = make_rows([text])
    words = RULES(rows.text)
    names = np.array(list(RULES.labels))
    spans = zip(words.start_W, words.stop_W, words.labels_WF, strict=True)
    return [(rows.text.text[start:stop], set(names[row])) for start, stop, row in spans]


def having(text: str, label: str) -> list[str]:
    return [word for word, labels in labelled(text) if label in labels]


def sentences(text: str) -> list[str]:
    """The words of each sentence, joined by spaces, from the labels of begin and end."""
    found: list[list[str]] = []
    ended = True
    for word, labels in labelled(text):
        if "pos_SPACE" in labels:
            continue
        assert ("sent_begin" in labels) is ended
        if ended:
            found.append([])
        found[-1].append(word)
        ended = "sent_end" in labels
    assert ended
    return [" ".join(words) for words in found]


@pytest.mark.parametrize(
    ("text", "label", "words"),
    [
        ("I don't know, he won\u2019t say and they cannot.", "dep_neg", ["n't", "n\u2019t"]),
        ("We never said it was not so.", "dep_neg", ["never", "not"]),
        ("the old cats of a dog", "pos_DET", ["the", "a"]),
        ("the old cats of a dog", "morph_PronType=Art", ["the", "a"]),
        ("the old cats of a dog", "pos_ADP", ["of"]),
        ("men and women or mice", "pos_CCONJ", ["and", "or"]),
        ("he went because it rained", "pos_SCONJ", ["because"]),
        ("I know that we lost", "pos_SCONJ", ["that"]),
        ("I know that house", "pos_DET", ["that"]),
        ("This is good, these files are not", "pos_PRON", ["This"]),
        ("This is good, these files are not", "pos_DET", ["these"]),
        ("the file that was read", "morph_PronType=Rel", ["that"]),
        ("the man who went", "morph_PronType=Rel", ["who"]),
        ("to go to town", "pos_PART", ["to"]),
        ("to go to town", "pos_ADP", ["to"]),
        ("They want to see it and can find one", "morph_VerbForm=Inf", ["see", "find"]),
        ("Do you see it?", "morph_VerbForm=Inf", ["see"]),
        ("She walked home and saw us", "morph_Tense=Past", ["walked", "saw"]),
        ("I need seeds indeed, exceed the speed", "morph_Tense=Past", []),
        ("We have quickly seen it", "morph_Aspect=Perf", ["seen"]),
        ("Have you not taken it?", "morph_Aspect=Perf", ["taken"]),
        ("They were running during the morning", "morph_Aspect=Prog", ["running"]),
        ("It is broken and was not mended", "dep_auxpass", ["is", "was"]),
        ("It is broken and was not mended", "morph_VerbForm=Part", ["broken", "mended"]),
        ("She has a dog and has seen it", "pos_AUX", ["has"]),
        ("We do the work and do not stop", "pos_AUX", ["do"]),
        ("It's Anna's. That's it.", "pos_AUX", ["'s", "'s"]),
        ("It's Anna's.", "dep_case", ["'s"]),
        ("two houses, three men and a class", "morph_Number=Plur", ["houses", "men"]),
        ("he runs and it always works; runs", "pos_VERB", ["runs", "works"]),
        ("two dogs cost 3.50 or 1,000", "pos_NUM", ["two", "3.50", "1,000"]),
        ("my dog, your cat, I, us, she, them", "morph_Person=1", ["my", "I", "us"]),
        ("my dog, your cat, I, us, she, them", "morph_Person=3", ["she", "them"]),
        ("in Paris with Anna", "pos_PROPN", ["Paris", "Anna"]),
        ("Paris is nice", "pos_PROPN", []),
        ("a really early reply", "pos_ADV", ["really"]),
        ("a famous nation", "pos_ADJ", ["famous"]),
        ("a famous nation", "pos_NOUN", ["nation"]),
        ("x = a.b_c + '$'", "pos_SYM", ["=", "+", "$"]),
        ("(a, b)", "pos_PUNCT", ["(", ",", ")"]),
        ("a\n\n  b  c d", "pos_SPACE", ["\n\n  ", "  "]),
    ],
)
def test_a_label_falls_on_the_words_it_means(text, label, words):
    assert having(text, label) == words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One. Two! Three? four.", ["One .", "Two !", "Three ? four ."]),
        ("Dr. Smith et al. Went. Yes.", ["Dr . Smith et al . Went .", "Yes ."]),
        ("J. R. Smith, e.g. Anna.", ["J . R . Smith , e . g . Anna ."]),
        ('He said "no." Then (he left.) "Go!" He', [
            'He said " no . "', "Then ( he left . )", '" Go ! "', "He",
        ]),
        ("Title\n\nthe text", ["Title", "the text"]),
        ("line\nline", ["line line"]),
        ("a = b.C(x)", ["a = b . C ( x )"]),
    ],
)  # fmt: skip
def test_sentences_begin_and_end(text, expected):
    assert sentences(text) == expected


def test_sentences_do_not_reach_over_special_tokens_and_rows():
    rows = make_rows(["He", " is", None, "broken"], ["not", " now", "."])
    found = TokenLabels(RULES)(rows)
    # Across the special token `is` would make a passive of `broken`.
    assert not found["dep_auxpass"].any() and not found["morph_Aspect=Perf"].any()
    assert found["sent_begin"].astype(int).tolist() == [1, 0, 0, 1, 1, 0, 0, 0]
    assert found["sent_end"].astype(int).tolist() == [0, 1, 0, 1, 0, 0, 1, 0]


def test_every_token_of_a_word_has_its_labels_and_places_count_tokens():
    rows = make_rows(["The", " hou", "ses", ".", " We", "'re", " not", "."])
    found = {key: value.astype(int).tolist() for key, value in TokenLabels(RULES)(rows).items()}
    assert found["morph_Number=Plur"] == [0, 1, 1, 0, 1, 0, 0, 0]
    assert found["dep_neg"] == [0, 0, 0, 0, 0, 0, 1, 0]
    assert found["sentence_token_1"] == [1, 0, 0, 0, 1, 0, 0, 0]
    assert found["sentence_tokens_2_to_4"] == [0, 1, 1, 1, 0, 1, 1, 1]
    assert found["word_none"] == [0] * 8


def test_no_word_has_two_parts_of_speech():
    labels = TokenLabels(RULES)(embedded_rows())
    kinds = [found for name, found in labels.items() if name.startswith("pos_")]
    assert len(kinds) == 17
    assert np.sum(kinds, axis=0).max() == 1


def test_text_without_words_has_no_labels():
    for rows in (make_rows([None]), make_rows([" ", None, b""])):
        found = TokenLabels(RULES)(rows)
        assert not any(label.any() for name, label in found.items() if name != "word_none")


def test_a_word_of_the_lexicon_stands_in_one_class():
    lexicon = Lexicon()
    spelt = LEXICON.read_text(encoding="utf-8").partition("classes:")[2].partition("\n\n")[0]
    words = [
        word for word in spelt.replace(">-", "").replace('"', "").split() if not word.endswith(":")
    ]
    assert sorted(words) == sorted(lexicon.classes)
    assert all(word == word.lower() for word in lexicon.classes)


def test_features_are_declared_once_and_labelled_together():
    features = syntax_features("rules")
    assert len({feature.name for feature in features}) == len(features) == 47
    calls = []

    class Counted(TokenLabels):
        def __call__(self, rows: TokenRows):
            calls.append(rows)
            return super().__call__(rows)

    label = Counted(RULES)
    rows = make_rows(["a", " b"])
    assert rows.once(label) is rows.once(label) and len(calls) == 1


def test_a_few_seconds_label_204800_tokens():
    rows = embedded_rows()
    rows = TokenRows(rows.tokens_BP, rows.vocabulary)
    started = time.process_time()
    TokenLabels(RULES)(rows)
    assert rows.tokens_BP.size == 204_800
    assert time.process_time() - started < 10  # 0.6 s on one core; room for a loaded machine
