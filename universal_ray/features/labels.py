"""Names of the syntactic labels, and what a pipeline says of words."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int64

POS = {
    "ADJ": "adjective",
    "ADP": "adposition",
    "ADV": "adverb",
    "AUX": "auxiliary verb",
    "CCONJ": "coordinating conjunction",
    "DET": "determiner",
    "INTJ": "interjection",
    "NOUN": "noun",
    "NUM": "number",
    "PART": "particle",
    "PRON": "pronoun",
    "PROPN": "proper noun",
    "PUNCT": "punctuation",
    "SCONJ": "subordinating conjunction",
    "SPACE": "white space other than a single space between words",
    "SYM": "symbol",
    "VERB": "verb",
    "X": "word of no other kind",
}
MORPHOLOGY = {
    "Number=Sing": "singular",
    "Number=Plur": "plural",
    "Person=1": "first person",
    "Person=2": "second person",
    "Person=3": "third person",
    "PronType=Prs": "personal pronoun",
    "PronType=Art": "article",
    "PronType=Dem": "demonstrative",
    "PronType=Rel": "relative pronoun",
    "Tense=Past": "past tense",
    "Tense=Pres": "present tense",
    "VerbForm=Fin": "finite verb",
    "VerbForm=Part": "participle",
    "VerbForm=Inf": "infinitive",
    "Aspect=Perf": "perfect participle",
    "Aspect=Prog": "progressive participle",
}
FLAGS = {
    "is_stop": "word of no content",
    "sent_begin": "first word of a sentence",
    "sent_end": "last word of a sentence",
}


@dataclass(frozen=True, kw_only=True)
class Words:
    """The words of a text, in order and apart, and what a pipeline says of each."""

    start_W: Int64[np.ndarray, "W"]
    stop_W: Int64[np.ndarray, "W"]
    labels_WF: Bool[np.ndarray, "W F"]
    begins_W: Bool[np.ndarray, "W"]
    """Which words are the first of a sentence."""
