"""The site of a run: written new beside the old one, then swapped in, with what it was made of.

`index.html` is the door: it goes before anything is replaced, and comes back when all is there, so
that nobody opens half a report. The marker beside it names every file, and the tables it tells of.
"""

from collections.abc import Iterable, Iterator, Sequence
from importlib import resources
from typing import Any

import jinja2
import numpy as np

import universal_ray
from universal_ray.config.hashing import fingerprint
from universal_ray.report.figures.draw import Drawn, drawn
from universal_ray.report.figures.figure import Figure
from universal_ray.report.figures.registry import FIGURES
from universal_ray.report.figures.source import Source
from universal_ray.report.run import PATHS, Run
from universal_ray.report.site import details, search
from universal_ray.report.site.columns import Column, columns
from universal_ray.report.site.facts import front
from universal_ray.report.site.gather import ONE_EACH, Gathered, gather
from universal_ray.report.site.pack import plain, script
from universal_ray.report.units import chance, no_neurons, unit
from universal_ray.storage import checked
from universal_ray.storage.finished import MARKER as TABLES_MARKER
from universal_ray.storage.finished import SUMMARY_PATH
from universal_ray.storage.names import REPORT
from universal_ray.storage.store import Receipt, Store

PAGE = f"{REPORT}/index.html"
MARKER = f"{REPORT}/done.json"
DRAFT = f"{REPORT}/unfinished"
VERSION = 5
"""Of what the code makes of tables: another one makes the site anew."""
MEGABYTES = 200.0
"""How large a site becomes, if its list and search are not larger already."""
_VALUES_PER_FILE = 2_000_000
_ENTRY, _SPARE = 200, 16_384
"""Bytes of a file's line in the marker, and of what else is in it, at most; and of the page's first
data, which know how many neurons are told.
"""
_PICTURE = 400_000
"""Bytes of a figure's files, more than is usual: they are drawn while pages of neurons are made."""
_SCRIPTS = ("base", "data", "tokens", "charts", "front", "list", "neuron", "figures", "app")


def write(
    run: Run, megabytes: float | int = MEGABYTES, everything: bool = False,
    figures: Sequence[Figure] = FIGURES, processes: int = 1,
) -> str:  # fmt: skip
    """Make the site of a run, unless it stands already; returns the address of its page.

    It has those of `figures` that the tables allow, and of the others why not.

    Neurons that are universal, or a partner of such, or have a role or a family, are told in full,
    others for as long as the whole site stays within `megabytes`; with `everything` all are. Tables
    that are not there or cannot be read are named on the page, and so it is where the list alone is
    larger. So many `processes` draw figures. Raises StorageError where it cannot be written.
    """
    store = run.store
    made_of = _made_of(run, megabytes, everything) | {"figures": [each.name for each in figures]}
    if not _stands(store, made_of):
        found = gather(run)
        source = Source(found.tables, found.summary, found.missing)
        pictures = drawn(figures, source, processes)
        reserved = _PICTURE * len(figures) * max(1, len(source.references))
        budget = int(megabytes * 10**6)
        contents = _contents(found, pictures, reserved, budget, everything)
        receipts = [store.put(f"{DRAFT}/{name}", content) for name, content in contents]
        checked.finish(store, f"{DRAFT}/done.json", receipts, made_of=made_of)
        _swap_in(store, receipts, made_of)
    return f"{store.url.rstrip('/')}/{PAGE}"


def _made_of(run: Run, megabytes: float | int, everything: bool) -> dict[str, Any]:
    """What decides every byte of the site."""
    receipts = checked.receipts(run.store, TABLES_MARKER)
    tables = {path: receipts[path].checksum for path in (*PATHS.values(), SUMMARY_PATH)
              if path in receipts}  # fmt: skip
    sources = fingerprint({name: _static(name) for name in _static_names()})
    return {"tables": tables, "version": VERSION, "sources": sources, "megabytes": megabytes,
            "everything": everything}  # fmt: skip


def _stands(store: Store, made_of: dict[str, Any]) -> bool:
    told = checked.told(store, MARKER)
    if told.get("made_of") != made_of:
        return False
    sizes = store.sizes(REPORT)
    files = checked.receipts(store, MARKER)
    return PAGE in files and all(sizes.get(path) == each.bytes for path, each in files.items())


