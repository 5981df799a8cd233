"""`docs/figures.md`: what each figure of the paper has become, from the list of figures.

`python -m universal_ray.report.figures.docs` prints it; `make docs` writes it.
"""

from collections.abc import Iterable, Iterator

from universal_ray.report.figures.figure import Figure
from universal_ray.report.figures.registry import FIGURES, PAPER, OfThePaper
from universal_ray.report.run import PATHS
from universal_ray.storage.finished import SUMMARY_PATH

HEAD = """\
# Figures of a run

Made from the list of figures by `make docs`.

The report of a run has a page *Figures*, and `report/figures/` in the run directory has each of
them as `NAME.svg` and `NAME.pdf` with `NAME.csv` beside: just the numbers that are drawn. They come
from the tables alone, and the same tables make the same bytes. In a run with several reference
models `NAME` is of the first one, `NAME-2` of the second, and so on; figures of the whole run have
all of them. Where a table is not there, or nothing in it is enough to be drawn, the page has a
sentence instead of a picture. Captions have the number of what is drawn and the run's thresholds;
the numbers of the paper are those of its own models, which `conf/experiment/` runs again.

A PDF has its text as text, in the part of DejaVu Sans that it needs; an SVG has it as outlines, so
that it looks alike everywhere.
"""


def page() -> str:
    """The whole of `docs/figures.md`."""
    lines = [HEAD, "## Of the paper\n"]
    lines += ["| figure | shows | here | from | not drawn |", "|---|---|---|---|---|"]
    lines += [_row(told) for told in PAPER]
    lines += ["", "## Of this project\n", "| here | shows | from |", "|---|---|---|"]
    own = [figure for figure in FIGURES if not figure.paper]
    lines += [f"| `{each.name}` | {each.title} | {_tables([each])} |" for each in own]
    return "\n".join([*lines, ""])


def _row(told: OfThePaper) -> str:
    mine = [figure for figure in FIGURES if told.number in figure.paper]
    here = ", ".join(
        f"`{figure.name}`" + (f" ({panels})" if (panels := figure.paper[told.number]) else "")
        for figure in mine
    )
    cells = [str(told.number), told.shows, here, _tables(mine), told.lacking]
    return f"| {' | '.join(cells)} |"


def _tables(figures: Iterable[Figure]) -> str:
    names = dict.fromkeys(name for figure in figures for name in figure.tables)
    return ", ".join(_paths(names))


def _paths(names: Iterable[str]) -> Iterator[str]:
    for name in names:
        yield f"`{PATHS.get(name, SUMMARY_PATH)}`"


if __name__ == "__main__":
    print(page(), end="")
