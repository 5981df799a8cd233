"""The bank: which features have columns, in which order, on which token; users' own among them.

Shapes: B rows, P positions, T tokens, V ids, F and E features.
"""

import time
from string import ascii_lowercase

import numpy as np
import pytest
import torch
from helpers_taxonomy import embedded_rows, make_rows

from universal_ray.errors import ConfigurationError
from universal_ray.features.bank import BankOptions, feature_bank
from universal_ray.features.features import (
    CURRENT,
    PREVIOUS,
    IdFeature,
    RowFeature,
    TokenRows,
    by_word,
    previous,
)

ROWS = make_rows([None, "The", " cat", " sat", "."], [" the", " CAT", "'s", None, "42"])
COUNTS = np.bincount(ROWS.tokens_BP.ravel(), minlength=len(ROWS.vocabulary))


def bank_of(options: BankOptions | None = None, **more):
    return feature_bank(ROWS.vocabulary, COUNTS, options or BankOptions(), **more)


def test_columns_of_ids_are_their_members():
    bank = bank_of(BankOptions(unigram_ids=1, unigram_occurrences=0))
    names = [column.name for column in bank.id_columns(CURRENT)]
    assert bank.membership_VF.shape == (len(ROWS.vocabulary), len(names))
    texts = np.array(ROWS.vocabulary.texts)
    members = {name: set(texts[row]) for name, row in zip(names, bank.membership_VF.T, strict=True)}
    assert members["the_unigram"] == {"The", " the"} and members["cat_unigram"] == {" cat", " CAT"}
    # The first of several features with the same tokens stands for the others.
    assert bank.left_out["article"] == "the_unigram" and bank.left_out["contains_comma"] is None
    assert bank.id_index("article") == bank.id_index("the_unigram") == names.index("the_unigram")
    assert bank.id_index("contains_comma") is None
    assert members["special"] == {""}
    assert set(bank.left_out).isdisjoint(names)
    assert bank.membership_VF.any(0).all()
    assert len({tuple(column.tolist()) for column in bank.membership_VF.T}) == len(names)


def test_columns_of_rows_are_labels_of_this_token_and_of_the_one_before():
    bank = bank_of()
    labels_TE = bank.labels(ROWS)
    columns = bank.row_columns()
    assert labels_TE.shape == (10, len(columns)) and labels_TE.dtype == torch.bool
    found = {
        column.name: label_T.int().tolist()
        for column, label_T in zip(columns, labels_TE.T, strict=True)
    }
    assert found["pos_DET"] == [0, 1, 0, 0, 0, 1, 0, 0, 0, 0]
    # The last token of a row is not before the first of the next.
    assert found["pos_PUNCT"] == [0, 0, 0, 0, 1, 0, 0, 0, 0, 0]
    assert found["previous:pos_PUNCT"] == [0] * 10
    assert found["previous:pos_DET"] == [0, 0, 1, 0, 0, 0, 1, 0, 0, 0]
    assert "previous:row_first" not in found
    looks = {column.name: column.looks_at for column in columns}
    assert looks["previous:pos_DET"] == PREVIOUS and looks["pos_DET"] == CURRENT


def test_previous_stays_in_its_row():
    labels_BP = np.random.default_rng(0).random((4, 6)) < 0.5
    shifted_BP = previous(labels_BP.ravel(), 6).reshape(4, 6)
    assert not shifted_BP[:, 0].any()
    np.testing.assert_array_equal(shifted_BP[:, 1:], labels_BP[:, :-1])


def test_users_add_features_in_a_few_lines(tmp_path):
    words = tmp_path / "animals.yaml"
    words.write_text(
        "family: animal\nmatch: word\nfeatures:\n  pet: {description: a pet, words: cat dog}\n"
    )
    longer = IdFeature("long", "own", "two letters or more", by_word(lambda word: len(word) > 1))
    odd = RowFeature("odd", "own", "of an odd id", lambda rows: rows.tokens_BP.ravel() % 2 == 1)
    options = BankOptions(words=(str(words),), syntax=None)
    bank = bank_of(options, more=(longer, odd), norm_V=np.linspace(0, 1, len(ROWS.vocabulary)))
    names = [column.name for column in bank.id_columns(PREVIOUS)]
    assert {"previous:pet", "previous:long", "previous:small_norm"} <= set(names)
    assert [column.name for column in bank.row_columns()][-1] == "odd"
    np.testing.assert_array_equal(bank.labels(ROWS)[:, -1], ROWS.tokens_BP.ravel() % 2)
    assert not any(column.family == "part of speech" for column in bank.row_columns())


def test_two_features_of_one_name_are_refused():
    twice = IdFeature("article", "own", "again", by_word(str.isalpha))
    with pytest.raises(ConfigurationError, match="two features have the name article"):
        bank_of(more=(twice,))


def test_the_embedded_corpus_is_labelled_in_seconds():
    rows = embedded_rows()
    rows = TokenRows(rows.tokens_BP, rows.vocabulary, rows.subsets)
    counts_V = np.bincount(rows.tokens_BP.ravel(), minlength=len(rows.vocabulary))
    started = time.process_time()
    bank = feature_bank(
        rows.vocabulary, counts_V, BankOptions(unigram_ids=1), subsets=rows.subsets or ()
    )
    labels_TE = bank.labels(rows)
    assert time.process_time() - started < 10  # 0.8 s on one core; room for a loaded machine
    families = {column.family for column in (*bank.id_columns(CURRENT), *bank.row_columns())}
    assert families >= {
        "type", "symbol", "numeric", "pronoun", "starts", "suffix", "prefix",
        "first letter", "word group",
        "unigram", "special", "position", "occurrence", "part of speech", "morphology",
        "dependency", "sentence", "stop word", "alignment", "subset",
    }  # fmt: skip
    names = [column.name for column in (*bank.id_columns(CURRENT), *bank.row_columns())]
    assert len(set(names)) == len(names)
    # `a_unigram` has the tokens of `letter_a`, which stands for it: the alphabet is a family.
    assert bank.left_out["a_unigram"] == "letter_a"
    assert all(bank.id_index(f"letter_{letter}") is not None for letter in ascii_lowercase)
    # Every label of a row occurs in 204,800 tokens; all of them together are no small share.
    assert labels_TE.any(0).all() and not labels_TE.all(0).any()
    occurrences = [labels_TE[:, n] for n, c in enumerate(bank.row_columns()) if "as_" in c.name]
    assert torch.stack(occurrences).sum(0).eq(1).all()


def test_batches_label_as_all_rows_do():
    rows = embedded_rows()
    counts_V = np.bincount(rows.tokens_BP.ravel(), minlength=len(rows.vocabulary))
    bank = feature_bank(rows.vocabulary, counts_V, BankOptions(), subsets=rows.subsets or ())
    assert rows.subsets is not None

    def part(start: int, stop: int) -> torch.Tensor:
        subsets = rows.subsets[start:stop] if rows.subsets else None
        return bank.labels(TokenRows(rows.tokens_BP[start:stop], rows.vocabulary, subsets))

    assert torch.equal(part(0, 300), torch.cat([part(0, 77), part(77, 300)]))
