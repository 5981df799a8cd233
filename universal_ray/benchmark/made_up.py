"""A run that nobody computed: tables of any size with made-up values in the columns of the schemas,
to see and measure what is drawn of them.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import yaml

from universal_ray.config.site import KEY
from universal_ray.models.site import MLP_POST
from universal_ray.stages import registry
from universal_ray.stages.roles.schemas import ROLES
from universal_ray.storage import checked
from universal_ray.storage.columns import Table
from universal_ray.storage.finished import MARKER, SUMMARY_PATH
from universal_ray.storage.names import STUDY_FILE
from universal_ray.storage.store import Receipt, Store

THRESHOLD = 0.5
FAMILIES = ("unigram", "alphabet", "position", "syntax")
TEXTS = tuple(f"{blank}{stem}{end}" for blank in ("", " ") for stem in ("def", "self", "the", "x")
              for end in ("", "s", "_"))  # fmt: skip
_NULL_SHARE = 0.1
_PER_NEURON = {"features": 3, "attention": 0, "interventions": 0, "heads": 0, "bank": 0}


@dataclass(frozen=True)
class Extent:
    """How large, and of what: `lists` is the most entries of a list."""

    models: Sequence[str] = ("a", "b", "c")
    layers: int = 2
    width: int = 64
    lists: int = 300
    texts: Sequence[str] = TEXTS
    seed: int = 0
    shown: int = 2000
    """Neurons with windows of examples."""

    @property
    def neurons(self) -> int:
        return self.layers * self.width


def make(folder: str, extent: Extent) -> Store:
    """Write a run with every table of every stage, finished as a run's are."""
    store = Store(folder)
    record = {
        "configuration": {}, "bits": {KEY: MLP_POST.name}, "models": [], "versions": {},
        "corpus": {"rows": 0, "context": 32, "units": []},
    }  # fmt: skip
    store.put(STUDY_FILE, yaml.safe_dump(record).encode())
    rng = np.random.default_rng(extent.seed)
    made: dict[str, pa.Table] = {}
    latest = {
        table.path: table
        for stage in registry.STAGES
        for table in registry.room(stage, "schemas").TABLES
    }
    for path, table in latest.items():
        made[path] = _table(table, extent, rng)
    receipts: list[Receipt] = [
        store.put_table(path, table, extent.width) for path, table in made.items()
    ]
    receipts.append(store.put_json(SUMMARY_PATH, summary(extent, made)))
    checked.finish(store, MARKER, receipts, stages=dict.fromkeys(registry.STAGES, "made up"))
    return store


def _table(table: Table, extent: Extent, rng: np.random.Generator) -> pa.Table:
    name = PurePosixPath(table.path).stem
    if name in WRITTEN:
        written = list(WRITTEN[name](extent, rng))
        return pa.Table.from_pylist(written, schema=table.schema)
    models = extent.models[:1] if name in ("neurons", "descriptions") else extent.models
    keys = _keys(name, models, extent)
    rows = len(keys["model"])
    values = [
        pa.array(keys[entry.name], entry.type) if entry.name in keys
        else _values(entry, rows, extent, rng)
        for entry in table.schema
    ]
    made = pa.Table.from_arrays(values, schema=table.schema)
    return _universal(made, rng) if name == "neurons" else made


def _keys(name: str, models: Sequence[str], extent: Extent) -> dict[str, np.ndarray]:
    """Which neuron, and which other model or rank, each row is of."""
    several = [(model, other) for model in extent.models for other in extent.models
               if (model == extent.models[0]) != (other == extent.models[0])]  # fmt: skip
    who = several if name == "pairs" else [(model, "") for model in models]
    each = _PER_NEURON.get(name, 1)
    layer = np.tile(np.repeat(np.arange(extent.layers), extent.width * each), len(who))
    neuron = np.tile(np.repeat(np.arange(extent.width), each), extent.layers * len(who))
    model = np.repeat([model for model, _ in who], extent.neurons * each)
    told = {"model": model, "layer": layer, "neuron": neuron}
    ids = [f"{m}:{k}.{n}" for m, k, n in zip(model, layer, neuron, strict=True)]
    told["id"] = np.array(ids, dtype=np.str_)
    told["site"], told["unit_kind"] = (
        np.full(len(ids), each) for each in (MLP_POST.name, MLP_POST.unit)
    )
    if name == "pairs":
        told["other"] = np.repeat([other for _, other in who], extent.neurons)
    if name == "features":
        told["rank"] = np.tile(np.arange(each), extent.neurons * len(who))
    return told


def _universal(table: pa.Table, rng: np.random.Generator) -> pa.Table:
    excess = rng.beta(2, 9, table.num_rows)
    best = np.clip(excess + rng.beta(3, 15, table.num_rows), 0, 1)
    told = {"excess_corr": excess, "mean_corr": best, "mean_baseline": best - excess,
            "is_universal": excess > THRESHOLD}  # fmt: skip
    for name, values in told.items():
        place = table.column_names.index(name)
        table = table.set_column(place, table.schema.field(name), pa.array(values))
    return table


