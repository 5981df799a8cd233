"""What a study is made of: models, units of tokens, what is summed over them, and its files. Pure.

A *unit* is a range of token rows; an *item* is what is summed over it: a model (Σu, extremes,
Gram of each layer) or a pair of models (Σu vᵀ by layer of the first). Work is unit × item.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

from universal_ray.config.hashing import fingerprint
from universal_ray.config.study import Pairs
from universal_ray.errors import ConfigurationError

SHIFTS = 2
"""Version of the shifted baseline, raised where a draw of the same name is of other tokens."""


@dataclass(frozen=True, kw_only=True)
class Model:
    """What planning needs of a model: its content, whatever it is called."""

    name: str = field(compare=False)
    """short, and its own within the study"""
    given: str = field(compare=False)
    """as the study names it: a path, or a hub id with its revision"""
    identity: str
    layers: int
    width: int
    """units of each layer at the site that is studied"""
    d_model: int
    """channels of its residual stream"""
    d_mlp: int
    """neurons of the MLP of each of its layers"""
    gated: bool = False
    """whether its MLPs have a gate beside what they read"""
    signed: bool = False
    """whether values of its units are of either sign, so that both ends of these are responses"""
    stretch: float = field(default=1.0, compare=False)
    """tokens that it reads for each of the study's at most: of another tokenizer than theirs"""
    depth: int | None = None
    """blocks of the model, where these are not the layers of its units"""
    reads: int = 0
    """channels that each unit is made of by weights beside the model's; 0 where there are none"""
    places: tuple[str, ...] = field(default=(), compare=False)
    """what each layer of its units reads, in words, where that may be another layer of the model"""
    calibrated: str = ""
    """fingerprint of what its calibration is made from: the first rows, and all that fixes bits"""

    @property
    def neurons(self) -> int:
        return self.layers * self.width

    @property
    def blocks(self) -> int:
        """Of the model itself."""
        return self.depth or self.layers

    @property
    def short(self) -> str:
        """The start of its identity, in the names of files."""
        return self.identity[:12]


@dataclass(frozen=True, kw_only=True)
class Unit:
    """Token rows [start, stop); its name changes with its content."""

    index: int
    start: int
    stop: int
    full: bool
    name: str
    content: str
    """hash of its rows"""
    bits: str
    """fingerprint of everything but models and tokens that decides its sums"""


@dataclass(frozen=True)
class Item:
    """A model, or a pair of models with the rows of the cross sums first."""

    models: tuple[Model, ...]
    shift: str = ""
    """a draw of the shifted baseline, where tokens of the second are beside others of the first"""

    @property
    def key(self) -> str:
        kind = "model" if len(self.models) == 1 else "pair"
        kind = f"shifted{self.shift}" if self.shift else kind
        return "-".join([kind, *(model.short for model in self.models)])

    @property
    def layers(self) -> int:
        """Number of row blocks: one per layer of the (first) model."""
        return self.models[0].layers

    def unit_folder(self, unit: Unit) -> str:
        return f"moments/{self.key}/unit-{unit.name}"

    def block_folder(self, block: "Block") -> str:
        return f"moments/{self.key}/block-{block.name}"

    def of(self, units: Sequence[Unit]) -> dict[str, Any]:
        """What its sums over some units are of, in full, as they say it themselves."""
        return {
            "models": [model.identity for model in self.models],
            "calibrated": [model.calibrated for model in self.models],
            "bits": units[0].bits,
            "rows": [unit.content for unit in units],
            **({"shift": SHIFTS} if self.shift else {}),
        }

    @property
    def sums_bytes(self) -> int:
        """Bytes of the float32 sums of one unit."""
        first, last = self.models[0], self.models[-1]
        if len(self.models) == 1:
            return 4 * first.neurons * (first.width + 4)
        return 4 * first.neurons * last.neurons

    def flops(self, tokens: int) -> int:
        """Floating point operations of the sums over some tokens; a Gram is symmetric."""
        first, last = self.models[0], self.models[-1]
        if len(self.models) == 1:
            return tokens * first.neurons * first.width
        return 2 * tokens * first.neurons * last.neurons


