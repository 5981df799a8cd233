"""Bytes of every id under the ways in which tokenizers spell them; features of the token's text."""

import json

import numpy as np
import pytest
import tokenizers
from helpers_taxonomy import embedded_rows, embedded_tokenizer, make_rows, vocabulary_of
from transformers import PreTrainedTokenizerFast

from universal_ray.errors import ModelError
from universal_ray.features.features import IdFeature
from universal_ray.features.lexical import (
    NUMERIC,
    ROLES,
    STARTS,
    TYPE,
    occurrence_roles,
    small_norm,
    unigrams,
)
from universal_ray.features.vocabulary import Vocabulary, read_vocabulary
from universal_ray.features.words import own_words

FEATURES = {feature.name: feature for feature in (*TYPE, *NUMERIC, *STARTS, *own_words())}

MEMBERS = {
    "all_white_space": ([" ", "\n\n", "\t"], ["", " a"]),
    "all_caps": ([" NASA", "OK"], ["A", "Ok", "1"]),
    "all_lower": ([" ab", "x1"], ["Ab", "12", " "]),
    "all_alpha": ([" Ab", "é"], ["a1", "a-b", " "]),
    "all_numeric": (["12", " ٣"], ["1a", " ", "1.5", "½", "²"]),
    "all_symbolic": ([" ==", "():", "…"], [" a=", "1", " ", "\n"]),  # the authors': any symbol
    "contains_symbol": ([" a=", "():", "a b"], [" ab", "12", " "]),
    "all_digits": ([" 12", "007"], [" ", "\n", "", "½", "1a"]),  # the authors': blanks, too
    "year": (["1999", " 2199", "1491"], ["1490", "2200", "99", "²0"]),
    "one_digit": ([" 7"], ["17", "", " ", "²"]),
    "four_digit": (["1234"], ["123", "12345"]),
    "up_to_31": ([" 0", "31", "07"], ["32", "-1", "3x"]),
    "contains_digit": (["a1", " 2"], ["one"]),
    "number_word": ([" Three", "dozen", "millions", "sextillion"], ["3", "threes", "first"]),
    "starts_vowel": ([" Apple", "e"], [" pear", "1", " "]),
    "starts_consonant": ([" pear", "Y"], ["apple", "1a", " "]),
    "starts_space": ([" a", " .", "  a"], ["a", "\na", " ", "   ", " \n"]),
    "starts_space_and_letter": ([" a", " Z"], [" 1", "  a", "a"]),
    "starts_no_space": (["a", ".", "\na", "\n", "\ta", "\t\t"], [" a", " ", " \n"]),
    "starts_no_space_and_letter": (["a", "Bc"], [" a", "1"]),
    "starts_no_space_and_digit": (["1", "2nd"], [" 1", "a1"]),
    "starts_no_space_and_cap": (["Ab"], [" Ab", "ab"]),
    "starts_no_space_and_lower": (["ab"], ["Ab", " ab"]),
    "starts_cap": ([" Ab", "Z"], ["ab", "1"]),
    "contains_comma": ([", ", ",'"], ["."]),
    "contains_caret": ([" ^="], ["v"]),
    "contains_closing_punc": (["})", "]", ">"], ["(", "a"]),
    "contains_currency": ([" £", "US$"], ["E", "USD"]),
    "contains_double_dollar": (["$$"], ["$", "$ $"]),
    "contains_apostrophe": (["don't", "\u2019s"], ['"']),
    "male_pronoun": ([" He", "himself"], ["her", "hem"]),
    "female_pronoun": (["She", " hers"], ["he", "shed"]),
    "neutral_pronoun": ([" They", "theirs", "themself"], ["it", "its", "itself", "he", "the"]),
    "first_person": ([" I", "OUR"], ["you"]),
    "second_person": ([" You", "yourselves"], ["thou", "thy", "me"]),
    "third_person": (["he", " Hers", "themself"], ["it", "its", "you"]),
    "plural_pronoun": (["we", "Themself", " yourselves"], ["you", "these", "both", "many"]),
    "singular_pronoun": (["i", " You", "yourself"], ["yourselves", "it", "this", "each", "they"]),
    "subject_pronoun": (["it", " WE"], ["me", "who"]),
    "object_pronoun": (["it", " us", "Her"], ["we", "whom"]),
    "possessive_pronoun": (["its", " Her", "mine"], ["whose", "it"]),
    "reflexive_pronoun": (["itself", " Yourselves"], ["themself", "oneself", "self"]),
    "personal_pronoun": (["i", " My", "themself", "ours"], ["it", "its", "who"]),
    "indefinite_pronoun": ([" Most", "one", "such"], ["another", "other", "others", "ones"]),
    "demonstrative_pronoun": ([" This", "those"], ["the"]),
    "interrogative_pronoun": ([" Who", "what"], ["whoever", "whatever", "that"]),
    "relative_pronoun": ([" that", "Whose"], ["what"]),
    "intensive_pronoun": (["itself", " Ourselves"], ["themself", "it"]),
    "nonreflexive_pronoun": (["it", " Him"], ["his", "my", "himself"]),
    "month": ([" May", "sept"], ["mayor", "sep"]),
    "day_of_week": ([" Friday", "tue"], ["day"]),
    "state": ([" Texas", "York", " hampshire", "Dakota"], ["TX", "New", "West"]),
    "state_code": ([" TX", "OR"], [" or", "Tx"]),
    "website_suffix": (["com", "io", "uk"], [" com", "Com", ".com", "comma", "de"]),
    "dotted_website_suffix": ([".com", ".Org", " .html"], ["com", "comma"]),
    "length_unit": ([" meters", "km"], ["mean", "pinches", "footage"]),  # the authors': substrings
    "time_unit": ([" Hours", "ms"], ["today", "hourly"]),
    "contrastive_conjunction": ([" But", "although"], ["and", "while", "instead", "despite"]),
    "end_w_ing": ([" Running", "ing"], ["ingot"]),
    "start_w_un": ([" Undo", "un"], ["sun"]),
    "start_w_a": ([" apple", "A"], ["banana"]),
    "letter_a": ([" a", "A"], ["an", "'a"]),
    "part_of_character": (["\N{REPLACEMENT CHARACTER}"], ["é"]),
}


