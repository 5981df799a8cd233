"""Tokens in text and in words by character offsets, against a search character by character.

Shapes: T tokens, W words.
"""

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
from helpers_taxonomy import embedded_rows, embedded_tokenizer, make_rows

from universal_ray.features.align import MULTI, NONE, REPLACEMENT, align, spread
from universal_ray.features.features import TokenRows

thoroughly = hypothesis.settings(max_examples=200, deadline=None, database=None, derandomize=True)


def passages(rows: TokenRows) -> list[str]:
    return [rows.text.text[start:stop] for start, stop in rows.text.passages]


def covered(rows: TokenRows) -> list[str]:
    """The text that each token covers."""
    spans = zip(rows.text.start_T, rows.text.stop_T, strict=True)
    return [rows.text.text[start:stop] for start, stop in spans]


def words_of(rows: TokenRows, *words: str) -> list[int]:
    """The word of every token, for words found one after another in the text."""
    starts, place = [], 0
    for word in words:
        starts.append(rows.text.text.index(word, place))
        place = starts[-1] + len(word)
    start_W = np.array(starts, dtype=np.int64)
    stop_W = start_W + np.array([len(word) for word in words])
    return align(rows.text, start_W, stop_W).tolist()


def test_contractions_are_cut_where_the_words_are_not():
    rows = make_rows(["I", " don", "'t", " know", ".", "We", " ca", "n't", "."])
    words = ("I", "do", "n't", "know", ".", "We", "ca", "n't", ".")
    assert words_of(rows, *words) == [0, MULTI, 2, 3, 4, 5, 6, 7, 8]


def test_a_character_in_several_tokens_belongs_to_each_of_them():
    euro, face = "€".encode(), "🙂".encode()
    rows = make_rows(["a ", euro[:1], euro[1:], " b", face[:2], face[2:3], face[3:], "é"])
    assert passages(rows) == ["a € b🙂é"]
    assert covered(rows) == ["a ", "€", "€", " b", "🙂", "🙂", "🙂", "é"]
    assert words_of(rows, "a", "€", "b", "🙂", "é") == [0, 1, 1, 2, 3, 3, 3, 4]


def test_a_token_of_a_piece_of_a_character_and_more():
    face = "🙂".encode()
    rows = make_rows([b"x" + face[:2], face[2:] + b"y"])
    assert covered(rows) == ["x🙂", "🙂y"]
    assert words_of(rows, "x", "🙂", "y") == [MULTI, MULTI]


def test_broken_bytes_take_one_character_each_and_stay_in_their_row():
    euro = "€".encode()
    rows = make_rows([euro[1:], " a", euro[:2]], [euro[2:], "b", euro[:1]])
    gone = REPLACEMENT
    assert passages(rows) == [f"{gone * 2} a{gone * 2}", f"{gone}b{gone}"]
    assert covered(rows) == [gone * 2, " a", gone * 2, gone, "b", gone]


def test_tokens_without_text_cover_nothing_and_lie_in_no_word():
    rows = make_rows([None, "a", b"", "b", None, b"", None, "c", None])
    assert covered(rows) == ["", "a", "", "b", "", "", "", "c", ""]
    assert passages(rows) == ["ab", "c"]
    assert words_of(rows, "ab", "c") == [NONE, 0, NONE, 0, NONE, NONE, NONE, 1, NONE]


def test_a_nul_in_the_text_divides_nothing():
    rows = make_rows(["a", "\0", "b"])
    assert passages(rows) == ["a\0b"]


def test_white_space_around_a_token_does_not_count_but_alone_it_does():
    rows = make_rows(["a", "  ", "\n\n", " \n b", "\t"])
    assert words_of(rows, "a", "  ", "\n\n \n ", "b", "\t") == [0, 1, 2, 3, 4]


def test_several_words_and_none():
    rows = make_rows(["self.", "x", "(", "):", " ", "y z"])
    assert words_of(rows, "self", ".", "x", "(", ")", ":", "y", "z") == [
        MULTI, 2, 3, MULTI, NONE, MULTI,
    ]  # fmt: skip


def test_labels_spread_to_the_tokens_of_a_word_alone():
    labels_WF = np.array([[True, False], [True, True]])
    found = spread(labels_WF, np.array([1, NONE, 0, MULTI, 1]))
    assert found.tolist() == [[True, True], [False] * 2, [True, False], [False] * 2, [True, True]]
    assert not spread(labels_WF[:0], np.array([NONE, MULTI])).any()


@thoroughly
@hypothesis.given(st.data())
def test_offsets_are_those_of_a_search_by_character(data):
    text = data.draw(st.text(st.sampled_from("ab \n.é€🙂\0"), min_size=1, max_size=12))
    raw = text.encode()
    cuts = sorted(data.draw(st.sets(st.integers(1, max(1, len(raw) - 1)))) - {len(raw)})
    pieces = [raw[a:b] for a, b in zip([0, *cuts], [*cuts, len(raw)], strict=True)]
    rows = make_rows([None, *pieces, None])
    assert passages(rows) == [text]

    # Words by character: every dark run cut at random, and runs of white space as words too.
    ends = data.draw(st.sets(st.integers(0, len(text))))
    kinds = [(char.isspace(), sum(end <= place for end in ends)) for place, char in enumerate(text)]
    starts = [place for place in range(len(text)) if place == 0 or kinds[place] != kinds[place - 1]]
    stops = [*starts[1:], len(text)]
    origin = rows.text.passages[0][0]
    found = align(rows.text, np.array(starts) + origin, np.array(stops) + origin)

    byte_of = [len(text[:place].encode()) for place in range(len(text) + 1)]
    place = 0
    for piece, word in zip(pieces, found[1:-1].tolist(), strict=True):
        inside = [
            index
            for index in range(len(text))
            if byte_of[index] < place + len(piece) and byte_of[index + 1] > place
        ]
        place += len(piece)
        counted = [index for index in inside if not text[index].isspace()] or inside
        among = {sum(start <= index for start in starts) - 1 for index in counted}
        assert word == (among.pop() if len(among) == 1 else MULTI)


@pytest.mark.parametrize("text", ["def naïve(x):\n\treturn 'don\u2019t'  # 🙂", "Ωmega €5 日本"])
def test_the_embedded_tokenizers_pieces_make_the_text(text):
    ids = embedded_tokenizer().encode(text)
    rows = TokenRows(np.array([ids]), embedded_rows().vocabulary)
    assert passages(rows) == [text]


def test_rows_of_the_corpus_decode_as_the_tokenizer_decodes_them():
    rows = embedded_rows()
    some = TokenRows(rows.tokens_BP[:50], rows.vocabulary)
    decoded = [embedded_tokenizer().decode(row) for row in some.tokens_BP.tolist()]
    expected = [part for row in decoded for part in row.split("<|endoftext|>") if part]
    assert passages(some) == expected
