"""Plans, progress and results on a terminal, or as plain lines where there is none."""

import logging
import os
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any

import pyarrow.compute as pc
from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn
from rich.progress import Progress as Bars
from rich.table import Table

from universal_ray.report.run import Run
from universal_ray.report.units import chance, no_neurons, unit, worded
from universal_ray.runtime.progress import Progress, remaining
from universal_ray.storage.store import Store

log = logging.getLogger(__name__)

LINE_EVERY = 10.0
"""Seconds between log lines where there is no terminal."""
STRONGEST = 10
WIDTH = 100
"""Columns of a log, where nobody says how many."""


def console(stderr: bool = False) -> Console:
    """The terminal; where there is none, plain text as wide as COLUMNS says.

    Names of models, paths and texts are shown as they are: nothing in brackets or between colons
    is read as markup, in lines, titles, heads or cells.
    """
    plain: dict[str, Any] = {"stderr": stderr, "markup": False, "emoji": False}
    found = Console(**plain)
    if found.is_terminal or os.environ.get("COLUMNS", "").isdigit():
        return found
    return Console(**plain, width=WIDTH)


def show_plan(out: Console, rows: list[tuple[str, str]], title: str) -> None:
    """The plan, before anything runs."""
    table = Table(title=title, show_header=False, title_justify="left")
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for row in rows:
        table.add_row(*row)
    out.print(table)


class Worded:
    """A console for sentences and tables on neurons, about units that may be called otherwise."""

    def __init__(self, out: Console, called: str):
        self._out, self._called = out, called

    def print(self, told: str | Table) -> None:
        if isinstance(told, Table):
            for each in (told, *told.columns):
                for name in ("title", "caption", "header"):
                    if isinstance(text := getattr(each, name, None), str):
                        setattr(each, name, worded(text, self._called))
        self._out.print(worded(told, self._called) if isinstance(told, str) else told)


def show_rows(
    out: Console | Worded, title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]
) -> None:
    """Rows of figures under their heads."""
    table = Table(title=title, title_justify="left")
    for place, (head, *cells) in enumerate(zip(heads, *rows, strict=True)):
        # Names stay whole, and no column becomes narrower than its longest word.
        longest = max(map(len, " ".join([head, *cells]).split()))
        table.add_column(head, justify="right", no_wrap=place == 0, min_width=longest)
    for row in rows:
        table.add_row(*row)
    out.print(table)


class Watcher:
    """Progress with rate and remaining time: a bar on a terminal, else a line now and then."""

    def __init__(self, out: Console):
        self._out = out
        self._bar = Bars(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%  {task.fields[note]}", markup=False),
            console=out,
        )
        self._tasks: dict[str, TaskID] = {}
        self._last = 0.0

    def __enter__(self) -> "Watcher":
        if self._out.is_terminal:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def __call__(self, progress: Progress) -> None:
        batch = progress.batches[-1]
        rate, what = batch.rate, "tokens/s" if batch.tokens_total else "tasks/s"
        note = f"{rate:,.0f} {what}" if rate >= 10 else f"{rate:.1f} {what}"
        note += f", {remaining(progress.state(), time.time())}"
        done, total = batch.tasks_done, batch.tasks_total
        if self._out.is_terminal:
            if batch.name not in self._tasks:
                self._tasks[batch.name] = self._bar.add_task(batch.name, total=total, note=note)
            self._bar.update(self._tasks[batch.name], completed=done, note=note)
        elif done == total or time.monotonic() - self._last > LINE_EVERY:
            self._last = time.monotonic()
            self._out.print(f"{batch.name}: {done:,} of {total:,}, {note}")


UNDEFINED, UNMEASURED = "-", "not measured"


def figure(value: float | int | None, form: str = ".3f", missing: str = UNDEFINED) -> str:
    """A number as people read it; null and NaN are no number."""
    return missing if value is None or value != value else format(value, form)


def count(value: int | None) -> str:
    """How many; null is not none."""
    return figure(value, ",", UNMEASURED)


def show_results(out: Console, store: Store) -> None:
    """Shares by layer and the strongest universal neurons of every reference model.

    Of models followed through revisions, what stays universal instead.
    """
    run = Run(store)
    summary = run.summary
    if told := no_neurons(summary):
        out.print(told)
    words = Worded(out, unit(summary))
    for followed in summary.get("followed", []):
        words.print(_persistence(followed))
    if "followed" not in summary:
        _show_references(words, run, summary)
    kept, tokens = (f"{summary[name]:,}" for name in ("tokens_kept", "tokens"))
    segments = summary.get("counted") == "segments"  # earlier versions, which do not say it: tokens
    out.print(f"{kept} segments of {tokens} tokens" if segments else f"{kept} of {tokens} tokens",
              "counted")  # fmt: skip
    for path in store.list("tables"):
        if path.endswith("parquet") or path.endswith("summary.json"):
            out.print(f"{store.url.rstrip('/')}/{path}", soft_wrap=True)


