"""The benchmark's sections, run one after the other, as JSON, as tables and as one picture."""

import json
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

import torch

from universal_ray.benchmark import exactness, features, sections, site, sweep
from universal_ray.benchmark.exactness import Extent
from universal_ray.benchmark.loop import Means, Shape
from universal_ray.benchmark.sections import Row
from universal_ray.config.choice import choose
from universal_ray.config.study import Device
from universal_ray.errors import ConfigurationError
from universal_ray.planning.capacity import BATCH, LEAST_BATCHES, size

SMALL = Shape(layers=2, width=512, seeds=2, tokens=65_536)
"""What the growth of cost is measured on."""
STAGES = ("load", "forward", "operands", "products", "copy", "write", "fold", "reduce")
Found = dict[str, list[Row]]


def run(
    names: list[str], shape: Shape, means: Means, naive_tokens: int, extent: Extent
) -> Iterator[Found]:
    """Run the sections named, giving all there is after each of them.

    Raises ConfigurationError for a name that is none, before anything runs.
    """
    torch.set_num_threads(means.threads)
    known = _sections(shape, means, naive_tokens, extent)
    for name in names:
        if name not in known:
            raise ConfigurationError(f"sections has {name}, which is none: {choose(name, known)}")
    found: Found = {"machine": [_machine(means)]}
    for name in names:
        print(f"{name} …", flush=True)
        began = time.monotonic()
        found[name] = known[name]()
        print(f"{name}: {time.monotonic() - began:.0f} s", flush=True)
        yield found


def _sections(
    shape: Shape, means: Means, naive_tokens: int, extent: Extent
) -> dict[str, Callable[[], list[Row]]]:
    # One unit as a study has it, whose writing nothing hides.
    tokens = LEAST_BATCHES[means.device] * BATCH[means.device][means.policy]
    gpt2_small = Shape(12, 3072, seeds=2, tokens=tokens, context=shape.context)
    counts = [(1, means.threads)]
    if means.device is Device.cpu:
        counts = [(1, 1), (means.threads, 1), (1, means.threads)]
    return {
        "schemes": lambda: [sections.schemes(shape, means, naive_tokens)],
        "pair": lambda: [sections.loop(gpt2_small, means)],
        "libraries": lambda: sections.libraries(replace(shape, tokens=4096), means),
        "tokens": lambda: sections.growth(
            [replace(SMALL, tokens=2**k) for k in (16, 18, 20)], means
        ),
        "neurons": lambda: sections.growth(
            [replace(SMALL, width=256), SMALL, replace(SMALL, width=1024),
             replace(SMALL, layers=4, width=1024)], means
        ),
        "seeds": lambda: sections.growth([replace(SMALL, seeds=n) for n in (2, 3, 5)], means),
        "features": lambda: [features.beside(tokens=20_480, neurons=768, features=200)],
        "sweep": lambda: [sweep.beside(replace(gpt2_small, seeds=1, width=1024, tokens=0), means)],
        "workers": lambda: sections.workers(replace(SMALL, tokens=2**19), means, counts),
        "report": lambda: [site.measured(extent) for extent in (site.SMALL, site.LARGE)],
        "exactness": lambda: [*exactness.policies(extent, means),
                              *exactness.forward_types(extent, means)],
    }


def _machine(means: Means) -> Row:
    name = platform.processor() or platform.machine()
    if means.device is Device.cuda:
        name = torch.cuda.get_device_name()
    elif (cpu := Path("/proc/cpuinfo")).exists():
        models = [line for line in cpu.read_text().splitlines() if line.startswith("model name")]
        name = models[0].partition(":")[2].strip() if models else name
    return {
        "date": time.strftime("%Y-%m-%d"),
        "device": name,
        "threads": means.threads,
        "torch": torch.__version__,
        "policy": means.policy.value,
        "forward": means.dtype.value,
    }


