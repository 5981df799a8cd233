"""Rows of text in two tokenizers: whose tokens end at the same byte, told by sets of ends."""

import numpy as np
import pytest
from helpers_segments import CHINESE, LATIN, byte_ends, make_other, text_of
from tokenizers import normalizers

from universal_ray.corpus.aligned import align
from universal_ray.corpus.rows import open_corpus
from universal_ray.corpus.segments import DIVIDES, OPEN, PLACES, beside, packed, shared
from universal_ray.corpus.tokenise import save_rows
from universal_ray.errors import CorpusError, StorageError
from universal_ray.stages.segments import spelling


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    nowhere = tmp_path_factory.mktemp("none") / "none"
    return make_other(nowhere, LATIN, 300), make_other(nowhere, CHINESE, 310)


def aligned(first, other, rows):
    spelled = spelling(first, "first"), spelling(other, "other")
    return beside(np.array(rows, dtype=np.int64), *spelled, where="c", start=0)


def encoded(tokenizer, text):
    return tokenizer.encode(text, add_special_tokens=False)


def test_segments_of_three_token_sequences_end_where_all_end():
    ends = [[1, 3, 4, 6, 9], [3, 6, 6, 9], [2, 3, 5, 6, 7, 9]]
    found = shared([np.array(each) for each in ends])
    common = sorted(set.intersection(*map(set, ends)))
    assert common == [3, 6, 9]
    assert [[of[place] for place in places] for of, places in zip(ends, found, strict=True)] == [
        common
    ] * 3
    assert found.tolist() == [[1, 3, 4], [0, 2, 3], [1, 3, 5]]  # of equal ends the last token


@pytest.mark.parametrize("text", [LATIN[:160], CHINESE[:90], "x", "神", "🙂\n\nnaïve"])
def test_a_document_is_aligned_at_the_bytes_where_tokens_of_both_end(both, text):
    first, other = both
    mine, theirs = encoded(first, text), encoded(other, text)
    ends, others = byte_ends(first, mine), byte_ends(other, theirs)
    (made,) = aligned(first, other, [[0, *mine]])
    assert made.tokens == [0, *theirs]
    assert made.codes_P[0] == PLACES  # both have a token that begins text
    for end, code in zip(ends, made.codes_P[1:].tolist(), strict=True):
        assert (code >= PLACES) == (end in others)
        if code >= PLACES:
            assert others[code - PLACES - 1] == end


def test_both_tokenizers_cut_characters(both):
    """Else the texts above would show nothing of it."""
    for tokenizer in both:
        text = CHINESE[:90] + LATIN
        starts = {0, *byte_ends(tokenizer, encoded(tokenizer, text))}
        characters = np.cumsum([len(each.encode()) for each in text]).tolist()
        assert starts - {0, *characters}


def test_of_a_character_cut_at_a_rows_end_nothing_is_aligned(both):
    first, other = both
    tokens = encoded(first, "神经 x 数据")
    assert len(tokens) > 9
    (made,) = aligned(first, other, [tokens[1:-1]])
    spelled = text_of(first, tokens[1:-1])
    whole = spelled[2:-2].decode()  # of 神 and 据 a byte is missing, and so they are
    theirs = encoded(other, whole)
    assert made.tokens == [0, *theirs]
    assert made.codes_P[:2].tolist() == [DIVIDES] * 2 == made.codes_P[-2:].tolist()
    ends = np.array(byte_ends(first, tokens[1:-1])[2:-2]) - 2
    assert (made.codes_P[2:-2] >= PLACES).tolist() == np.isin(
        ends, byte_ends(other, theirs)
    ).tolist()


def test_documents_are_divided_by_each_tokenizers_own_token(both, tmp_path):
    first, other = both
    bare = make_other(tmp_path / "none", CHINESE, special=None)
    row = [0, *encoded(first, "a"), 0, *encoded(first, "b"), 0, 0]
    (made,), (alone,) = aligned(first, other, [row]), aligned(first, bare, [row])
    assert made.tokens == [0, *encoded(other, "a"), 0, *encoded(other, "b"), 0, 0]
    assert made.codes_P.tolist() == [PLACES + each for each in range(6)]
    # BOS and EOS of one tokenizer alone are segments of none.
    assert alone.tokens == encoded(bare, "ab"[:1]) + encoded(bare, "b")
    assert alone.codes_P.tolist() == [DIVIDES, PLACES, DIVIDES, PLACES + 1, DIVIDES, DIVIDES]
    (without,) = aligned(first, other, [row[1:2]])
    assert (without.tokens, without.codes_P.tolist()) == ([0, *encoded(other, "a")], [PLACES + 1])


