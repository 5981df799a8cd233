"""The commands of `universal-ray`, which `jobs/*.py` are too, and their options."""

import inspect
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path

import universal_ray
from universal_ray.cli.entry import entry
from universal_ray.cli.study import CHECKING, StudyCommand, make
from universal_ray.config.choice import choose
from universal_ray.config.numbers import check_positive
from universal_ray.config.study import Device, ForwardType, Policy, RunConfig
from universal_ray.errors import ConfigurationError
from universal_ray.runtime.ending import guarded


@dataclass(kw_only=True)
class Status:
    run: RunConfig = field(default_factory=RunConfig)


@dataclass(kw_only=True)
class Compare:
    published: str = "???"
    """CSV with the columns of the authors' `universal.csv`."""
    model: str | None = None
    """Which reference model; null where the run has one."""
    threshold: float = 0.5
    """Neurons whose excess correlation is above this are compared as universal ones."""
    picture: str = "compare.svg"
    """Where the scatter plots go."""
    run: RunConfig = field(default_factory=RunConfig)


@dataclass(kw_only=True)
class ShapeConfig:
    layers: int
    width: int
    """Neurons of a layer."""
    seeds: int
    """Models, the reference among them."""
    tokens: int
    context: int
    """Tokens of a row."""


@dataclass(kw_only=True)
class ExactnessConfig:
    """As `universal_ray.benchmark.exactness.Extent`."""

    layers: int
    width: int
    """Neurons of a layer."""
    tokens: int
    """Made-up activations of each neuron."""
    seeds: int
    """Models, the reference among them."""
    text: int
    """Tokens of the embedded text that forward passes are compared on."""
    rotations: int


@dataclass(kw_only=True)
class Benchmark:
    device: Device
    threads: int
    """CPU threads."""
    policy: Policy | None
    """By default `fp32` on a CPU, `fp16` on a GPU."""
    forward: ForwardType
    output: str
    """Where results.json, table.md and the plot go."""
    sections: list[str]
    """What is measured."""
    shape: ShapeConfig = field(default_factory=lambda: ShapeConfig(
        layers=4, width=1024, seeds=5, tokens=0, context=128))
    """Of the study that is timed beside the naive scheme."""
    naive_tokens: int
    """Tokens the naive scheme gets: its time is proportional to them."""
    exactness: ExactnessConfig = field(default_factory=lambda: ExactnessConfig(
        layers=0, width=0, tokens=0, seeds=0, text=0, rotations=0))
    """Of what the section `exactness` makes up."""


@entry(
    "config", StudyCommand,
    ("corpus.tokens=25600 dry_run=true", "what the default study would take on less text"),
    ("experiment=gpt2_small cluster.address=auto run.dir=/shared/gpt2_small",
     "the paper's study on the cluster that this is a job of"),
)  # fmt: skip
def run(job: StudyCommand) -> None:
    """Make a study, or the stages of it that are asked for: which neurons are universal, what they
    respond to and what they do. The same command again goes on from what its run.dir holds.
    """
    print(CHECKING, flush=True)
    from universal_ray.report.screen import console, show_results
    from universal_ray.storage.store import Store

    out = console()
    page = make(job.study, job.stages, out, dry=job.dry_run)
    if not job.dry_run:
        show_results(out, Store(job.run.dir))
    if page is not None:
        out.print(f"{page}: open it in a browser, by a double click", soft_wrap=True)


@entry(
    "status", Status,
    ("run.dir=runs/tiny", "of the default study"),
    ("run.dir=s3://bucket/run", "of one in an object store"),
)
def status(job: Status) -> None:
    """What a run has done, does and how fast, from the files in its run.dir alone."""
    from universal_ray.report.screen import console, show_plan
    from universal_ray.report.status import describe_run
    from universal_ray.storage.store import Store

    store = Store(job.run.dir)
    show_plan(console(), describe_run(store), store.url)


@entry(
    "compare", Compare,
    ("run.dir=runs/gpt2_medium published=universal.csv", "a run of one reference model"),
    ("run.dir=runs/gpt2_medium published=universal.csv threshold=0.4", "at another threshold"),
)
def compare(job: Compare) -> None:
    """Hold a run's neurons against a published table: published=FILE.csv, run.dir=RUN."""
    from universal_ray.report.compare import HEADS, compared, draw, rows
    from universal_ray.report.screen import console, show_rows
    from universal_ray.storage.store import Store

    found = compared(Store(job.run.dir), job.published, job.model, job.threshold)
    out = console()
    show_rows(out, f"{job.run.dir} beside {job.published}", HEADS, rows(found.columns))
    out.print("apart: root mean square of the differences, over the spread of the published column")
    for note in found.notes:
        out.print(note)
    for what, neurons in (("lost", found.flips.lost), ("gained", found.flips.gained)):
        some = ", ".join(f"{layer}.{neuron}" for layer, neuron in list(neurons)[:10])
        out.print(f"{len(neurons)} neurons {what} at the threshold{': ' if some else ''}{some}")
    draw(found.columns, found.own, found.published, Path(os.path.expanduser(job.picture)))
    out.print(job.picture)


@entry(
    "benchmark", Benchmark,
    ("device=cuda shape.layers=12 shape.width=3072 shape.tokens=1048576", "how fast, on a GPU"),
    ("sections=[exactness] output=runs/exactness", "how exact, instead of how fast"),
)
def benchmark(job: Benchmark) -> None:
    """Measure this project's loop beside what it replaces, and how exact it is, on a CPU or GPU."""
    from universal_ray.benchmark.exactness import Extent
    from universal_ray.benchmark.loop import Means, Shape
    from universal_ray.benchmark.report import run, show
    from universal_ray.planning.capacity import POLICY

    counts = {"threads": job.threads, "naive_tokens": job.naive_tokens}
    counts |= {f"shape.{name}": value for name, value in vars(job.shape).items()}
    counts |= {f"exactness.{name}": value for name, value in vars(job.exactness).items()}
    check_positive(counts)
    means = Means(job.device, job.threads, job.policy or POLICY[job.device], job.forward)
    extent = Extent(**vars(job.exactness))
    for found in run(job.sections, Shape(**vars(job.shape)), means, job.naive_tokens, extent):
        show(found, Path(os.path.expanduser(job.output)))
    print(f"results.json, table.md and the picture are in {job.output}")


COMMANDS = {"run": run, "status": status, "compare": compare, "benchmark": benchmark}


def main() -> None:
    """`universal-ray COMMAND [options]`: the command takes the rest of the line as its own."""
    name, *options = sys.argv[1:] or ["--help"]
    with guarded():
        if name in ("-h", "--help"):
            print(_usage())
        elif name == "--version":
            print(universal_ray.__version__)
        elif name in COMMANDS:
            sys.argv[1:] = options
            COMMANDS[name]()
        else:
            raise ConfigurationError(f"{name} is no command: {choose(name, COMMANDS)}")


def _usage() -> str:
    told = {name: " ".join((inspect.getdoc(body) or "").split()) for name, body in COMMANDS.items()}
    return "\n".join([
        "Which neurons do independently trained language models share, and what do they do?",
        "",
        "usage: universal-ray COMMAND [GROUP=CHOICE ...] [KEY=VALUE ...]",
        "",
        *(f"  {name:10} {text.split(': ')[0].rstrip('.')}" for name, text in told.items()),
        "",
        "`universal-ray COMMAND --help` tells the options of a command. Without any,",
        "`universal-ray run` makes the default study, of five small embedded models, in minutes.",
    ])