def show(found: Found, folder: Path) -> None:
    """Write results.json, table.md and what there is to draw (speed.svg) of all sections so far;
    print the newest.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(found, indent=1) + "\n")
    (folder / "table.md").write_text("\n\n".join(tables(found)) + "\n")
    draw(found, folder / "speed.svg")
    newest = list(found)[-1]
    print("\n\n".join(tables({name: found[name] for name in ("machine", newest)})), flush=True)


def tables(found: Found) -> list[str]:
    """Markdown tables of what was measured."""
    texts = [", ".join(f"{name} {value}" for name, value in found["machine"][0].items())]
    for row in found.get("schemes", []):
        texts.append(_grid(
            ["scheme", f"seconds for {row['tokens']:,} tokens, {row['shape']}, with baseline"],
            [["this project", f"{row['total_seconds']:.1f}"],
             ["naive streaming", f"{row['naive_total_seconds']:.1f} "
              f"({row['naive_tokens']:,} tokens measured)"],
             ["ratio", f"{row['ratio']:.2f}"]],
        ))
    loops = [*found.get("schemes", []), *found.get("pair", [])]
    if loops:
        texts.append(_grid(
            ["loop", "plain product TFLOP/s", "matmul part", "whole loop", "peak memory"],
            [[row["shape"], f"{row['plain_tflops']:.3g}", f"{row['products_share']:.0%}",
              f"{row['loop_share']:.0%}", size(row["peak_bytes"])]
             for row in loops],
        ))
        texts.append(_grid(
            ["seconds in", *STAGES],
            [[row["shape"], *(f"{row['seconds'].get(stage, 0):.1f}" for stage in STAGES)]
             for row in loops],
        ))
    if "libraries" in found:
        texts.append(_rows(found["libraries"]))
    plain = ("tokens", "neurons", "seeds", "features", "sweep", "workers", "report")
    texts += [_rows(found[name]) for name in plain if name in found]
    for title, rows in groupby(found.get("exactness", []), lambda row: row["table"]):
        untitled = [{k: v for k, v in row.items() if k != "table"} for row in rows]
        texts.append(f"{title.capitalize()}:\n\n{_rows(untitled)}")
    return texts


def _rows(rows: list[Row]) -> str:
    heads = list(rows[0])
    return _grid([head.replace("_", " ") for head in heads],
                 [[_figure(row[head]) for head in heads] for row in rows])


def _figure(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}" if value < 1000 else f"{value:,.0f}"
    if value is None:
        return "not measured"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _grid(heads: list[str], rows: list[list[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def draw(found: Found, path: Path) -> None:
    """Where the time goes, and how cost grows, as far as it was measured."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "universal_ray"  # the same figures, the same file
    from matplotlib import pyplot

    loops = [*found.get("schemes", []), *found.get("pair", [])]
    grown = [name for name in ("tokens", "neurons", "seeds") if name in found]
    panels = len(grown) + bool(loops) + ("workers" in found)
    if not panels:
        return
    figure, axes = pyplot.subplots(1, panels, figsize=(3.6 * panels, 3.2), squeeze=False,
                                   layout="constrained")
    left = list(axes[0])
    if loops:
        panel = left.pop(0)
        for place, row in enumerate(loops):
            begin = 0.0
            for index, stage in enumerate(STAGES):
                share = row["seconds"].get(stage, 0) / sum(row["seconds"].values())
                panel.bar(place, share, bottom=begin, color=f"C{index}",
                          label=stage if place == 0 else None)
                begin += share
        panel.set_xticks(range(len(loops)), [row["shape"].replace(" of ", "\nof ")
                                             for row in loops], fontsize=7)
        panel.set_title("where the time goes", fontsize=9)
        panel.legend(fontsize=6, loc="lower right")
    if "workers" in found:
        panel, rows = left.pop(), found["workers"]
        places = [f"{row['workers']} × {row['threads']}" for row in rows]
        panel.bar(places, [row["tokens_per_second"] / 1000 for row in rows])
        panel.set_xlabel("workers × threads", fontsize=8)
        panel.set_title("thousand tokens per second", fontsize=9)
    for panel, name in zip(left, grown, strict=True):
        rows = found[name]
        costs = [row["microseconds_per_token"] for row in rows]
        panel.plot([row[name] for row in rows], costs, "o-")
        if name != "seeds":
            panel.set_xscale("log", base=2)
        panel.set_ylim(0, 1.1 * max(costs))
        panel.set_xlabel(name, fontsize=8)
        panel.set_title("µs of sums per token", fontsize=9)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