def _show_references(out: Worded, run: Run, summary: dict[str, Any]) -> None:
    neurons = run.table("neurons")
    partners = run.table(
        "pairs", ["model", "other", "layer", "neuron", "max_corr", "max_layer", "max_neuron"],
    )
    for reference in summary["references"]:
        out.print(_layers(reference, summary))
        if reference["published"]:
            told = [
                f"{count(where['universal'])} universal, {figure(where['universal_share'], '.2%')}"
                for where in (reference["published"], reference)
            ]
            out.print(f"published: {told[0]}; here: {told[1]}")
        out.print(_strongest(reference, summary, neurons, partners))
        if "profile" in reference:
            _show_families(out, reference)
    if "roles" in summary:
        _show_roles(out, summary["roles"])
    for told in summary.get("descriptions", []):
        _show_descriptions(out, told)


def _show_families(out: Worded, reference: dict[str, Any]) -> None:
    """Which share of the universal neurons a feature explains, by family, beside the others."""
    families = reference["profile"]["families"]
    rows = [("any family", families["explained"]), *families["by_family"].items()]
    show_rows(
        out,
        "universal neurons that one feature explains, and other neurons of the same layers",
        ("family", "universal", "share", "others", "gain", "95 % interval"),
        [
            (
                name, _part(row), figure(row["share"], ".1%"),
                figure(row["share_of_others"], ".1%"), figure(row["gain"], "+.1%"),
                f"{figure(row['gain_low'], '+.1%')} to {figure(row['gain_high'], '+.1%')}",
            )
            for name, row in rows
        ],
    )
    agreement = reference["profile"]["agreement"]
    for who, told in (("universal", agreement["universal"]), ("other", agreement["others"])):
        out.print(
            f"{who} neurons with a family: in {count(told['pairs'])} pairs with their partners "
            f"{figure(told['same'], '.1%')} share it, {figure(told['chance'], '.1%')} by chance"
        )


def _part(row: dict[str, Any]) -> str:
    """Members of a set of neurons."""
    if row["members"] is None:
        return UNMEASURED
    return f"{count(row['members'])} of {count(row['neurons'])}"


def _show_roles(out: Worded, roles: dict[str, Any]) -> None:
    """How many neurons have each role, in all models and among universal neurons, and what
    ablating these does.
    """
    for reference in roles["references"]:
        name = reference["model"]
        mine = next(told for told in roles["models"] if told["model"] == name)
        counts = mine["roles"]
        rows = []
        for role, overlap in reference["overlap"].items():
            if overlap is None:
                rows.append((role, *[UNMEASURED] * 5))
                continue
            every = [told["roles"][role] for told in roles["models"]]
            known = [each["neurons"] for each in every if each and each["neurons"] is not None]
            rows.append((
                role, count(counts[role]["neurons"]),
                ", ".join(count(each) for each in counts[role]["by_layer"]),
                f"{count(min(known))} to {count(max(known))}" if known else UNMEASURED,
                _part(overlap), figure(overlap["gain"], "+.1%"),
            ))
        show_rows(
            out,
            f"{name}: neurons by role",
            ("role", "neurons", "by layer", "in all models", "universal", "gain on peers"),
            rows,
        )
        for rule, first in mine["entropy_by_rule"].items():
            neurons = [
                f"{told['layer']}.{told['neuron']} ({figure(told['vocab_var'], '.5f')}, "
                f"{figure(told['null_share'])}{', candidate' if told['candidate'] else ''})"
                for told in first
            ]
            out.print(f"{rule}, with vocab_var and null_share: {', '.join(neurons)}")
        for what, reason in (mine["not_measured"] | reference["not_measured"]).items():
            out.print(f"{UNMEASURED}, {what}: {reason}")
        for told in reference["sets"] or []:
            if told["layer"] is None and told["at"] == "mean":
                loss = told["loss_difference"]
                ours, random, apart, low, high = (
                    figure(value, "+.4f")
                    for value in (
                        told["loss_universal"]["mean"], told["loss_random"]["mean"],
                        loss["mean"], loss["low"], loss["high"],
                    )
                )
                out.print(
                    f"loss with the {count(told['neurons'])} universal neurons at their means: "
                    f"{ours} nats, random ones of the same layers {random}, difference {apart} "
                    f"(95 %: {low} to {high})"
                )


