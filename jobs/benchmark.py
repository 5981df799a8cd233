"""Measure this project's loop beside what it replaces, and how exact it is, on a CPU or a GPU."""

from dataclasses import dataclass, field
from pathlib import Path

from universal_ray.cli.options import entry
from universal_ray.config.study import Device, ForwardType, Policy, check_positive


@dataclass(kw_only=True)
class ShapeConfig:
    layers: int
    width: int
    seeds: int
    tokens: int
    context: int


@dataclass(kw_only=True)
class ExactnessConfig:
    """As `universal_ray.benchmark.exactness.Extent`."""

    layers: int
    width: int
    tokens: int
    seeds: int
    text: int
    rotations: int


@dataclass(kw_only=True)
class Benchmark:
    device: Device
    threads: int
    policy: Policy | None
    forward: ForwardType
    output: str
    """Where results.json, table.md and the plot go."""
    sections: list[str]
    shape: ShapeConfig = field(default_factory=lambda: ShapeConfig(
        layers=4, width=1024, seeds=5, tokens=0, context=128))
    naive_tokens: int
    """Tokens the naive scheme gets: its time is proportional to them."""
    exactness: ExactnessConfig = field(default_factory=lambda: ExactnessConfig(
        layers=0, width=0, tokens=0, seeds=0, text=0, rotations=0))


@entry("benchmark", Benchmark)
def main(job: Benchmark) -> None:
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
        show(found, Path(job.output))
    print(f"results.json, table.md and the picture are in {job.output}")


if __name__ == "__main__":
    main()
