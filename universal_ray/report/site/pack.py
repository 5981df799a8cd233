"""Data as classic scripts, the one kind of file that a page opened from a folder may load.

A script hands the page a name and one text of base64, of gzip, of: the length of a JSON text (four
bytes, little endian), that text, and arrays one after the other, each from a multiple of eight
bytes on. So nothing of a corpus is ever source text.
"""

import base64
import gzip
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

GIVE = "universalRay.put"
_LEVEL = 5


def script(name: str, content: Mapping[str, Any], arrays: Sequence[np.ndarray] = ()) -> bytes:
    """The same bytes for the same content. Raises ValueError for what is no JSON, as NaN."""
    parts, told, place = [], [], 0
    for array in arrays:
        data = np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"), copy=False)
        told.append({"type": array.dtype.name, "at": place, "length": len(array)})
        data_bytes = data.tobytes()
        parts.append(data_bytes + b"\0" * (-len(data_bytes) % 8))
        place += len(parts[-1])
    text = json.dumps({**content, "arrays": told}, allow_nan=False).encode()
    head = len(text).to_bytes(4, "little") + text
    head += b"\0" * (-len(head) % 8)
    packed = base64.b64encode(gzip.compress(head + b"".join(parts), _LEVEL, mtime=0))
    return f"{GIVE}({json.dumps(name)}, '".encode() + packed + b"');\n"


def plain(value: Any, digits: int = 6) -> Any:
    """As JSON has it: NaN is null, an infinity its name, other floats to some digits."""
    if isinstance(value, dict):
        return {str(key): plain(each, digits) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each, digits) for each in value]
    if isinstance(value, np.ndarray):
        return plain(value.tolist(), digits)
    if isinstance(value, np.generic):
        return plain(value.item(), digits)
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, float):
        if math.isnan(value):
            return None
        return float(f"{value:.{digits}g}") if math.isfinite(value) else str(value)
    return value


def rounded(values: np.ndarray, digits: int) -> np.ndarray:
    """Float64 to so many significant digits, NaN and infinities as they are."""
    wide = np.asarray(values, dtype=np.float64)
    usable = np.isfinite(wide) & (wide != 0)
    exponent = np.zeros(wide.shape, dtype=np.int64)
    exponent[usable] = digits - 1 - np.floor(np.log10(np.abs(wide[usable]))).astype(np.int64)
    up = 10.0 ** np.clip(exponent, 0, 300)
    down = 10.0 ** np.clip(-exponent, 0, 300)
    with np.errstate(over="ignore", invalid="ignore"):
        found = np.rint(wide / down * up) / up * down
    return np.where(usable & np.isfinite(found), found, wide)