def _values(
    entry: pa.Field, rows: int, extent: Extent, rng: np.random.Generator
) -> pa.Array:
    """Random values of a type, some of them null where the schema lets them be."""
    kind = entry.type
    metadata = entry.metadata or {}
    if entry.name == "null_reason" or pa.types.is_map(kind):
        return pa.nulls(rows, kind)
    if pa.types.is_list(kind):
        if entry.name == "roles":
            return _roles(rows, rng)
        length = min(extent.lists, 257 if "hist" in entry.name else 10)
        inner = _plain(entry.name, kind.value_type, rows * length, extent, rng)
        offsets = pa.array(np.arange(rows + 1) * length, pa.int32())
        return pa.ListArray.from_arrays(offsets, inner)
    values = _plain(entry.name, kind, rows, extent, rng)
    if b"null" not in metadata:
        return values
    there = pa.array(rng.random(rows) >= _NULL_SHARE)
    return pc.if_else(there, values, pa.scalar(None, kind))


def _plain(
    name: str, kind: pa.DataType, many: int, extent: Extent, rng: np.random.Generator
) -> pa.Array:
    if pa.types.is_boolean(kind):
        return pa.array(rng.random(many) < 0.5)
    if pa.types.is_integer(kind):
        most = {"layer": extent.layers, "neuron": extent.width}.get(name.rsplit("_", 1)[-1], 8)
        return pa.array(rng.integers(0, most, many), kind)
    if pa.types.is_floating(kind):
        return pa.array(rng.random(many).astype(np.float32), kind)
    if pa.types.is_string(kind):
        texts = pa.array(_texts(name, extent), pa.string())
        return texts.take(pa.array(rng.integers(0, len(texts), many)))
    return pa.nulls(many, kind)


def vocabulary(extent: Extent, _: np.random.Generator) -> Iterator[dict[str, Any]]:
    """Every text is a token, the first one special."""
    for number, text in enumerate(extent.texts):
        special = number == 0
        content = None if special else text.encode()
        yield {"token_id": number, "text": text, "bytes": content, "special": special}


def examples(extent: Extent, rng: np.random.Generator) -> Iterator[dict[str, Any]]:
    """Windows of every neuron of the first model; partners were read in all but the last."""
    kinds = ("top", "top", "quantile", "random", "silent")
    first, *others = extent.models
    for flat in range(min(extent.neurons, extent.shown)):
        layer, neuron = divmod(flat, extent.width)
        partners = [f"{other}:{layer}.{neuron}" for other in others]
        for rank, kind in enumerate(kinds):
            values = rng.integers(-20, 128, WINDOW)
            read = kind != "silent"
            yield {
                "id": f"{first}:{layer}.{neuron}", "model": first, "layer": layer, "neuron": neuron,
                "kind": kind, "rank": rank if kind == "top" else 0, "split": "scoring", "row": rank,
                "start": 5, "focus": 5 + WINDOW // 2, "subset": "one",
                "token_ids": rng.integers(0, len(extent.texts), WINDOW), "activation": 1.0,
                "scale": 0.01, "quantised": values, "partners": partners,
                "partner_scales": [0.02] * len(others) if read else None,
                "partner_quantised": [values // 2] * len(others) if read else None,
            }  # fmt: skip


def conditional(extent: Extent, rng: np.random.Generator) -> Iterator[dict[str, Any]]:
    """Groups of tokens of the first model's first neuron."""
    who = {"id": f"{extent.models[0]}:0.0", "model": extent.models[0], "layer": 0, "neuron": 0}
    groups: list[dict[str, Any]] = [{"by": "all"}]
    groups += [{"by": "feature", "group": "one", "inside": inside} for inside in (True, False)]
    groups += [{"by": "word", "group": name} for name in ("whole", "end")]
    groups += [{"by": "next token", "group": name} for name in ("number", "symbol")]
    for told in groups:
        yield {**who, **told, **_moments(rng), "histogram": rng.integers(0, 50, 257)}
    for position in range(16):
        yield {**who, "by": "position", "position": position, **_moments(rng)}
    for token in range(4):
        yield {**who, "by": "token in subset", "subset": "two", "token_id": token, **_moments(rng)}


def _moments(rng: np.random.Generator) -> dict[str, Any]:
    pre, post = rng.random(2)
    return {"tokens": 50, "pre_mean": pre, "pre_deviation": 0.5, "post_mean": post,
            "post_deviation": 0.25}  # fmt: skip


WINDOW = 16
WRITTEN: dict[str, Callable[[Extent, np.random.Generator], Iterator[dict[str, Any]]]] = {
    "vocabulary": vocabulary, "examples": examples, "conditional": conditional,
}  # fmt: skip
"""Tables whose values have to fit together."""


def _texts(name: str, extent: Extent) -> Sequence[str]:
    if name.endswith("family"):
        return FAMILIES
    if name == "status":
        return ("member", "partly", "unexplained")
    if name.endswith(("token", "text", "ngrams")):
        return extent.texts
    return ("one", "two", "three")


def _roles(rows: int, rng: np.random.Generator) -> pa.Array:
    some = rng.random(rows) < 0.02
    offsets = np.concatenate([[0], some.cumsum()])
    names = pa.array(ROLES).take(pa.array(rng.integers(0, len(ROLES), int(some.sum()))))
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), names)


def summary(extent: Extent, made: dict[str, pa.Table]) -> dict[str, Any]:
    """What the front page reads of a summary, of the same made-up run."""
    first, *others = extent.models
    share = [[1 / extent.layers] * extent.layers] * extent.layers
    return {
        "threshold": THRESHOLD, "tokens": 1000, "tokens_kept": 900,
        "references": [{
            "model": first, "others": others, "neurons": extent.neurons,
            "neurons_without_correlation": 0, "reasons_without_correlation": {},
            "partner_layers": share, "mutual_share": 0.25, "published": None, "layers": [],
        }],
        "profile": {"subsets": ["one", "two"], "features": 12},
    }  # fmt: skip
