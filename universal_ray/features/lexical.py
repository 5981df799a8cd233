"""Features of the token's own text that no word list says: its kind, numbers, how it starts.

Shapes: V ids, T tokens.
"""

from functools import partial

import numpy as np
from jaxtyping import Bool, Float, Int64

from universal_ray.features.features import (
    IdFeature,
    RowFeature,
    TokenRows,
    by_ids,
    by_stripped,
    by_text,
    by_word,
)
from universal_ray.features.vocabulary import Vocabulary

VOWELS = frozenset("aeiou")
YEARS = range(1491, 2200)
"""What the authors count as a year."""
TOKENS_OF_PAPER = 10_000_000
"""Size of the paper's set of tokens, to which its threshold of 3000 occurrences belongs."""
ROLES = ("word", "word_beginning", "word_middle", "no_word")
"""What an occurrence of a token is: a whole word, its first part, a later part, or no word."""


def _symbolic(text: str) -> bool:
    return not any(character.isalnum() or character.isspace() for character in text)


def _digits(text: str) -> bool:
    return text.isascii() and text.isdigit()


def _letter(text: str) -> bool:
    return text[:1].isalpha()


TYPE = (
    IdFeature("all_white_space", "type", "white space alone", by_text(str.isspace)),
    IdFeature(
        "all_caps",
        "type",
        "capitals, at least two",
        by_stripped(lambda s: s.isupper() and len(s) > 1),
    ),
    IdFeature("all_lower", "type", "no capitals, some letter", by_stripped(str.islower)),
    IdFeature("all_alpha", "type", "letters alone", by_stripped(str.isalpha)),
    IdFeature("all_numeric", "type", "digits of any script alone", by_stripped(str.isdecimal)),
    IdFeature(
        "all_symbolic",
        "type",
        "neither letters nor digits, some sign",
        by_stripped(lambda s: s != "" and _symbolic(s)),
    ),
    IdFeature(
        "contains_symbol",
        "type",
        "some sign that is neither letter nor digit",
        by_stripped(lambda s: any(not character.isalnum() for character in s)),
    ),
    IdFeature(
        "part_of_character",
        "type",
        "bytes that are no character by themselves",
        by_text(lambda text: "\N{REPLACEMENT CHARACTER}" in text),
    ),
)

NUMERIC = (
    IdFeature("contains_digit", "numeric", "a digit", by_text(lambda s: any(map(str.isdigit, s)))),
    IdFeature("all_digits", "numeric", "digits 0 to 9 alone", by_stripped(_digits)),
    IdFeature(
        "year", "numeric", "1491 to 2199", by_stripped(lambda s: _digits(s) and int(s) in YEARS)
    ),
    *(
        IdFeature(
            f"{word}_digit",
            "numeric",
            f"digits alone, {word} of them",
            by_stripped(partial(lambda s, length: _digits(s) and len(s) == length, length=length)),
        )
        for length, word in enumerate(("one", "two", "three", "four"), start=1)
    ),
    IdFeature(
        "up_to_31",
        "numeric",
        "a number that may be a day of a month",
        by_stripped(lambda s: _digits(s) and int(s) <= 31),
    ),
)

