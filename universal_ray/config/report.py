"""What a report shows: the options under `report`."""

from dataclasses import dataclass, field
from enum import Enum


class Detail(Enum):
    """Which neurons have a page in full."""

    chosen = "chosen"
    """universal ones, their partners, members of a family, those with a role"""
    all = "all"
    """every one, however large the site becomes"""


TOP, BOTTOM, QUANTILE, RANDOM, SILENT = "top", "bottom", "quantile", "random", "silent"
KINDS = (TOP, BOTTOM, QUANTILE, RANDOM, SILENT)
"""Why a window is shown, in their order."""


@dataclass(kw_only=True)
class ReportConfig:
    window: int = 32
    """Tokens of a window around an example, at most those of a row."""
    top: int = 8
    """Windows of each neuron around its largest activations, in a row each; as many around the
    smallest where activations are of both signs,"""
    quantiles: int = 8
    """at quantiles of its positive activations,"""
    random: int = 4
    """at random tokens,"""
    silent: int = 4
    """and where it does not fire."""
    sample: int = 16_384
    """Raw tokens, of rows at random, in which the last three are looked for."""
    tokens: int | None = None
    """Raw tokens on which partners in other models are read; by default a third of the profile's.
    """
    neurons: list[str] = field(default_factory=list)
    """Neurons, as 1.848 of layer 1, whose activations are told by what tokens are, beside those
    that are universal or of a family."""
    score: float = 0.3
    """Correlation, on tokens that it was not fitted on, below which a description is withheld."""
    seed: int = 0
    """Of rows and tokens at random."""
    megabytes: int = 200
    """How large the site may become: pages of neurons that would exceed it are left out."""
    detail: Detail = Detail.chosen
    figures: bool = True
    """Whether the site has the paper's figures as files, which takes about half a minute."""


def counts(report: ReportConfig) -> dict[str, int | None]:
    """By key, what must be at least one where it is given."""
    names = ("window", "top", "quantiles", "random", "silent", "sample", "tokens", "megabytes")
    return {f"report.{name}": getattr(report, name) for name in names}
