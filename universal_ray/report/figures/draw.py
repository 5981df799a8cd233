"""From tables to files: every figure that they allow, as SVG and PDF with its numbers beside it."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, zip_longest

from joblib import Parallel, delayed
from matplotlib.figure import Figure as Page

from universal_ray.report.figures import paint
from universal_ray.report.figures.figure import Figure, Made
from universal_ray.report.figures.source import NotDrawn, Source
from universal_ray.report.units import NEURON, unit, worded

KINDS = ("svg", "pdf", "csv")
PRE = "pre-activation"
"""What neurons alone have; of other units it is the value itself."""


@dataclass(frozen=True)
class Drawn:
    """A figure with its files, or why there are none."""

    figure: Figure
    reference: str
    """the model that it is of; none where it is of the whole run"""
    name: str
    """of its files"""
    caption: str = ""
    reason: str = ""
    inches: tuple[float, float] = (0.0, 0.0)
    files: dict[str, bytes] = field(default_factory=dict)
    """contents by kind"""


def drawn(
    figures: Sequence[Figure], source: Source, processes: int = 1
) -> Iterator[Drawn]:
    """Every figure in its order, of every reference model where it is of one.

    Files of the second reference model end in `-2`, and so on. Several processes, which make the
    same bytes, begin at once, before the first is asked for.
    """
    asked = [
        (figure, reference, figure.name if place == 0 else f"{figure.name}-{place + 1}")
        for figure in figures
        for place, reference in enumerate([""] if figure.whole else source.references or [""])
    ]
    processes = min(processes, len(asked))
    if processes < 2:
        return (_drawn(source, *each) for each in asked)
    # Neighbours take about as long as each other: each process gets every so many-th.
    shares = Parallel(processes, return_as="generator")(
        delayed(_some)(source, asked[first::processes]) for first in range(processes)
    )
    return _dealt(shares)


def _dealt(shares: Iterable[list[Drawn]]) -> Iterator[Drawn]:
    """One of each share in turn, when all are there."""
    for each in chain(*zip_longest(*shares)):
        if each is not None:
            yield each


def _some(source: Source, asked: Sequence[tuple[Figure, str, str]]) -> list[Drawn]:
    return [_drawn(source, *each) for each in asked]


def _drawn(source: Source, figure: Figure, reference: str, name: str) -> Drawn:
    try:
        made = figure.data(source.of(reference))
    except NotDrawn as told:
        reason = str(told)
        return Drawn(figure, reference, name, reason=f"{reason[0].upper()}{reason[1:]}.")
    called = unit(source.summary)
    files, inches = rendered(figure, made, called)
    return Drawn(figure, reference, name, worded(made.caption, called), inches=inches, files=files)


def rendered(
    figure: Figure, made: Made, called: str = NEURON
) -> tuple[dict[str, bytes], tuple[float, float]]:
    """Contents by kind, and width and height in inches; `called`: what its units are."""
    with paint.settings():
        page = Page()
        figure.draw(made.data, page)
        if called != NEURON:
            paint.rename(page, PRE, "value")
        files = {
            "svg": paint.svg(page), "pdf": paint.pdf(page), "csv": paint.csv(made.data)
        }  # fmt: skip
    wide, tall = (float(each) for each in page.get_size_inches())
    return files, (wide, tall)
