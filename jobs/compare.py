"""Hold a run's neurons against a published table: published=FILE.csv, run.dir=RUN."""

from dataclasses import dataclass, field
from pathlib import Path

from universal_ray.cli.options import entry
from universal_ray.config.study import RunConfig


@dataclass(kw_only=True)
class Compare:
    published: str = "???"
    """CSV with the columns of the authors' `universal.csv`."""
    model: str | None = None
    """Which reference model; null where the run has one."""
    threshold: float = 0.5
    picture: str = "compare.svg"
    run: RunConfig = field(default_factory=RunConfig)


@entry("compare", Compare)
def main(job: Compare) -> None:
    from universal_ray.report.compare import compared, draw, rows
    from universal_ray.report.screen import console, show_rows
    from universal_ray.storage.store import Store

    found, flipped, own, published = compared(
        Store(job.run.dir), job.published, job.model, job.threshold
    )
    out = console()
    heads = ("column", "neurons", "r", "median apart", "most apart", "where")
    show_rows(out, f"{job.run.dir} beside {job.published}", heads, rows(found))
    for what, neurons in (("lost", flipped.lost), ("gained", flipped.gained)):
        some = ", ".join(f"{layer}.{neuron}" for layer, neuron in list(neurons)[:10])
        out.print(f"{len(neurons)} neurons {what} at the threshold{': ' if some else ''}{some}")
    draw(found, own, published, Path(job.picture))
    out.print(job.picture)


if __name__ == "__main__":
    main()
