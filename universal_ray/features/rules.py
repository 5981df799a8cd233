"""Syntax by rules: what closed classes of words, suffixes and neighbours tell about English.

No tagger and nothing to install: words are split, each spelling is looked up once, and rules run
over all words together. Nouns and adjectives are told by their suffix alone.

Shapes: W words, those of white space among them; D the others; F labels of a word.
"""

import re
import unicodedata
from collections.abc import Callable, Iterable
from functools import cached_property
from pathlib import Path

import numpy as np
import yaml
from jaxtyping import Bool, Int64

from universal_ray.features.align import SEPARATOR, AlignedText
from universal_ray.features.labels import FLAGS, MORPHOLOGY, POS, Words

LEXICON = Path(__file__).parent / "rules.yaml"
CURLY = "\N{RIGHT SINGLE QUOTATION MARK}"
WORD = re.compile(
    rf"""
    [^\W\d_]+(?=n['{CURLY}]t\b)                     # do|n't
  | n['{CURLY}]t\b
  | (?<=\w)['{CURLY}](?:s|re|ve|ll|d|m)\b           # it|'s
  | [^\W\d]\w*                                # words and identifiers
  | \d+(?:[.,]\d+)*\w*                        # 3.5, 1,000, 2nd
  | [^\S ]\s* | [ ]\s+                        # white space other than one space
  | [^\w\s{SEPARATOR}]
    """,
    re.VERBOSE,
)
ENDS = frozenset(".!?…")
CLOSERS = frozenset(f"\"'”{CURLY})]}}*")
SYMBOLS = frozenset("$%&@#*/\\_")
"""Signs that Unicode counts as punctuation and grammar as symbols."""
NOUN = ("tion", "sion", "ment", "ness", "ity", "ism", "ship", "hood", "ance", "ence", "logy")
ADJECTIVE = ("ous", "ful", "able", "ible", "ive", "less", "ish", "ical", "ary")
INFINITIVE = ("ize", "ise", "ify", "ate")
THIRD_SUBJECTS = frozenset(("he", "she", "it", "who", "which", "that"))

LABELS = {
    **{f"pos_{key}": f"{meaning}, by rule" for key, meaning in POS.items() if key != "X"},
    **{f"morph_{key}": f"{meaning}, by rule" for key, meaning in MORPHOLOGY.items()},
    "dep_neg": "negation, by rule",
    "dep_aux": "auxiliary of a verb, by rule",
    "dep_auxpass": "auxiliary of the passive, by rule",
    "dep_poss": "possessive, by rule",
    "dep_case": "mark of a possessive, by rule",
    **{key: f"{meaning}, by rule" for key, meaning in FLAGS.items()},
}


class Lexicon:
    """The words known by heart: each closed-class word has one class, lists may overlap."""

    def __init__(self) -> None:
        lists = yaml.safe_load(LEXICON.read_text(encoding="utf-8"))
        self.classes = {
            word: name for name, words in lists.pop("classes").items() for word in words.split()
        }
        self.lists = {name: frozenset(words.split()) for name, words in lists.items()}


class Rules:
    """The pipeline named `rules`."""

    labels = LABELS

    def __init__(self) -> None:
        self._lexicon = Lexicon()

    def __call__(self, text: AlignedText) -> Words:
        spans = [match.span() for match in WORD.finditer(text.text)]
        start_W, stop_W = np.array(spans, dtype=np.int64).reshape(-1, 2).T.copy()
        spelt = [text.text[start:stop] for start, stop in spans]
        space_W = np.fromiter(map(str.isspace, spelt), bool, len(spelt))
        blank_W = space_W & np.fromiter((w.count("\n") > 1 for w in spelt), bool, len(spelt))
        passage_W = np.searchsorted([stop for _, stop in text.passages], start_W, side="right")

        dark_D = np.flatnonzero(~space_W)
        blanks_D = blank_W.cumsum()[dark_D]
        labels = _labels(
            _Sentences(
                self._lexicon,
                [spelt[index] for index in dark_D.tolist()],
                apart_D=start_W[dark_D] > np.append(-1, stop_W[dark_D][:-1]),
                breaks_D=_changes(passage_W[dark_D]) | _changes(blanks_D),
            )
        )
        labels_WF = np.zeros((len(spelt), len(LABELS)), bool)
        labels_WF[space_W, list(LABELS).index("pos_SPACE")] = True
        for column, name in enumerate(LABELS):
            if name in labels:
                labels_WF[dark_D, column] = labels[name]
        begins_W = labels_WF[:, list(LABELS).index("sent_begin")]
        return Words(start_W=start_W, stop_W=stop_W, labels_WF=labels_WF, begins_W=begins_W)