def test_with_itself_every_token_is_a_segment(both):
    first, _ = both
    tokens = encoded(first, LATIN)
    (made,) = aligned(first, first, [[0, *tokens, 0]])
    assert made.codes_P.tolist() == [PLACES + each for each in range(len(tokens) + 2)]


def test_what_is_longer_than_a_row_of_the_other_is_not_aligned(both):
    first, other = both
    (made,) = aligned(first, other, [[0, *encoded(first, LATIN[:60])]])
    stored = packed(made, 9)
    codes = stored[: len(made.codes_P)]
    assert len(stored) == len(codes) + 9 and codes.max() < PLACES + 9
    beyond = np.flatnonzero(made.codes_P >= PLACES + 9)[0]
    assert (codes[:beyond] == made.codes_P[:beyond]).all() and (codes[beyond:] == OPEN).all()
    used = codes.max() - PLACES + 1
    assert stored[len(codes) :].tolist() == [*made.tokens[:used], *[0] * (9 - used)]


def test_a_space_that_is_put_before_all_text_moves_no_end(both, tmp_path):
    from tokenizers import pre_tokenizers

    first, _ = both
    putting = make_other(tmp_path / "none", LATIN)
    putting.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    mine, theirs = encoded(first, "seeds naïve"), encoded(putting, "seeds naïve")
    assert text_of(putting, theirs) == " seeds naïve".encode()
    (made,) = aligned(first, putting, [mine])
    ends = [end - 1 for end in byte_ends(putting, theirs)]
    for end, code in zip(byte_ends(first, mine), made.codes_P.tolist(), strict=True):
        assert code == (PLACES + 1 + ends.index(end) if end in ends else OPEN)


def test_text_that_a_tokenizer_does_not_give_back_is_refused(both, tmp_path):
    first, _ = both
    lower = make_other(tmp_path / "none", LATIN, normalizer=normalizers.Lowercase())
    row = [[0, *encoded(first, "one Two")]]
    with pytest.raises(CorpusError, match=r"row 0 of c .*'one Two'.* of other .*byte by byte"):
        aligned(first, lower, row)


def test_rows_that_are_no_text_are_refused(both):
    first, other = both
    half = encoded(first, "神")[:1]
    with pytest.raises(CorpusError, match="row 0 of c is no text in UTF-8"):
        aligned(first, other, [[0, *encoded(first, "a"), *half, *encoded(first, "b")]])


def test_rows_beside_rows_are_made_once_and_held_to_what_they_were(both, tmp_path, monkeypatch):
    first, other = both
    ids = encoded(first, LATIN + CHINESE)
    rows = np.array([[0, *ids[start : start + 30]] for start in range(0, 240, 30)], np.int32)
    save_rows(tmp_path / "tokens", rows, None, {})
    corpus = open_corpus(str(tmp_path / "tokens"))
    told = {"longest": 40, "destination": str(tmp_path / "beside")}
    spelled = spelling(first, "first"), spelling(other, "other")
    found = align(corpus, 7, *spelled, **told)
    expected = [packed(each, 40) for each in aligned(first, other, rows[:7])]
    assert (found.read(0, 7) == np.array(expected)).all()
    monkeypatch.setattr("universal_ray.corpus.aligned.beside", None)
    assert align(corpus, 7, *spelled, **told).content == found.content
    (file,) = (tmp_path / "beside").glob("*.arrow")
    data = file.read_bytes()
    place = data.index(np.array(expected[3], np.int32).tobytes())
    file.write_bytes(data[: place + 140] + b"\1" + data[place + 141 :])
    with pytest.raises(StorageError, match="cut or altered"):
        align(corpus, 7, *spelled, **told)


