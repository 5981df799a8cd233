"""Reports of made-up runs, and what their files hold."""

import base64
import gzip
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from universal_ray.report.figures.figure import Figure
from universal_ray.report.run import Run
from universal_ray.report.site import write as site
from universal_ray.storage.store import Store

HOSTILE = (
    "</script><script>window.hurt = 1</script>", "<img src=x onerror='window.hurt = 2'>",
    "\u202eevil", "\ufffd", "=cmd|' /C calc'!A0", "a\u0000b", "' onclick='window.hurt = 3",
)  # fmt: skip
"""Tokens that would do harm where they were read as anything but text."""


def write(folder: Path | str, figures: Sequence[Figure] = (), **options: Any) -> Path:
    """The site of a run, by default without figures, which take seconds."""
    options["figures"] = figures
    return Path(site.write(Run(Store(str(folder))), **options))


def read(script: Path) -> tuple[dict[str, Any], list[np.ndarray]]:
    """What a script of data/ hands the page, by another way than the page's."""
    text = script.read_text(encoding="ascii")
    found = re.fullmatch(r"universalRay\.put\(\"([\w-]+)\", '([\w+/=]*)'\);\n", text)
    assert found is not None and found[1] == script.stem
    data = gzip.decompress(base64.b64decode(found[2], validate=True))
    length = int.from_bytes(data[:4], "little")
    content = json.loads(data[4 : 4 + length])
    start = -(-(4 + length) // 8) * 8
    arrays = [
        np.frombuffer(data, np.dtype(told["type"]).newbyteorder("<"), told["length"],
                      start + told["at"])
        for told in content.pop("arrays")
    ]  # fmt: skip
    return content, arrays


def catalogue(folder: Path) -> dict[str, Any]:
    return read(folder / "report" / "data" / "front.js")[0]


def column(folder: Path, name: str) -> np.ndarray:
    """Values of all neurons, as the list has them."""
    about = next(each for each in catalogue(folder)["columns"] if each["name"] == name)
    return read(folder / "report" / "data" / f"{about['file']}.js")[1][about["at"]]


def neuron(folder: Path, place: int) -> dict[str, Any] | None:
    """Rows of a neuron by table, None where it has no detail."""
    path = folder / "report" / "data" / f"neurons-{place // 64}.js"
    if not path.exists():
        return None
    content, _ = read(path)
    if str(place) not in content["neurons"]:
        return None
    level, tables = content["neurons"][str(place)]
    columns = content["columns"][str(level)]
    return {name: [dict(zip(columns[name], row, strict=True)) for row in rows]
            for name, rows in tables.items()}  # fmt: skip