class _Sentences:
    """All words of a text in arrays, cut into sentences: what the rules ask about a word."""

    def __init__(
        self,
        lexicon: Lexicon,
        words: list[str],
        *,
        apart_D: Bool[np.ndarray, "D"],
        breaks_D: Bool[np.ndarray, "D"],
    ) -> None:
        """`apart_D`: white space or a new text comes before; `breaks_D`: a sentence must begin."""
        self._lexicon = lexicon
        spellings: dict[str, int] = {}
        number = [spellings.setdefault(word, len(spellings)) for word in words]
        self._number_D = np.array(number, dtype=np.int64)
        self._spellings = tuple(spellings)
        self._place_D = np.arange(len(words))
        self.begins_D = self._begins(apart_D, breaks_D)
        self.ends_D = np.append(self.begins_D[1:], True)[: len(words)]
        self._sentence_D = self.begins_D.cumsum()

    def test(self, test: Callable[[str], bool]) -> Bool[np.ndarray, "D"]:
        """A test of the word as it is spelt, made once per spelling."""
        spellings = self._spellings
        return np.fromiter(map(test, spellings), bool, len(spellings))[self._number_D]

    def is_a(self, *names: str) -> Bool[np.ndarray, "D"]:
        """Words of one of these closed classes."""
        classes = self._lexicon.classes
        return self.test(lambda word: classes.get(word.lower()) in names)

    def listed(self, *names: str) -> Bool[np.ndarray, "D"]:
        """Words that stand in one of these lists."""
        lists = [self._lexicon.lists[name] for name in names]
        return self.test(lambda word: any(word.lower() in each for each in lists))

    def after(
        self, wanted_D: Bool[np.ndarray, "D"], over_D: Bool[np.ndarray, "D"] | None = None
    ) -> Bool[np.ndarray, "D"]:
        """Words whose nearest word before in the sentence, `over_D` skipped, is a wanted one."""
        near_D = self._place_D if over_D is None else np.where(over_D, -1, self._place_D)
        return self._wanted(wanted_D, np.append(-1, np.maximum.accumulate(near_D))[:-1])

    def before(
        self, wanted_D: Bool[np.ndarray, "D"], over_D: Bool[np.ndarray, "D"] | None = None
    ) -> Bool[np.ndarray, "D"]:
        """The same for the nearest word behind."""
        end = len(self._place_D)
        near_D = self._place_D if over_D is None else np.where(over_D, end, self._place_D)
        near_D = np.append(np.minimum.accumulate(near_D[::-1])[::-1], end)[1:]
        return self._wanted(wanted_D, np.where(near_D == end, -1, near_D))

    @cached_property
    def open_D(self) -> Bool[np.ndarray, "D"]:
        """Words of letters that belong to no closed class."""
        classes = self._lexicon.classes
        return self.test(lambda word: word.isalpha() and word.lower() not in classes)

    def _wanted(
        self, wanted_D: Bool[np.ndarray, "D"], near_D: Int64[np.ndarray, "D"]
    ) -> Bool[np.ndarray, "D"]:
        together_D = self._sentence_D[near_D] == self._sentence_D
        wanted_near_D: np.ndarray = (near_D >= 0) & wanted_D[near_D] & together_D
        return wanted_near_D

    def _begins(
        self, apart_D: Bool[np.ndarray, "D"], breaks_D: Bool[np.ndarray, "D"]
    ) -> Bool[np.ndarray, "D"]:
        """A sentence begins where it must, and after its end and a space, not in lower case.

        The full stop of an abbreviation or an initial is no end; quotation marks and brackets that
        follow an end at once belong to it.
        """
        if not len(self._place_D):
            return breaks_D
        short_D = self.listed("abbreviations") | self.test(lambda w: len(w) == 1 and w.isalpha())
        abbreviated_D = self.test(lambda word: word == ".") & np.append(False, short_D[:-1])
        end_D = self.test(ENDS.__contains__) & ~(abbreviated_D & ~apart_D)
        closer_D = self.test(CLOSERS.__contains__) & ~apart_D
        last_D = np.maximum.accumulate(np.where(closer_D, 0, self._place_D))
        ended_D = np.append(False, end_D[last_D][:-1])
        upper_D = self.test(lambda word: not word[0].islower())
        begins_D: np.ndarray = breaks_D | (ended_D & apart_D & upper_D)
        return begins_D


