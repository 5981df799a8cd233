"""What a figure is: where its numbers come from, and how just these numbers are drawn."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import pandas as pd
from matplotlib.figure import Figure as Page

from universal_ray.report.figures.source import Source

UNIVERSALITY, APART, RESPONSES, ROLES = (
    "Universality", "What sets universal neurons apart", "What neurons respond to",
    "What neurons do",
)  # fmt: skip
CHAPTERS = (UNIVERSALITY, APART, RESPONSES, ROLES)
"""Of the gallery, in their order."""


@dataclass(frozen=True)
class Made:
    """What is drawn, which is what its CSV holds, and what is said below."""

    data: pd.DataFrame
    caption: str


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A figure by the name of its files. `data` raises NotDrawn; `draw` gets its frame alone."""

    name: str
    title: str
    chapter: str
    tables: tuple[str, ...]
    """that it is made from, `summary` among them"""
    data: Callable[[Source], Made]
    draw: Callable[[pd.DataFrame, Page], None]
    paper: Mapping[int, str] = field(default_factory=dict)
    """which panels of the paper's figures it is, by their numbers; none: of this project alone"""
    whole: bool = False
    """of the whole run, else of each reference model"""