@pytest.mark.parametrize("name", MEMBERS)
def test_a_feature_has_the_tokens_it_means(name):
    inside, outside = MEMBERS[name]
    found_V = FEATURES[name].members(vocabulary_of(*inside, *outside))
    texts = np.array([*inside, *outside])
    assert texts[found_V].tolist() == inside


SUFFIXES = (
    "able age al ance ant ary cy dom ed en ence ent er ery est ette ful graphy hood ial ible ic ie "
    "ify ing ise ish ism ist ive ize less let ling logy ly ment ness or ous phobia s ship sion "
    "tion ty ward wise y"
)
PREFIXES = (
    "aero anti auto bi bio circum counter de dis electro em en ex fore geo hemi hetero homo hydro "
    "im in infra inter kilo macro mega micro mid mis mono multi neo non over pan ped peri photo "
    "pod poly post pre pseudo re semi sub super tele thermo trans tri ultra un under "
    "a b c d e f g h i j k l m n o p q r s t u v w x y z"
)


@pytest.mark.parametrize(
    ("name", "inside", "outside"),
    [
        *((f"end_w_{end}", f" Qu{end}", f"{end}#") for end in SUFFIXES.split()),
        *((f"start_w_{start}", f" {start.upper()}qu", f"#{start}") for start in PREFIXES.split()),
    ],
)
def test_every_suffix_and_prefix_of_the_paper_is_there(name, inside, outside):
    found_V = FEATURES[name].members(vocabulary_of(inside, outside))
    assert found_V.tolist() == [True, False]


def test_all_groups_of_the_paper_are_there_in_their_sizes() -> None:
    families: dict[str, int] = {}
    for feature in FEATURES.values():
        families[feature.family] = families.get(feature.family, 0) + 1
    assert families["symbol"] == 25
    assert families["pronoun"] == 19
    assert families["starts"] == 11
    assert families["suffix"] >= len(SUFFIXES.split()) == 49
    assert families["prefix"] + families["first letter"] >= len(PREFIXES.split()) == 80
    assert families["letter"] == families["first letter"] == 26
    assert {f"start_w_{letter}" for letter in "abcdefghijklmnopqrstuvwxyz"} < set(FEATURES)
    assert len(FEATURES) == len([*TYPE, *NUMERIC, *STARTS, *own_words()])


def test_special_tokens_and_tokens_without_text_have_no_feature():
    vocabulary = Vocabulary((b"", b"", b" the"), {0: "<end>"})
    for feature in FEATURES.values():
        assert not feature.members(vocabulary)[:2].any(), feature.name


def test_byte_level_pieces_are_the_bytes():
    vocabulary = embedded_rows().vocabulary
    tokenizer = embedded_tokenizer()
    assert [*vocabulary.special] == [0] and vocabulary.pieces[0] == b""
    assert set(range(256)) <= {piece[0] for piece in vocabulary.pieces if len(piece) == 1}
    for key in range(1, len(vocabulary)):
        decoded = tokenizer.decode([key])
        if "\N{REPLACEMENT CHARACTER}" not in decoded:
            assert vocabulary.texts[key] == decoded


def sentencepiece() -> PreTrainedTokenizerFast:
    """A tokenizer that marks spaces and falls back to bytes, as Llama's does."""
    spelt = ["<s>", "▁", "▁the", "a", *(f"<0x{byte:02X}>" for byte in range(256))]
    model = tokenizers.models.BPE(
        vocab={token: key for key, token in enumerate(spelt)}, merges=[], byte_fallback=True
    )
    backend = tokenizers.Tokenizer(model)
    backend.decoder = tokenizers.decoders.Sequence(
        [tokenizers.decoders.Replace("▁", " "), tokenizers.decoders.ByteFallback()]
    )
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>")