STARTS = (
    IdFeature(
        "starts_vowel", "starts", "vowel first", by_word(lambda s: s[:1] in VOWELS and s != "")
    ),
    IdFeature(
        "starts_consonant",
        "starts",
        "letter first that is no vowel",
        by_word(lambda s: _letter(s) and s[0] not in VOWELS),
    ),
    IdFeature("starts_digit", "starts", "digit first", by_stripped(lambda s: s[:1].isdigit())),
    IdFeature("starts_cap", "starts", "capital first", by_stripped(lambda s: s[:1].isupper())),
    IdFeature(
        "starts_space",
        "starts",
        "space first, then not only white space",
        by_text(lambda s: s[0] == " " and not s.isspace()),
    ),
    IdFeature(
        "starts_space_and_letter",
        "starts",
        "space first, then a letter",
        by_text(lambda s: s[0] == " " and _letter(s[1:])),
    ),
    IdFeature(
        "starts_no_space",
        "starts",
        "no space first; newlines and tabs are none",
        by_text(lambda s: s[0] != " "),
    ),
    IdFeature("starts_no_space_and_letter", "starts", "letter first, no space", by_text(_letter)),
    IdFeature(
        "starts_no_space_and_digit",
        "starts",
        "digit first, no space",
        by_text(lambda s: s[0].isdigit()),
    ),
    IdFeature(
        "starts_no_space_and_cap",
        "starts",
        "capital first, no space",
        by_text(lambda s: s[0].isupper()),
    ),
    IdFeature(
        "starts_no_space_and_lower",
        "starts",
        "lower-case letter first, no space",
        by_text(lambda s: s[0].islower()),
    ),
)

SPECIAL = IdFeature(
    "special", "special", "begin or end of text, padding", lambda vocabulary: vocabulary.special_V
)


def unigrams(
    vocabulary: Vocabulary,
    counts_V: Int64[np.ndarray, "V"],
    *,
    ids: int,
    occurrences: int,
) -> tuple[IdFeature, ...]:
    """A feature for each word that more than `ids` ids spell, alike but for case and white space.

    Together they must occur more than `occurrences` times in 10M tokens; in a corpus of another
    size as often in proportion.
    """
    groups: dict[str, list[int]] = {}
    for key, word in enumerate(vocabulary.words):
        # White space and parts of characters are one text of many meanings.
        if word and "\N{REPLACEMENT CHARACTER}" not in word:
            groups.setdefault(word, []).append(key)
    least = occurrences * int(counts_V.sum()) / TOKENS_OF_PAPER
    return tuple(
        IdFeature(f"{word}_unigram", "unigram", f"spelt {word}, in any case", by_ids(group))
        for word, group in groups.items()
        if len(group) > ids and int(counts_V[group].sum()) > least
    )


def small_norm(norm_V: Float[np.ndarray, "V"], threshold: float) -> IdFeature:
    """Tokens with a short embedding, most of them hardly ever seen in training."""
    return IdFeature(
        "small_norm",
        "embedding",
        f"embedding shorter than {threshold}",
        by_ids(np.flatnonzero(norm_V < threshold).tolist()),
    )


def occurrence_roles(rows: TokenRows) -> Int64[np.ndarray, "T"]:
    """Index into ROLES of every token, from the letters on either side of its text.

    A token is the middle of a word when its first character is a letter (no space before) and the
    token before ends in one; it is a beginning when the word goes on in the next token.
    """
    texts = rows.vocabulary.texts
    opens_V = np.array([_letter(text) for text in texts])
    closes_V = np.array([text[-1:].isalpha() for text in texts])
    letters_V = np.array([_letter(text.lstrip()) for text in texts])
    opens_BP, closes_BP = opens_V[rows.tokens_BP], closes_V[rows.tokens_BP]
    joined_BP = np.zeros(opens_BP.shape, bool)
    joined_BP[:, 1:] = opens_BP[:, 1:] & closes_BP[:, :-1]
    goes_on_BP = np.zeros(opens_BP.shape, bool)
    goes_on_BP[:, :-1] = joined_BP[:, 1:]
    roles_BP = np.where(joined_BP, 2, np.where(goes_on_BP, 1, 0))
    return np.where(letters_V[rows.tokens_BP], roles_BP, 3).ravel()


def _has_role(rows: TokenRows, role: int) -> Bool[np.ndarray, "T"]:
    has_T: np.ndarray = rows.once(occurrence_roles) == role
    return has_T


ROLE = tuple(
    RowFeature(f"as_{role}", "occurrence", description, partial(_has_role, role=index))
    for index, (role, description) in enumerate(
        zip(
            ROLES,
            ("a whole word", "the beginning of a word", "a later part of a word", "no word"),
            strict=True,
        )
    )
)
