"""How figures look, and how they become files: the same bytes whoever draws them, and when.

Everything is set here and nothing is taken from the user's own settings. Text of an SVG is drawn as
outlines, so that it looks alike where the font is not installed; in a PDF it is text, with the part
of the font that it needs. No text is read as markup or as formulas.
"""

import io
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from itertools import groupby
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure as Page
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.text import Text
from matplotlib.ticker import MaxNLocator

OWN, BASE, GREY, INK, SOFT = "#1f6fb4", "#d0701a", "#9aa0a8", "#22252a", "#5a606b"
"""What is measured, what it is held against, the rest, and writing."""
SEVERAL = ("#1f6fb4", "#d0701a", "#2a9d74", "#b0508f", "#7a7f87", "#caa21a")
"""Told apart by the colour-blind too; figures that use more than two draw other lines for each."""
LINES = ("-", "--", "-.", ":", "-", "--")
INCHES = 7.2
"""Width of every figure."""
DOTS = 200
"""Of an inch, where so many marks are drawn that they are dots."""
MANY = 4
"""Of one character in a row, of which each is drawn."""
_SETTINGS: dict[Any, Any] = {
    "font.family": "DejaVu Sans", "font.size": 8, "axes.titlesize": 8, "axes.labelsize": 8,
    "xtick.labelsize": 7, "ytick.labelsize": 7, "legend.fontsize": 7.5, "legend.frameon": False,
    "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": GREY, "xtick.color": SOFT,
    "ytick.color": SOFT, "axes.titlelocation": "left", "axes.titlepad": 4, "axes.linewidth": 0.6,
    "xtick.major.width": 0.6, "ytick.major.width": 0.6, "xtick.major.size": 2.5,
    "ytick.major.size": 2.5, "axes.spines.top": False, "axes.spines.right": False,
    "axes.formatter.useoffset": False, "lines.linewidth": 1.2, "text.parse_math": False,
    "svg.fonttype": "path", "svg.hashsalt": "universal_ray", "pdf.fonttype": 42,
}  # fmt: skip


