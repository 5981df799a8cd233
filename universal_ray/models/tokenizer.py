"""Tokenizers: the one of a model, the one that all models of a study share."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from universal_ray.errors import ModelError, words
from universal_ray.models.checkpoint import quietly
from universal_ray.models.configuration import CONFIGURATION, check_regular, is_pointer
from universal_ray.models.hub import TOKENIZER, directory_of, locate
from universal_ray.models.source import ModelSource

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SETTINGS = "tokenizer_config.json"
LARGEST = 2**30


def tokenizer(name: str | ModelSource) -> PreTrainedTokenizerBase:
    """The tokenizer of a model, or of any directory or hub id that holds tokenizer files.

    Raises MissingError where there is no such directory or hub repository, ModelError where it
    holds no tokenizer that encodes text (transformers then makes up an empty one, silently).
    """
    if isinstance(name, ModelSource):
        shown, location, revision = name.name, name.location, name.commit
    else:
        shown, (location, revision) = name, locate(name, "tokenizer")
    directory = directory_of(shown, location, revision, TOKENIZER)
    files = sorted({path for pattern in TOKENIZER for path in directory.glob(pattern)})
    for path in files:
        check_regular(shown, path, LARGEST)
    from transformers import AutoTokenizer

    try:
        with quietly():
            found = AutoTokenizer.from_pretrained(str(directory), trust_remote_code=False)
        ids = found.encode("neuron", add_special_tokens=False)
    except Exception as error:  # every class fails in its own way
        if any(_asks_for_code(directory / name) for name in (SETTINGS, CONFIGURATION)):
            raise ModelError(
                f"The tokenizer of {shown!r} asks for code of its own repository, which is never "
                "run: name one that transformers knows by itself with models.tokenizer."
            ) from error
        pointers = [path.name for path in files if is_pointer(path)]
        why = f"{pointers[0]} is a pointer of git lfs" if pointers else words(error)
        raise _unusable(shown, f" ({why})") from error
    if len(found) <= 1 or set(ids) <= {found.unk_token_id}:
        raise _unusable(shown)
    return found


def _unusable(name: str, why: str = "") -> ModelError:
    return ModelError(
        f"{name!r} has no usable tokenizer{why}: put its tokenizer files beside the model, or name "
        "one tokenizer of all models with models.tokenizer."
    )


def _asks_for_code(path: Path) -> bool:
    """Whether a configuration leads to a tokenizer's class in a repository."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    places = found.get("auto_map") if isinstance(found, dict) else None
    return isinstance(places, dict | list) and "AutoTokenizer" in places


def ids_of(tokenizer: PreTrainedTokenizerBase) -> int:
    """How many ids a tokenizer has, V: a model may embed more, as padding, which stand for nothing.
    """
    return max(tokenizer.get_vocab().values()) + 1


def find_tokenizers(
    sources: Sequence[ModelSource], named: str | None = None
) -> list[PreTrainedTokenizerBase]:
    """The tokenizer of each model: the one named, else its own; those alike are one.

    Raises ModelError where a model lacks a tokenizer and none is named, or where the tokenizer has
    ids beyond a model's vocabulary.
    """
    found: list[PreTrainedTokenizerBase] = []
    alike: dict[str, PreTrainedTokenizerBase] = {}
    for source in sources:
        if named is None or not found:
            mine = tokenizer(source if named is None else named)
            mine = alike.setdefault(tokenizer_identity(mine), mine)
        found.append(mine)
        ids = ids_of(mine)
        if ids > source.vocabulary:
            raise ModelError(
                f"The tokenizer of {named or source.name!r} has ids up to {ids - 1}, but model "
                f"{source.name!r} embeds only {source.vocabulary}: name a tokenizer that fits."
            )
    return found


def check_tokenizers(
    sources: Sequence[ModelSource], named: str | None = None
) -> PreTrainedTokenizerBase:
    """The one tokenizer of all models: the one named, else the one they share.

    Raises ModelError as `find_tokenizers` does, and where two differ.
    """
    shared, *others = find_tokenizers(sources, named)
    for source, other in zip(sources[1:], others, strict=True):
        if other is not shared:
            raise ModelError(
                f"Models {sources[0].name!r} and {source.name!r} have different tokenizers: "
                "compare models that share one, name it with models.tokenizer, or let "
                "corpus.align be auto."
            )
    return shared


def tokenizer_identity(tokenizer: PreTrainedTokenizerBase) -> str:
    """64 hex digits over the tokenizer's vocabulary: every token string with its id."""
    vocabulary = sorted(tokenizer.get_vocab().items())
    return hashlib.sha256(json.dumps(vocabulary).encode()).hexdigest()