def test_sentencepiece_pieces_are_the_bytes():
    vocabulary = read_vocabulary(sentencepiece(), 300)
    assert vocabulary.pieces[:4] == (b"", b" ", b" the", b"a")
    assert vocabulary.pieces[4:260] == tuple(bytes([byte]) for byte in range(256))
    assert vocabulary.pieces[260:] == (b"",) * 40
    assert [*vocabulary.special] == [0]


def test_plain_pieces_are_what_the_tokenizer_decodes():
    spelt = {"[UNK]": 0, "one": 1, "é": 2}
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(spelt, unk_token="[UNK]"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]")
    assert json.loads(backend.to_str())["decoder"] is None
    assert read_vocabulary(tokenizer, 3).pieces == (b"", b"one", "é".encode())


def test_added_tokens_stand_for_themselves():
    tokenizer = sentencepiece()
    tokenizer.add_tokens(["   "])
    assert read_vocabulary(tokenizer, 300).pieces[260] == b"   "


def test_a_tokenizer_larger_than_the_model_is_refused():
    with pytest.raises(ModelError, match=r"260 ids, the model only 259"):
        read_vocabulary(sentencepiece(), 259)


def names(features: tuple[IdFeature, ...]) -> list[str]:
    return [feature.name for feature in features]


def test_unigrams_need_ids_and_occurrences_in_proportion():
    vocabulary = vocabulary_of("The", " the", "THE", " The", " a", "A", "\n", " ", "b", "é")
    counts_V = np.array([10, 80, 5, 5, 60, 60, 5000, 0, 3, 4777])
    assert counts_V.sum() == 10_000  # a thousandth of the paper's tokens
    assert names(unigrams(vocabulary, counts_V, ids=3, occurrences=99_999)) == ["the_unigram"]
    assert names(unigrams(vocabulary, counts_V, ids=3, occurrences=100_000)) == []
    (the, a) = unigrams(vocabulary, counts_V, ids=1, occurrences=99_999)
    assert the.members(vocabulary).nonzero()[0].tolist() == [0, 1, 2, 3]
    assert a.members(vocabulary).nonzero()[0].tolist() == [4, 5]
    assert names(unigrams(vocabulary, counts_V, ids=0, occurrences=99_999))[2:] == ["é_unigram"]


def test_white_space_and_parts_of_characters_are_no_unigram():
    vocabulary = Vocabulary((b"\n", b" ", b"\xe2", b"\xe3", b""), {4: "<end>"})
    assert unigrams(vocabulary, np.full(5, 9), ids=0, occurrences=0) == ()


def test_small_norm_is_below_the_threshold():
    vocabulary = vocabulary_of("a", "b", "c")
    feature = small_norm(np.array([0.5, 0.52, 0.6]), 0.52)
    assert feature.members(vocabulary).tolist() == [True, False, False]


def test_what_an_occurrence_is():
    rows = make_rows(
        [None, " the", " un", "like", "ly", " x", ".", "end", "\n", "Q", "1", "a", "-", "b"],
        ["like", " x", None, "ly", "able"],
    )
    found = [ROLES[role] for role in occurrence_roles(rows)]
    word, begin, middle, other = ROLES
    assert found == [
        other, word, begin, middle, middle, word, other, word, other, word, other, word, other,
        word, word, word, other, begin, middle, *[other] * 9,
    ]  # fmt: skip


def test_every_token_can_be_read_and_none_is_empty_or_a_replacement():
    pieces = (
        b"", b"", b" the", b"\n\n", b"\t", b"\xe2", b"\x82\xac", "\u200b".encode(), b"\x00",
        "\N{REPLACEMENT CHARACTER}".encode(), "\xa0".encode(), b"e\xcc\x81",
    )  # fmt: skip
    vocabulary = Vocabulary(pieces, {0: "<|endoftext|>"})
    assert vocabulary.shown == (
        "<|endoftext|>", "<id 1>", "␣the", "⏎⏎", "⇥", "<0xE2>", "<0x82><0xAC>", "<U+200B>",
        "<U+0000>", "<U+FFFD>", "<U+00A0>", "e\u0301",
    )  # fmt: skip
    # In a row the parts of a character are one, and spaces stay as they are.
    assert vocabulary.show([0, 2, 5, 6, 2, 3, 5]) == "<|endoftext|> the€ the⏎⏎<0xE2>"
    assert vocabulary.show([]) == ""


def test_every_id_of_real_tokenizers_can_be_read():
    for vocabulary in (embedded_rows().vocabulary, read_vocabulary(sentencepiece(), 300)):
        assert all(text.isprintable() and " " not in text for text in vocabulary.shown[1:260])
        assert "" not in vocabulary.shown
        assert not any("\N{REPLACEMENT CHARACTER}" in text for text in vocabulary.shown)
    assert vocabulary.shown[0] == "<s>" and vocabulary.shown[299] == "<id 299>"