@contextmanager
def settings() -> Iterator[None]:
    """Those of the figures for a while, then whatever was set before."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_SETTINGS)
        yield


def svg(page: Page) -> bytes:
    return _saved(page, "svg", {"Date": None})


def pdf(page: Page) -> bytes:
    return _saved(page, "pdf", {"CreationDate": None})


def csv(data: pd.DataFrame) -> bytes:
    """Numbers as exact as they are drawn; a text that a spreadsheet would compute gets a quote."""
    texts = data.select_dtypes(exclude=["number", "bool"]).columns
    safe = data.assign(**{name: data[name].map(_uncomputed) for name in texts})
    return bytes(safe.to_csv(index=False, lineterminator="\n").encode())


def _uncomputed(value: Any) -> Any:
    computed = isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r"))
    return f"'{value}" if computed else value


def _saved(page: Page, kind: str, metadata: dict[str, None]) -> bytes:
    file = io.BytesIO()
    page.savefig(file, format=kind, dpi=DOTS, metadata=metadata)
    return file.getvalue()


def shown(text: str, most: int = 30) -> str:
    """A text of which every character can be seen: what the font has not is told by its number, and
    many of one in a row by how many.
    """
    runs = [(each, len(list(same))) for each, same in groupby(text)]
    seen = "".join(f"{_sign(each)}×{many}" if many > MANY else _sign(each) * many
                   for each, many in runs)  # fmt: skip
    return seen if len(seen) <= most else f"{seen[: most - 1]}…"


def _sign(character: str) -> str:
    return character if _drawn(character) else f"U+{ord(character):04X}"


@cache
def _drawn(character: str) -> bool:
    font = get_font(findfont(FontProperties(family="DejaVu Sans")))
    return (
        character.isprintable()
        and unicodedata.bidirectional(character) not in ("R", "AL")
        and font.get_char_index(ord(character)) != 0
    )


def panels(
    page: Page, count: int, *, columns: int, height: float, top: float = 0.3, left: float = 0.5,
    right: float = 0.12, bottom: float = 0.45, apart: tuple[float, float] = (0.45, 0.5),
) -> list[Axes]:  # fmt: skip
    """So many panels on a page that becomes as tall as they need, in inches; `apart`: across, down.
    """
    columns = min(columns, count)
    rows = -(-count // columns)
    tall = top + rows * height + (rows - 1) * apart[1] + bottom
    wide = (INCHES - left - right - (columns - 1) * apart[0]) / columns
    page.set_size_inches(INCHES, tall)
    made = []
    for place in range(count):
        row, column = divmod(place, columns)
        x = left + column * (wide + apart[0])
        y = tall - top - height - row * (height + apart[1])
        panel = page.add_axes((x / INCHES, y / tall, wide / INCHES, height / tall))
        few_ticks(panel, 3 if wide < 1.3 else 5, 3 if height < 1.3 else 5)
        made.append(panel)
    return made


def rename(page: Page, old: str, new: str) -> None:
    """Say another word in titles, on axes and at their ticks."""
    for text in page.findobj(Text):
        if old in text.get_text():
            text.set_text(text.get_text().replace(old, new))
    for panel in page.axes:
        for axis in (panel.xaxis, panel.yaxis):
            labels = [each.get_text() for each in axis.get_ticklabels()]
            if any(old in each for each in labels):
                axis.set_ticks(axis.get_ticklocs(), [each.replace(old, new) for each in labels])


def few_ticks(panel: Axes, across: int, up: int) -> None:
    panel.xaxis.set_major_locator(MaxNLocator(across))
    panel.yaxis.set_major_locator(MaxNLocator(up))


def whole_ticks(panel: Axes) -> None:
    """Below layers, which are no fractions."""
    panel.xaxis.set_major_locator(MaxNLocator(8, integer=True))


def legend(page: Page, panel: Axes, columns: int = 6) -> None:
    """What the marks of a panel mean, in the upper right corner of the page."""
    handles, names = panel.get_legend_handles_labels()
    page.legend(
        handles, names, loc="upper right", ncols=columns, borderaxespad=0.3, columnspacing=1.2,
        handlelength=1.6,
    )  # fmt: skip


def legend_beside(panel: Axes) -> None:
    """The same right of the panel, where its entries are long."""
    handles, names = panel.get_legend_handles_labels()
    panel.legend(handles, names, loc="upper left", bbox_to_anchor=(1.0, 1.0))


def hide_heights(panel: Axes) -> None:
    """Of densities, which all have the area 1."""
    panel.set_yticks([])
    panel.minorticks_off()
    panel.spines["left"].set_visible(False)


def below(made: Sequence[Axes], columns: int) -> list[Axes]:
    """The panels that have none below them."""
    return list(made[-columns:]) if len(made) > columns else list(made)


def steps(
    panel: Axes, rows: pd.DataFrame, *, color: str, label: str = "", line: str = "-",
    filled: bool = False, height: str = "density",
) -> None:  # fmt: skip
    """A histogram, of rows with `low` and `high` ends of bins that follow one another."""
    edges = np.append(rows["low"].to_numpy(), rows["high"].to_numpy()[-1:])
    if filled:
        panel.stairs(rows[height], edges, fill=True, color=color, alpha=0.3, linewidth=0)
    panel.stairs(rows[height], edges, color=color, linestyle=line, linewidth=1.1, label=label,
                 baseline=None)  # fmt: skip


def heat(panel: Axes, rows: pd.DataFrame, colors: str) -> None:
    """Squares of `x_low` to `x_high` and `y_low` to `y_high`, darker for more neurons."""
    (x_edges, across), (y_edges, up) = (_edges(rows, axis) for axis in "xy")
    counts = np.full((len(y_edges) - 1, len(x_edges) - 1), np.nan)
    counts[up, across] = rows["neurons"]
    most = max(float(rows["neurons"].max()), 2.0)
    panel.pcolormesh(
        x_edges, y_edges, counts, cmap=colors, norm=LogNorm(0.3, most), rasterized=True
    )


def _edges(rows: pd.DataFrame, axis: str) -> tuple[np.ndarray, np.ndarray]:
    """Of all bins between the first and the last, and of which of them each row is."""
    low = rows[f"{axis}_low"].to_numpy()
    width = float(rows[f"{axis}_high"].iloc[0] - low[0])
    place = np.rint((low - low.min()) / width).astype(np.int64)
    return low.min() + width * np.arange(place.max() + 2), place
