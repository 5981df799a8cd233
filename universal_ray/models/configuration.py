"""A model's configuration, every size of it looked at before anything is made by it.

No code of a repository is ever run: what transformers does not know by itself is refused.
"""

from __future__ import annotations

import hashlib
import json
import math
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from universal_ray.config.wellformed import mistake
from universal_ray.errors import ModelError, words

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

CONFIGURATION = "config.json"
LARGEST_JSON = 2**26
POINTER = b"version https://git-lfs"
SIZES = {
    "num_hidden_layers": 10_000,
    "hidden_size": 2**20,
    "word_embed_proj_dim": 2**20,
    "intermediate_size": 2**24,
    "n_inner": 2**24,
    "ffn_dim": 2**24,
    "ffn_hidden_size": 2**24,
    "num_attention_heads": 2**16,
    "num_key_value_heads": 2**16,
    "num_kv_heads": 2**16,
    "num_experts": 2**16,
    "num_local_experts": 2**16,
    "head_dim": 2**20,
    "rotary_dim": 2**20,
    "vocab_size": 2**28,
    "max_position_embeddings": 2**31,
}
"""Sizes by transformers' common names, with what no model reaches."""
OPTIONAL = {
    "n_inner", "num_key_value_heads", "num_kv_heads", "head_dim", "rotary_dim", "ffn_hidden_size",
}  # fmt: skip
"""Sizes that may be null: they follow from others."""
ACTIVATIONS = ("hidden_act", "activation_function", "hidden_activation")


def check_regular(name: str, path: Path, largest: int | None = None) -> None:
    """Raises ModelError for what is no ordinary file, such as a pipe, which would be waited for,
    or larger than such a file can be.
    """
    try:
        found = path.stat()
    except OSError as error:
        raise ModelError(
            f"Model {name!r} has {path}, which cannot be read ({error.strerror}): restore it."
        ) from error
    if not stat.S_ISREG(found.st_mode):
        raise ModelError(
            f"Model {name!r} has {path}, which is not an ordinary file: put the file itself there."
        )
    if largest is not None and found.st_size > largest:
        raise ModelError(
            f"Model {name!r} has {path} of {found.st_size:,} bytes, more than such a file can "
            "need: restore the one that save_pretrained wrote."
        )


def is_pointer(path: Path) -> bool:
    """Whether a file is what Git LFS leaves in the place of one that was not fetched."""
    with path.open("rb") as file:
        return file.read(len(POINTER)) == POINTER


def read_json(name: str, path: Path) -> tuple[dict[str, Any], str]:
    """The object in a JSON file, and the sha256 of what was read. Raises ModelError."""
    check_regular(name, path, LARGEST_JSON)
    content = path.read_bytes()
    if content.startswith(POINTER):
        raise ModelError(
            f"Model {name!r} has a {path.name} that is a pointer of git lfs and not the file: "
            f"fetch {path} by git lfs pull."
        )
    try:
        found = json.loads(
            content, parse_constant=_refuse, parse_float=_finite, parse_int=_of_64_bits
        )
    except (ValueError, RecursionError) as error:
        raise ModelError(
            f"Model {name!r} has a {path.name} that is not JSON ({words(error)}): restore {path}."
        ) from error
    if not isinstance(found, dict):
        raise ModelError(f"Model {name!r} has a {path.name} that is no object: restore {path}.")
    return found, hashlib.sha256(content).hexdigest()


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is no number")


def _finite(text: str) -> float:
    return float(text) if math.isfinite(float(text)) else _refuse(text)


def _of_64_bits(text: str) -> int:
    if not -(2**63) <= int(text) < 2**63:
        raise ValueError(f"{text[:50]} is beyond 64 bits")
    return int(text)


def configure(name: str, raw: Mapping[str, Any]) -> PreTrainedConfig:
    """The configuration that a config.json holds, every size of it looked at before use.

    Raises ModelError where it is not of a kind that transformers knows by itself: no repository's
    own code is ever run.
    """
    from transformers import CONFIG_MAPPING

    kind = raw.get("model_type")
    if not isinstance(kind, str) or kind not in CONFIG_MAPPING:
        if "auto_map" in raw:
            raise ModelError(
                f"Model {name!r} asks for code of its own repository, which is never run: choose "
                "an architecture that transformers knows by itself."
            )
        raise ModelError(
            f"Model {name!r} has a config.json of model_type {kind!r}, an architecture that "
            "transformers does not know: check it, or choose another model."
        )
    if raw.get("quantization_config") is not None:
        raise ModelError(
            f"Model {name!r} has quantised weights, by quantization_config in its config.json: "
            "choose the model with its own floating-point weights."
        )
    named = raw.get("architectures")
    if named is not None and mistake(named, [str]):
        raise ModelError(
            f"Model {name!r} has architectures = {str(named)[:50]} in its config.json: it must be "
            "a list of names."
        )
    # What could lead transformers elsewhere than to the weights that are given to it.
    left_out = ("original_architecture", "transformers_weights", "fusion_config", "auto_map")
    settings = {key: value for key, value in raw.items() if key not in left_out}
    parts = [settings, *(part for part in settings.values() if isinstance(part, dict))]
    for part in parts:
        _check_sizes(name, part, CONFIG_MAPPING[kind].attribute_map)
    try:
        return CONFIG_MAPPING[kind].from_dict(settings)
    except Exception as error:  # every class checks in its own way
        raise ModelError(
            f"Model {name!r} has a config.json that transformers cannot read "
            f"({words(error)}): check that it is whole."
        ) from error


def _check_sizes(name: str, raw: Mapping[str, Any], aliases: Mapping[str, str]) -> None:
    """Raises ModelError for a size or an activation that no model has."""
    found: dict[str, int] = {}
    for size, largest in SIZES.items():
        for key in {size, aliases.get(size, size)}:
            if key not in raw or (raw[key] is None and size in OPTIONAL):
                continue
            value = raw[key]
            if type(value) is not int or not 1 <= value <= largest:
                raise ModelError(
                    f"Model {name!r} has {key} = {str(value)[:50]} in its config.json: it must be "
                    f"a whole number from 1 to {largest:,}."
                )
            found[size] = value
    for key, value in raw.items():
        if "drop" in key and type(value) in (int, float) and not 0 <= value <= 1:
            raise ModelError(
                f"Model {name!r} has {key} = {value} in its config.json: it must be a share from 0 "
                "to 1."
            )
    heads = found.get("num_attention_heads", 1)
    for size in ("hidden_size", "num_key_value_heads"):
        larger, smaller = sorted((found.get(size, heads), heads), reverse=True)
        if larger % smaller and not (size == "hidden_size" and "head_dim" in found):
            raise ModelError(
                f"Model {name!r} has {size} = {found[size]} and {heads} attention heads in its "
                "config.json: one must be a multiple of the other."
            )
    from transformers.activations import ACT2FN

    for key in {*ACTIVATIONS, *(aliases.get(each, each) for each in ACTIVATIONS)}:
        function = raw.get(key)
        if function is not None and (not isinstance(function, str) or function not in ACT2FN):
            raise ModelError(
                f"Model {name!r} has {key} = {str(function)[:50]!r} in its config.json, an "
                "activation function that transformers does not know: check it."
            )