def _swap_in(store: Store, drafts: list[Receipt], made_of: dict[str, Any]) -> None:
    store.delete(MARKER)
    store.delete(PAGE)
    receipts = [
        Receipt(each.path.replace(DRAFT, REPORT, 1), each.bytes, each.checksum) for each in drafts
    ]
    new = {each.path for each in receipts}
    for path in (*store.list(f"{REPORT}/data"), *store.list(f"{REPORT}/figures")):
        if path not in new:
            store.delete(path)
    moves = dict(zip(new_order(receipts), new_order(drafts), strict=True))
    for path, draft in moves.items():
        store.move(draft, path)
    for path in store.list(DRAFT):
        store.delete(path)
    checked.finish(store, MARKER, receipts, made_of=made_of)


def new_order(receipts: list[Receipt]) -> list[str]:
    """Paths, the page's last."""
    return sorted((each.path for each in receipts), key=lambda path: path.endswith("index.html"))


def _contents(
    found: Gathered, drawings: Iterable[Drawn], reserved: int, budget: int, everything: bool
) -> Iterator[tuple[str, bytes]]:
    """Names within the report and contents of all its files; `reserved`: bytes for the drawings."""
    listed = columns(found)
    words = search.tokens(found)
    pages = front(found, listed)
    spent = reserved + _ENTRY * -(-found.neurons // details.PER_FILE)

    def data(name: str, content: bytes) -> tuple[str, bytes]:
        return counted(f"data/{name}.js", content)

    def counted(name: str, content: bytes) -> tuple[str, bytes]:
        nonlocal spent
        spent += len(content) + _ENTRY
        return name, content

    if words is not None:
        for name, content in search.files(words):
            yield data(name, content)
        listed += _shown(words)
    for name, content in _texts(found):
        yield data(name, content)
    pictures: list[dict[str, Any]] = []
    where = []
    for number, group in enumerate(_grouped(listed, found.neurons)):
        name = f"index-{number}"
        where += [{**column.about(), "file": name, "at": at} for at, column in enumerate(group)]
        yield data(name, script(name, {}, [column.values.ravel() for column in group]))
    yield counted("style.css", _static("style.css").encode())
    yield counted("app.js", _app().encode())
    page = counted("index.html", _page(found, pages).encode())

    def first(told: details.Levels) -> bytes:
        catalogue = _catalogue(found, where, pages, told, words)
        return script("front", plain({**catalogue, "figures": pictures}))

    told = details.everything(found)
    made: Iterable[tuple[int, bytes]]
    if everything:
        made = details.files(found, told)
    else:
        room = budget - spent - len(first(told)) - found.neurons - _SPARE
        if room < 0:
            found.missing.append(
                f"report.megabytes is {budget / 10**6:g}, of which the list, the search and the "
                f"figures alone take {(budget - room) / 10**6:.1f}: raise it for pages of neurons"
            )
        told, made = details.within(found, listed, room)
    for number, content in made:
        yield data(f"neurons-{number}", content)
    for each in drawings:
        pictures.append(_told(each))
        for kind, content in each.files.items():
            yield f"figures/{each.name}.{kind}", content
    yield data("levels", script("levels", {}, [told.values]))
    yield data("front", first(told))
    yield page


def _told(each: Drawn) -> dict[str, Any]:
    """A figure as its page tells it."""
    figure = each.figure
    paths = [PATHS.get(name, SUMMARY_PATH) for name in figure.tables]
    return {
        "name": each.name, "title": figure.title, "chapter": figure.chapter,
        "paper": [f"{number}{panels}" for number, panels in figure.paper.items()],
        "model": each.reference, "tables": [path.rsplit("/", 1)[-1] for path in paths],
        "caption": each.caption, "reason": each.reason, "inches": each.inches,
    }  # fmt: skip


def _texts(found: Gathered) -> Iterator[tuple[str, bytes]]:
    """What ids of tokens say, and what is said of each neuron."""
    words = found.tables.get("vocabulary")
    if words is not None:
        texts = dict(zip(words["token_id"].to_pylist(), words["text"].to_pylist(), strict=True))
        yield "vocabulary", script("vocabulary", {"texts": texts})
    told = found.tables.get("descriptions")
    if told is not None:
        said = zip(found.places("descriptions").tolist(), told["text"].to_pylist(),
                   strict=True)  # fmt: skip
        texts = {place: text for place, text in said if text is not None}
        yield "descriptions", script("descriptions", {"texts": texts})


def _grouped(listed: list[Column], neurons: int) -> Iterator[list[Column]]:
    """Columns by file: those that the list shows at once first, then as many as are loaded fast."""
    at_once = [column for column in listed if column.name in AT_ONCE]
    yield at_once
    rest = [column for column in listed if column.name not in AT_ONCE]
    many = max(_VALUES_PER_FILE // max(neurons, 1), 1)
    for start in range(0, len(rest), many):
        yield rest[start : start + many]


AT_ONCE = {
    "excess_corr", "mean_corr", "mean_baseline", "is_universal", "mutual_partners", "twin",
    "family", "status", "feature", "roles", "baseline_se",
}  # fmt: skip
"""Columns of the first file of the list."""


def _shown(words: search.Tokens) -> list[Column]:
    names = {
        search.FIRES: ("fires_on", "tokens with the largest mean activation"),
        search.PROMOTES: ("promotes", "tokens whose logits it raises most"),
        search.SUPPRESSES: ("suppresses", "tokens whose logits it lowers most"),
    }
    return [
        Column(name, "tokens", words.shown[way].astype(np.int32), description, "statistics")
        for way, (name, description) in names.items()
    ]


def _catalogue(
    found: Gathered, where: list[dict[str, Any]], pages: list[dict[str, Any]],
    told: details.Levels, words: search.Tokens | None,
) -> dict[str, Any]:  # fmt: skip
    """What the page knows before it loads anything else."""
    summary = found.summary
    strongest = np.array(sorted({place for page in pages for place in page.get("strongest", [])
                                 if told.values[place]}), dtype=np.int64)  # fmt: skip
    return {
        "version": universal_ray.__version__,
        "blocks": [vars(block) for block in found.blocks],
        "neurons": found.neurons,
        "unit": unit(summary),
        "no_neurons": no_neurons(summary),
        "chance": chance(summary),
        "columns": where,
        "per_file": details.PER_FILE,
        "one_each": ONE_EACH,
        "levels": {"slim": told.count(details.SLIM), "full": told.count(details.FULL)},
        "words": words is not None,
        "tables": list(found.tables),
        "missing": found.missing,
        "descriptions": summary.get("descriptions"),
        "not_measured": _not_measured(found),
        "threshold": summary.get("threshold"),
        "tokens": summary.get("tokens"),
        "tokens_kept": summary.get("tokens_kept"),
        "subsets": summary.get("profile", {}).get("subsets"),
        "features": summary.get("profile", {}).get("features"),
        "tokens_intervened": summary.get("roles", {}).get("tokens_intervened"),
        "models_by_role": summary.get("roles", {}).get("models"),
        "roles_not_measured": summary.get("roles", {}).get("not_measured"),
        "followed": summary.get("followed"),
        "pages": pages,
        "strongest": vars(details.records(found, told, strongest)),
    }  # fmt: skip


def _not_measured(found: Gathered) -> dict[str, dict[str, str]]:
    """What each model lacks, and why."""
    told: dict[str, dict[str, str]] = {}
    for name in ("neurons", "statistics", "roles"):
        table = found.tables.get(name)
        if table is None or "not_measured" not in table.column_names:
            continue
        for block in found.blocks:
            rows = np.flatnonzero(found.places(name) == block.start)
            if len(rows):
                entries = table["not_measured"][int(rows[0])].as_py() or []
                told.setdefault(block.model, {}).update(dict(entries))
    return told


def _page(found: Gathered, pages: list[dict[str, Any]]) -> str:
    """The door, filled in by a template that escapes whatever it is given."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    names = ", ".join(page["label"] for page in pages)
    title = f"universal neurons of {names}" if names else "universal neurons"
    return environment.from_string(_static("index.html")).render(title=title) + "\n"


def _app() -> str:
    """The parts of the page's code, one after the other, in one scope."""
    parts = "\n".join(_static(f"{name}.js") for name in _SCRIPTS)
    return f'"use strict";\n(() => {{\n{parts}}})();\n'


def _static_names() -> list[str]:
    return ["index.html", "style.css", *(f"{name}.js" for name in _SCRIPTS)]


def _static(name: str) -> str:
    return (resources.files(__package__) / "static" / name).read_text(encoding="utf-8")