@dataclass(frozen=True)
class Block:
    """Consecutive full units that fold into one float64 file per item and layer."""

    index: int
    units: tuple[Unit, ...]

    @property
    def name(self) -> str:
        return f"{self.index:06d}-{fingerprint([unit.name for unit in self.units])[:8]}"


def layer_file(folder: str, layer: int) -> str:
    return f"{folder}/layer-{layer:02d}.safetensors"


def marker(folder: str) -> str:
    return f"{folder}/done.json"


def calibration_file(model: Model) -> str:
    return f"calibration/{model.short}-{model.calibrated[:12]}.safetensors"


def unit_rows(rows: int, context: int, unit_tokens: int) -> list[tuple[int, int]]:
    """Row ranges of the units: `unit_tokens` rounded down to whole rows, the last may be short."""
    step = unit_tokens // context
    if step < 1:
        raise ConfigurationError(
            f"units.tokens ({unit_tokens}) is less than one row of {context} tokens: raise it"
        )
    return [(start, min(start + step, rows)) for start in range(0, rows, step)]


def make_units(
    ranges: list[tuple[int, int]], hashes: list[str], *, bits_fingerprint: str, step: int
) -> tuple[Unit, ...]:
    """Units named by their index and the content that decides their sums; full ones have `step`
    rows.
    """
    return tuple(
        Unit(
            index=index,
            start=start,
            stop=stop,
            full=stop - start == step,
            name=f"{index:06d}-{fingerprint([content, bits_fingerprint])[:8]}",
            content=content,
            bits=bits_fingerprint,
        )
        for index, ((start, stop), content) in enumerate(zip(ranges, hashes, strict=True))
    )


def same_weights(first: str, second: str) -> ConfigurationError:
    """What is raised for two names of one model."""
    return ConfigurationError(
        f"models {first} and {second} have the same weights, so that each neuron would be its own "
        "best partner: name each model once"
    )


def make_items(
    groups: Sequence[Sequence[Model]], pairs: Pairs, shifts: Sequence[str] = ()
) -> tuple[Item, ...]:
    """All models, then the pairs within each group, whose first model is the reference, then these
    with each of some shifts.

    A pair is ordered by identity: the same whoever is reference. Each item is there once: one model
    may be the same at two revisions.
    """
    chosen = [
        pair
        for group in groups
        for pair in (
            [(group[0], other) for other in group[1:]]
            if pairs is Pairs.reference
            else combinations(group, 2)
        )
    ]
    ordered = [tuple(sorted(pair, key=lambda model: model.identity)) for pair in chosen]
    every = [*((model,) for group in groups for model in group), *ordered]
    shifted = [Item(pair, shift) for pair in ordered for shift in shifts]
    return tuple(dict.fromkeys([*map(Item, every), *shifted]))


@dataclass(frozen=True)
class Layout:
    """The units of a study in order, and how they fold into blocks."""

    units: tuple[Unit, ...]
    fold: int

    @property
    def blocks(self) -> tuple[Block, ...]:
        full = [unit for unit in self.units if unit.full]
        return tuple(
            Block(index, tuple(full[index * self.fold : (index + 1) * self.fold]))
            for index in range(len(full) // self.fold)
        )

    @property
    def trailing(self) -> tuple[Unit, ...]:
        """Units after the last block."""
        return self.units[len(self.blocks) * self.fold :]

    def folders(self, item: Item) -> list[tuple[str, list[str]]]:
        """In order of tokens: each block's folder with its units', then the trailing units'."""
        blocks = [
            (item.block_folder(block), [item.unit_folder(unit) for unit in block.units])
            for block in self.blocks
        ]
        return blocks + [(item.unit_folder(unit), []) for unit in self.trailing]
