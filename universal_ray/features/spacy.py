"""Syntax by any installed pipeline of spaCy; the extra `syntax` installs spaCy itself.

Shapes: W words, F labels of a word.
"""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool

from universal_ray.errors import ConfigurationError
from universal_ray.features.align import AlignedText
from universal_ray.features.labels import FLAGS, MORPHOLOGY, POS, Words

PASSAGES_AT_ONCE = 64
ATTRIBUTES = ["IDX", "LENGTH", "IS_STOP", "POS", "DEP", "ENT_TYPE", "MORPH"]
COMPONENTS = {"dep": "parser", "ent": "ner"}
SENTENCES = ("parser", "senter", "sentencizer")
"""Components any of which finds sentences."""


def check_installed(name: str) -> None:
    """Raise ConfigurationError, without loading it, where a pipeline is not there, with the command
    to install it.
    """
    if find_spec("spacy") is None:
        raise ConfigurationError(
            f"taxonomy.syntax is {name}, but spaCy is not installed: "
            "run `pip install 'universal_ray[syntax]'`, or use taxonomy.syntax=rules"
        )
    from spacy.util import is_package

    if not (is_package(name) or Path(name).exists()):
        raise _no_pipeline(name)


def load(name: str) -> "SpacyPipeline":
    """The installed pipeline `name`. Raises ConfigurationError as `check_installed`."""
    check_installed(name)
    import spacy

    try:
        return SpacyPipeline(spacy.load(name, exclude=["lemmatizer"]))
    except OSError as error:
        raise _no_pipeline(name) from error


def _no_pipeline(name: str) -> ConfigurationError:
    return ConfigurationError(
        f"taxonomy.syntax is {name}, but spaCy has no such pipeline here: "
        f"run `python -m spacy download {name}`, or use taxonomy.syntax=rules"
    )


class SpacyPipeline:
    """Labels as the pipeline's own components give them, its own sets of dependencies and entities.

    Parts of speech and dependencies of the same name (AUX, aux) are told apart by their prefix.
    """

    def __init__(self, language: Any) -> None:
        if not any(language.has_pipe(name) for name in SENTENCES):
            language.add_pipe("sentencizer")
        known = language.pipe_labels
        names = {kind: sorted({*known.get(pipe, ())} - {""}) for kind, pipe in COMPONENTS.items()}
        self._language = language
        self.labels = {
            **{f"pos_{key}": meaning for key, meaning in POS.items()},
            **{f"dep_{key}": f"dependency {key}" for key in names["dep"]},
            **{f"morph_{key}": meaning for key, meaning in MORPHOLOGY.items()},
            **{f"ent_{key}": f"in an entity {key}" for key in names["ent"]},
            **FLAGS,
        }

    def __call__(self, text: AlignedText) -> Words:
        texts = (text.text[start:stop] for start, stop in text.passages)
        arrays = [np.empty((0, len(ATTRIBUTES)), np.uint64)]
        begins: list[int] = []
        ends: list[int] = []
        words = 0
        documents = self._language.pipe(texts, batch_size=PASSAGES_AT_ONCE)
        for (start, _), document in zip(text.passages, documents, strict=True):
            arrays.append(document.to_array(ATTRIBUTES))
            arrays[-1][:, 0] += np.uint64(start)
            for sentence in document.sents:  # from its first to its last word, white space aside
                inside = [words + word.i for word in sentence if not word.is_space]
                begins += inside[:1]
                ends += inside[-1:]
            words += len(document)
        start_W, length_W, *values = np.concatenate(arrays).T
        sentence = {"sent_begin": _marked(begins, words), "sent_end": _marked(ends, words)}
        columns = {"is_stop": values[0] > 0, **sentence, **self._named(values[1:])}
        missing_W = np.zeros(words, bool)
        return Words(
            start_W=start_W.astype(np.int64),
            stop_W=(start_W + length_W).astype(np.int64),
            labels_WF=np.stack([columns.get(name, missing_W) for name in self.labels], axis=1),
            begins_W=sentence["sent_begin"],
        )

    def _named(self, values: list[np.ndarray]) -> dict[str, Bool[np.ndarray, "W"]]:
        """One column for each value that occurs, morphology one for each of its parts."""
        strings = self._language.vocab.strings
        columns: dict[str, np.ndarray] = {}
        for kind, value_W in zip(("pos", "dep", "ent", "morph"), values, strict=True):
            for value in np.unique(value_W):
                found_W = value_W == value
                for part in strings[int(value)].split("|"):
                    name = f"{kind}_{part}"
                    columns[name] = columns.get(name, False) | found_W
        return columns


def _marked(places: list[int], length: int) -> Bool[np.ndarray, "W"]:
    marks_W = np.zeros(length, bool)
    marks_W[places] = True
    return marks_W