def _labels(words: _Sentences) -> dict[str, Bool[np.ndarray, "D"]]:
    """Every label but that of white space."""
    is_a, listed, after, before = words.is_a, words.listed, words.after, words.before
    lower_D = words.test(str.islower) & words.open_D

    def ends(suffixes: str | tuple[str, ...], length: int) -> Bool[np.ndarray, "D"]:
        ends_D = words.test(lambda word: len(word) >= length and word.endswith(suffixes))
        found_D: np.ndarray = lower_D & ends_D
        return found_D

    # Words of closed classes, by their neighbours where one spelling is of several kinds.
    ly_D = ends("ly", 5) & ~listed("not_adverb")
    # In questions the subject stands between an auxiliary and its verb.
    between_D = words.test(lambda word: word.lower() in ("you", "it"))
    skip_D = is_a("adverb", "not", "never", "subject") | ly_D | between_D
    noun_marks_D = is_a("article", "determiner", "possessive", "demonstrative")
    s_D = is_a("s")
    s_verb_D = s_D & after(is_a("subject") | words.test(lambda w: w.lower() in SHORTENED))
    that_D = words.test(lambda word: word.lower() == "that")
    that_joins_D = that_D & before(noun_marks_D | is_a("subject", "pronoun"))
    be_D, have_D, do_D = is_a("be") | s_verb_D, is_a("have"), is_a("do")
    modal_D = is_a("modal", "d")

    # Forms of verbs.
    ing_D = ends("ing", 5) & ~listed("not_ing")
    ed_D = ends("ed", 4) & ~listed("not_past")
    past_form_D = ed_D | (listed("irregular_past") & lower_D)
    part_form_D = ed_D | listed("irregular_participle")
    base_D = listed("verbs") & words.test(str.islower) | ends(INFINITIVE, 6)
    finite_do_D = do_D & words.test(lambda word: word.lower() in ("do", "does", "did"))
    infinitive_D = after(modal_D, skip_D) & (base_D | (lower_D & ~ing_D & ~ed_D & ~ly_D))
    infinitive_D |= (after(is_a("to"), skip_D) | after(finite_do_D, skip_D)) & base_D
    after_have_D, after_be_D = after(have_D, skip_D), after(be_D, skip_D)
    perfect_D = after_have_D & part_form_D
    passive_D = after_be_D & part_form_D & ~perfect_D & ~be_D
    attribute_D = ed_D & after(noun_marks_D)
    participle_D = perfect_D | passive_D | attribute_D
    progressive_D = ing_D & ~after(noun_marks_D)
    # `return` is a base form, `returned` none: a form that may be both is past only by a subject.
    past_D = past_form_D & ~participle_D & ~infinitive_D & ~(base_D & ~after(is_a("subject")))
    past_D &= ~after(noun_marks_D | is_a("adposition"))
    third_D = ends("s", 4) & ~ends("ss", 4) & ~listed("not_plural")
    third_D &= after(words.test(THIRD_SUBJECTS.__contains__), is_a("adverb", "never") | ly_D)
    you_D = words.test(lambda word: word.lower() == "you")
    present_D = base_D & after(is_a("subject") | you_D, is_a("adverb", "never") | ly_D)
    present_D &= ~infinitive_D
    s_noun_D = words.open_D & words.test(_plural_form) & ~listed("not_plural") & ~third_D
    plural_D = s_noun_D | listed("irregular_plural")

    # Auxiliaries need their verb; `be` is always one, as in spaCy's labels.
    negated_D = before(is_a("not"))
    have_aux_D = have_D & before(part_form_D, skip_D)
    do_aux_D = finite_do_D & (before(base_D, skip_D) | negated_D)
    auxiliary_D = modal_D | be_D | have_aux_D | do_aux_D
    to_D = is_a("to")
    to_particle_D = to_D & before(infinitive_D, skip_D)
    case_D = s_D & ~s_verb_D
    verb_D = infinitive_D | perfect_D | passive_D | progressive_D | past_D | third_D | present_D
    verb_D |= have_D | do_D
    relative_D = listed("relative") & ~words.begins_D
    relative_D |= that_D & after(words.open_D) & before(auxiliary_D | verb_D)
    pointing_D = is_a("demonstrative") & ~that_joins_D & ~relative_D
    noun_opens_D = words.open_D | noun_marks_D | is_a("number")
    capital_D = words.open_D & words.test(lambda word: word[0].isupper() and len(word) > 1)
    punctuation_D = words.test(_punctuation)

    choices = {
        "PUNCT": punctuation_D,
        "SYM": ~punctuation_D & words.test(_sign),
        "NUM": is_a("number") | words.test(lambda word: word[0].isdigit()),
        "AUX": auxiliary_D,
        "PART": to_particle_D | is_a("not") | case_D,
        "ADP": is_a("adposition", "to"),
        "DET": is_a("article") | (is_a("determiner") | pointing_D) & before(noun_opens_D),
        "PRON": is_a("subject", "pronoun", "possessive", "determiner") | pointing_D | relative_D,
        "CCONJ": is_a("coordinator"),
        "SCONJ": is_a("subordinator") | that_joins_D,
        "VERB": verb_D,
        "INTJ": is_a("interjection"),
        "ADV": is_a("adverb", "never") | ly_D,
        "PROPN": capital_D & ~words.begins_D,
        "NOUN": plural_D | ends(NOUN, 5),
        "ADJ": ends(ADJECTIVE, 5) | attribute_D,
    }
    kind_D = np.select(list(choices.values()), list(range(len(choices))), -1)
    kinds = {name: kind_D == index for index, name in enumerate(choices)}
    present_auxiliary_D = auxiliary_D & (listed("present_auxiliary") | s_verb_D)
    past_auxiliary_D = auxiliary_D & listed("past_auxiliary") & ~modal_D
    present_auxiliary_D &= ~infinitive_D
    finite_D = past_D | third_D | present_D | present_auxiliary_D | past_auxiliary_D | modal_D
    persons_D = listed("first_person", "second_person", "third_person")
    passive_verb_D = passive_D & (kinds["VERB"] | kinds["ADJ"])
    return {
        **{f"pos_{name}": found_D for name, found_D in kinds.items()},
        "morph_Number=Sing": listed("singular") & ~(that_joins_D | relative_D)
        | third_D
        | s_verb_D
        | kinds["NOUN"] & ~plural_D,
        "morph_Number=Plur": listed("plural") | kinds["NOUN"] & plural_D,
        "morph_Person=1": listed("first_person"),
        "morph_Person=2": listed("second_person"),
        "morph_Person=3": listed("third_person") | third_D | s_verb_D,
        "morph_PronType=Prs": persons_D & kinds["PRON"],
        "morph_PronType=Art": is_a("article"),
        "morph_PronType=Dem": pointing_D,
        "morph_PronType=Rel": relative_D,
        "morph_Tense=Past": past_D | participle_D | past_auxiliary_D,
        "morph_Tense=Pres": third_D | present_D | progressive_D | present_auxiliary_D,
        "morph_VerbForm=Fin": finite_D,
        "morph_VerbForm=Part": participle_D | progressive_D,
        "morph_VerbForm=Inf": infinitive_D,
        "morph_Aspect=Perf": participle_D,
        "morph_Aspect=Prog": progressive_D,
        "dep_neg": is_a("not", "never"),
        "dep_aux": auxiliary_D & ~before(passive_verb_D, skip_D) & before(verb_D, skip_D)
        | to_particle_D,
        "dep_auxpass": be_D & before(passive_verb_D, skip_D),
        "dep_poss": is_a("possessive"),
        "dep_case": case_D,
        "is_stop": _among(kinds, ("AUX", "PART", "ADP", "DET", "PRON", "CCONJ", "SCONJ"))
        | is_a("adverb", "never"),
        "sent_begin": words.begins_D,
        "sent_end": words.ends_D,
    }


SHORTENED = frozenset(["that", "there", "here", "what", "where", "when", "who", "how", "it"])
"""Beside subjects, what `'s` after which is `is`."""


def _plural_form(word: str) -> bool:
    return len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is"))


def _punctuation(word: str) -> bool:
    return len(word) == 1 and unicodedata.category(word)[0] == "P" and word not in SYMBOLS


def _sign(word: str) -> bool:
    return len(word) == 1 and not word.isalnum() and word != "_"


def _changes(numbers_D: Int64[np.ndarray, "D"]) -> Bool[np.ndarray, "D"]:
    """Where a number differs from the one before; the first does."""
    changes_D: np.ndarray = np.diff(numbers_D, prepend=-1) != 0
    return changes_D


def _among(kinds: dict[str, Bool[np.ndarray, "D"]], names: Iterable[str]) -> Bool[np.ndarray, "D"]:
    among_D: np.ndarray = np.logical_or.reduce([kinds[name] for name in names])
    return among_D
