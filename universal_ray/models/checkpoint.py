"""The weights of a model: which files they are, what these hold, and a model made of them.

A file is hashed while it is read, so that what was checked is what is loaded. Knows the formats and
transformers' classes, no hub and no transformer_lens.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import re
import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BufferedIOBase, BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import torch

from universal_ray.errors import ModelError, UniversalRayError, words
from universal_ray.models.configuration import CONFIGURATION, POINTER, check_regular, read_json
from universal_ray.storage.hub import sha256_of

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

# Names that transformers knows weights by, in its order: one file, or the index of many.
WHOLE = ("model.safetensors", "pytorch_model.bin")
INDEXES = tuple(f"{name}.index.json" for name in WHOLE)
LARGEST_HEADER = 100_000_000  # the format's own limit

DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8,
    "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
# What older versions stored of masks, positions and rotations, which are computed today.
BUFFERS = re.compile(
    r"(^|\.)(attn|self_attn|attention)\.(attention\.)?(masked_)?bias$|rotary_emb\.inv_freq$"
    r"|position_ids$|embed_positions\.weights$|decoder\.version$"
)

State = dict[str, torch.Tensor]


def identity_of(configuration: str, weights: Mapping[str, str]) -> str:
    """A model's identity, 64 hex digits, from the sha256 of its configuration and, by name, of its
    weight files: the same content has the same one, wherever it lies.
    """
    total = hashlib.sha256()
    for name, digest in ((CONFIGURATION, configuration), *sorted(weights.items())):
        total.update(f"{name} {digest}\n".encode())
    return total.hexdigest()


def choose(name: str, directory: Path, names: Iterable[str]) -> tuple[str, ...]:
    """The weight files that transformers would load, of all `names` in a directory: the single one,
    or those that the index names; what lies beside them, as of adapters and optimizers, is no part
    of the model.

    Raises ModelError where there are none, or an index names one that is absent.
    """
    every = set(names)
    for whole, index in zip(WHOLE, INDEXES, strict=True):
        if whole in every:
            return (whole,)
        if index in every:
            loaded = _indexed(name, directory / index)
            absent = [each for each in loaded if each not in every]
            if absent:
                raise ModelError(
                    f"Model {name!r} lacks {absent[0]}, which its {index} names: complete "
                    f"{directory}."
                )
            return loaded
    raise ModelError(
        f"Model {name!r} holds no weights in {directory}: it needs model.safetensors or "
        "pytorch_model.bin, or the index of their parts, beside its config.json."
    )


def _indexed(name: str, path: Path) -> tuple[str, ...]:
    """The files that an index names, which lie beside it."""
    parts = read_json(name, path)[0].get("weight_map")
    files = list(parts.values()) if isinstance(parts, dict) else []
    if not files or not all(isinstance(each, str) and Path(each).name == each for each in files):
        raise ModelError(
            f"Model {name!r} has an index of weights that names no files beside it: restore {path}."
        )
    return tuple(sorted(set(files)))


def read_weights(name: str, path: Path, expected: str | None = None) -> State:
    """Every tensor of a weight file, in memory of its own; without `expected`, its sha256, on the
    device `meta`: names, shapes and dtypes alone.

    Raises ModelError for a file that is damaged, or not the one that was expected.
    """
    check_regular(name, path)
    with path.open("rb") as file:
        try:
            state, found = _read(file, path.suffix, expected is not None)
        except Exception as why:
            if short_of_memory(why):
                raise
            if expected is not None and (other := sha256_of(path)) != expected:
                raise ModelError(changed(name, path, other, expected)) from why
            raise ModelError(
                f"Model {name!r} has weights that cannot be read in {path} ({words(why)}): save "
                f"them again, or delete {path.resolve()} where the hub has it."
            ) from why
    if expected is not None and found != expected:
        raise ModelError(changed(name, path, found, expected))
    return state


def read_shapes(name: str, file: BufferedIOBase, called: str) -> State | None:
    """Names, shapes and dtypes of the tensors of a weight file of the hub, on the device `meta`, of
    which little is read; None of a pickle from before these had a place of their own.

    Raises ModelError for a file that cannot be read, and what reading raises.
    """
    if file.read(2) != b"PK" and not called.endswith(".safetensors"):
        return None
    try:
        return _read(file, Path(called).suffix, False)[0]
    except UniversalRayError:
        raise
    except Exception as why:
        raise ModelError(
            f"Model {name!r} has weights that cannot be read in {called} on the hub "
            f"({words(why)}): choose another revision."
        ) from why


def _read(file: BufferedIOBase, suffix: str, values: bool) -> tuple[State, str]:
    """Tensors of a file by its format, and its sha256 where their values are read."""
    file.seek(0)
    if file.read(len(POINTER)) == POINTER:
        raise ValueError("it is a pointer to weights and not the weights: fetch them by git lfs "
                         "pull")  # fmt: skip
    file.seek(0)
    return (_safetensors if suffix == ".safetensors" else _pickled)(file, values)


def changed(name: str, path: Path, found: str, expected: str) -> str:
    """What to say where a file is not the one that a study was planned with."""
    # In the hub's cache it is a link, without which the same file would be linked again.
    return (
        f"Model {name!r} has a {path.name} whose sha256 is {found[:12]}… where it should be "
        f"{expected[:12]}…: {path.resolve()} was damaged, or replaced since the study was planned, "
        "so put the right one back (or delete it, if the hub has it) and run the same command "
        "again."
    )


def _safetensors(file: BufferedIOBase, values: bool) -> tuple[State, str]:
    """Tensors in the order of their bytes, which the format wants without a gap."""
    size = file.seek(0, 2)
    file.seek(0)
    first = file.read(8)
    length = int.from_bytes(first, "little")
    if len(first) < 8 or length > min(LARGEST_HEADER, size - 8):
        raise ValueError("it ends before its header does")
    header = file.read(length)
    entries = json.loads(header)
    entries.pop("__metadata__", None)
    total = hashlib.sha256(first + header)
    state: State = {}
    place = 0
    for key, entry in sorted(entries.items(), key=lambda each: each[1]["data_offsets"]):
        begin, end = entry["data_offsets"]
        shape, dtype = entry["shape"], DTYPES[entry["dtype"]]
        if any(type(each) is not int or each < 0 for each in shape):
            raise ValueError(f"{key} has a shape that is none")
        if begin != place or end - begin != math.prod(shape) * dtype.itemsize:
            raise ValueError(f"{key} has more or fewer bytes than its shape takes")
        place = end
        if 8 + length + end > size:
            raise ValueError(f"it ends within {key}")
        if not values:
            state[key] = torch.empty(shape, dtype=dtype, device="meta")
            continue
        bytes_B = torch.empty(end - begin, dtype=torch.uint8)
        view = bytes_B.numpy().data
        if file.readinto(view) != end - begin:  # type: ignore[attr-defined]
            raise ValueError(f"it ends within {key}")
        total.update(view)
        state[key] = bytes_B.view(dtype).view(shape)
    if 8 + length + place != size:
        raise ValueError("it goes on after its last tensor")
    return state, total.hexdigest()


def _pickled(file: BufferedIOBase, values: bool) -> tuple[State, str]:
    """By torch, which runs no code that is in the file."""
    digest = ""
    if values:
        content = file.read()
        digest = hashlib.sha256(content).hexdigest()
        file = BytesIO(content)
    state = torch.load(
        cast(BinaryIO, file), map_location="cpu" if values else "meta", weights_only=True
    )
    if not isinstance(state, dict) or not all(
        isinstance(key, str) and isinstance(value, torch.Tensor) for key, value in state.items()
    ):
        raise ValueError("it holds something else than named tensors")
    return state, digest


def _join(name: str, parts: Sequence[tuple[Path, State]]) -> State:
    """The tensors of all parts. Raises ModelError where two hold the same, or one no numbers."""
    joined: State = {}
    for path, part in parts:
        for key in joined.keys() & part.keys():
            raise ModelError(f"Model {name!r} holds {key} in {path} and in another part: save it "
                             "again.")  # fmt: skip
        for key, tensor in part.items():
            if not tensor.is_floating_point() and not BUFFERS.search(key):
                raise ModelError(
                    f"Model {name!r} has {key} of {str(tensor.dtype).removeprefix('torch.')} in "
                    f"{path}, where weights are floating-point numbers: choose the model before "
                    "it was quantised."
                )
        joined |= part
    return joined


@contextmanager
def quietly() -> Iterator[None]:
    """Without the bars and reports of transformers: what they say is looked at here."""
    from huggingface_hub.utils import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )
    from transformers.utils import logging as messages

    bars, level = messages.is_progress_bar_enabled(), messages.get_verbosity()
    of_hub = not are_progress_bars_disabled()
    messages.disable_progress_bar()
    messages.set_verbosity(logging.CRITICAL)
    try:
        yield
    finally:
        messages.set_verbosity(level)
        with warnings.catch_warnings():  # the environment may have the hub's off for good
            warnings.simplefilter("ignore")
            if bars:
                messages.enable_progress_bar()  # and the hub's with them
            (enable_progress_bars if of_hub else disable_progress_bars)()


def build(
    name: str,
    config: PreTrainedConfig,
    architecture: str,
    parts: Sequence[tuple[Path, State]],
    **options: Any,
) -> PreTrainedModel:
    """A model of exactly the weights in these files; `options` go to transformers' from_pretrained.

    Raises ModelError naming the keys that are missing, left over in the model's own modules, or of
    another shape: transformers makes up what is missing. Tied weights may be stored once, and what
    the architecture computes, such as masks, not at all; heads of other tasks may lie beside.
    """
    import transformers

    state = _join(name, parts)
    place = parts[0][0] if len(parts) == 1 else parts[0][0].parent
    kind = getattr(transformers, architecture, None)
    if kind is None:
        raise ModelError(
            f"Model {name!r} is a {architecture}, which needs code of its own repository, and that "
            "is never run: choose an architecture that transformers knows by itself."
        )
    try:
        with quietly():
            model, info = kind.from_pretrained(
                None, config=config, state_dict=state, output_loading_info=True,
                ignore_mismatched_sizes=True, trust_remote_code=False, **options,
            )  # fmt: skip
    except Exception as error:
        if short_of_memory(error):
            raise
        raise ModelError(
            f"Model {name!r} cannot be made of its config.json and its weights in {place} "
            f"({words(error)}): check that they belong together."
        ) from error
    own = {child for module in (model, model.base_model) for child, _ in module.named_children()}
    left_over = [
        key for key in info["unexpected_keys"]
        if key.partition(".")[0] in own and not BUFFERS.search(key)
    ]  # fmt: skip
    misshapen = [
        f"{key} {list(found)} instead of {list(wanted)}"
        for key, found, wanted in info["mismatched_keys"]
    ]
    faults = [
        f"{fault} {_some(keys)}"
        for fault, keys in (
            ("lack", info["missing_keys"]),
            ("have the wrong shape in", misshapen),
            ("have what a model of its config.json does not:", left_over),
        )
        if keys
    ]
    if faults:
        raise ModelError(
            f"The weights of model {name!r} in {place} {' and '.join(faults)}: save the whole "
            "model again, or choose one whose config.json is its own."
        )
    return model


def short_of_memory(error: Exception) -> bool:
    """Whether the machine or a GPU had none left, which is no fault of a file."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        "allocate memory" in str(error)
    )


def _some(keys: Collection[str]) -> str:
    """The first of some keys, and how many more."""
    first, *others = sorted(keys)
    return f"{first} and {len(others)} more" if others else first