def _show_descriptions(out: Worded, told: dict[str, Any]) -> None:
    """Whether the words of universal neurons hold for their partners more than those of others."""
    for who, row in (("universal", told["universal"]), ("other", told["others"])):
        score, partners, random, gain = (
            figure(row[name], ".2f") for name in ("score", "transfer", "transfer_control", "gain")
        )
        out.print(
            f"{told['model']}, {who} neurons: words hold for "
            f"{count(row['described'])} of {count(row['neurons'])}, r {score} of themselves, "
            f"{partners} of their partners, {random} of random neurons, gain {gain} (95 %: "
            f"{figure(row['gain_low'], '.2f')} to {figure(row['gain_high'], '.2f')})"
        )


def _persistence(followed: dict[str, Any]) -> Table:
    """How many neurons are universal at each revision, and which share of them is at another."""
    revisions = followed["revisions"]
    table = Table(
        title=f"{followed['model']}: universal neurons by revision, in all and by layer, "
        "and their share that is universal at another revision",
        title_justify="left",
    )
    layers = followed["layers"]
    heads = ["revision", "universal", *(f"layer {row['layer']}" for row in layers)]
    for head in [*heads, *(f"at {revision}" for revision in revisions)]:
        table.add_column(head, justify="right")
    for place, revision in enumerate(revisions):
        shares = [figure(share, ".0%") for share in followed["persistence"][place]]
        counts = [count(row["universal"][place]) for row in [followed, *layers]]
        table.add_row(revision, *counts, *shares)
    return table


def _layers(reference: dict[str, Any], summary: dict[str, Any]) -> Table:
    others = ", ".join(reference["others"])
    table = Table(
        title=f"{reference['model']} against {others}: neurons with excess correlation "
        f"above {summary['threshold']}",
        title_justify="left",
    )
    heads = ("layer", "neurons", "universal", "share", "best r", chance(summary), "excess")
    for head in heads:
        table.add_column(head, justify="right")
    for row in [*reference["layers"], {**reference, "layer": "all"}]:
        if row["layer"] == "all":
            table.add_section()
        table.add_row(
            str(row["layer"]), count(row["neurons"]), count(row["universal"]),
            figure(row["universal_share"], ".2%"), figure(row["mean_corr"]),
            figure(row["mean_baseline"]), figure(row["mean_excess"]),
        )
    reasons = reference["reasons_without_correlation"]
    table.caption = "\n".join(
        f"neurons without a correlation: {count(many)}, {why}" for why, many in reasons.items()
    ) or None
    return table


def _strongest(
    reference: dict[str, Any], summary: dict[str, Any], neurons: Any, partners: Any
) -> Table:
    mine = neurons.filter(pc.equal(neurons["model"], reference["model"]))
    mine = mine.filter(pc.is_valid(mine["excess_corr"]))
    order = pc.sort_indices(mine, [("excess_corr", "descending")])
    best = mine.take(order[:STRONGEST]).to_pylist()
    table = Table(title="strongest, with their partner in every other seed", title_justify="left")
    for head in ("neuron", "excess", "best r", chance(summary)):
        table.add_column(head, justify="right", no_wrap=True)
    table.add_column("partners", overflow="fold")
    found = partners.filter(pc.equal(partners["model"], reference["model"]))
    for row in best:
        here = found.filter(
            pc.and_(
                pc.equal(found["layer"], row["layer"]), pc.equal(found["neuron"], row["neuron"])
            )
        )
        by_other = {entry["other"]: entry for entry in here.to_pylist()}
        partners_of_it = (_partner(by_other[name]) for name in reference["others"])
        table.add_row(
            f"{row['layer']}.{row['neuron']}", figure(row["excess_corr"]),
            figure(row["mean_corr"]), figure(row["mean_baseline"]), "  ".join(partners_of_it),
        )
    return table


def _partner(row: dict[str, Any]) -> str:
    """By its id, with its correlation: one word, which no line breaks."""
    if row["max_corr"] is None:
        return f"{row['other']}:{UNDEFINED}"
    name = f"{row['other']}:{row['max_layer']}.{row['max_neuron']}"
    return f"{name}({row['max_corr']:.2f})"
