"""Windows of tokens as tables/examples.parquet has them, for people: what a neuron and its partners
do on every token.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas
    import pyarrow


@dataclass(frozen=True, kw_only=True, eq=False)
class Window:
    """A window of tokens in which a neuron is shown.

    >>> import universal_ray as ur
    >>> window = ur.open("runs/tiny").windows("a:0.3", kind="top")[0]
    >>> window.neuron, window.kind, window.rank
    ('a:0.3', 'top', 0)
    >>> bool(window.activations[window.focus] == max(window.activations))
    True
    >>> window.tokens[window.focus] in str(window)
    True
    >>> window.to_pandas().columns[0]
    'a:0.3'
    """

    neuron: str
    """its id"""
    kind: str
    """why it is shown: top, bottom, quantile, random or silent"""
    rank: int
    """place among those of its kind, from 0"""
    row: int
    """of the corpus"""
    start: int
    """position of the first token in its row"""
    focus: int
    """place in the window of the token that it is shown for"""
    tokens: tuple[str, ...]
    """as vocabulary.parquet shows them"""
    activations: np.ndarray = field(repr=False)
    """float64 by token: post-activations, to 1/127 of the largest"""
    partners: Mapping[str, np.ndarray | None] = field(repr=False)
    """the same of its best partner in every other model that has one, by id; None where partners
    were not read on this row"""

    def __str__(self) -> str:
        """The text, what it is shown for between « and »."""
        shown = [*self.tokens]
        shown[self.focus] = f"«{shown[self.focus]}»"
        return "".join(shown).replace("␣", " ")

    def to_pandas(self) -> "pandas.DataFrame":
        """A row per token, a column of activations for the neuron and each partner; those that were
        not read are NaN.
        """
        import pandas

        columns = {self.neuron: self.activations, **self.partners}
        return pandas.DataFrame(columns, index=[*self.tokens], dtype=np.float64)


def windows(examples: "pyarrow.Table", vocabulary: "pyarrow.Table") -> Iterator[Window]:
    """Of every row of tables/examples.parquet, in its order."""
    ids = vocabulary["token_id"].to_pylist()
    texts = dict(zip(ids, vocabulary["text"].to_pylist(), strict=True))
    for row in examples.to_pylist():
        yield Window(
            neuron=row["id"], kind=row["kind"], rank=row["rank"], row=row["row"],
            start=row["start"], focus=row["focus"] - row["start"],
            tokens=tuple(texts[each] for each in row["token_ids"]),
            activations=_scaled(row["quantised"], row["scale"]), partners=_partners(row),
        )  # fmt: skip


def _partners(row: Mapping[str, Any]) -> dict[str, np.ndarray | None]:
    """What the partners of a row do, by id."""
    names = row["partners"]
    if row["partner_quantised"] is None:
        return {name: None for name in names if name is not None}
    told = zip(names, row["partner_quantised"], row["partner_scales"], strict=True)
    return {name: _scaled(values, scale) for name, values, scale in told if name is not None}


def _scaled(quantised: list[int], scale: float) -> np.ndarray:
    return np.array(quantised, dtype=np.float64) * scale
