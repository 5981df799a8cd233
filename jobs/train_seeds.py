"""Train the embedded seeds, or more of them: one seed per Ray task; the same command goes on."""

from universal_ray.runtime.ending import guarded

with guarded():
    import logging
    from dataclasses import dataclass, field
    from pathlib import Path
    from typing import Any

    from universal_ray.cli.entry import entry
    from universal_ray.config.study import ClusterConfig, Device, check_cluster
    from universal_ray.errors import ConfigurationError
    from universal_ray.testbed.settings import Settings


@dataclass(kw_only=True)
class TrainSeeds:
    seeds: list[str]
    """Names of letters and digits; a name decides its random seed."""
    output: str
    """Where checkpoints, models and records go: a path that every node can reach."""
    export: str | None
    """Where finished models, held-out tokens and records are copied to; null: nowhere."""
    training: Settings = field(default_factory=Settings)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)


def train(settings: Settings, name: str, output: Path, device: str, threads: int) -> dict[str, Any]:
    import torch

    from universal_ray.testbed.training import train_seed

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(threads)
    return train_seed(settings, name, output, device)


@entry(
    "train_seeds", TrainSeeds,
    ("seeds=[f,g] cluster.workers=2", "two more seeds, on this machine"),
    ("training.steps=100 training.keep=[50,100] output=runs/short", "a short training"),
)  # fmt: skip
def main(job: TrainSeeds) -> None:
    output, device, threads = Path(job.output).resolve(), job.cluster.device, job.cluster.threads
    if len(set(job.seeds)) < len(job.seeds) or not all(name.isalnum() for name in job.seeds):
        raise ConfigurationError(f"seeds={job.seeds} must be distinct, of letters and digits")
    check_cluster(job.cluster)
    import ray

    from universal_ray.runtime.cluster import cluster, results
    from universal_ray.testbed import text
    from universal_ray.testbed.training import export, prepare

    with cluster(job.cluster):
        prepare(job.training, output, text.gather(job.training.text))
        task: Any = ray.remote(train).options(num_cpus=threads, num_gpus=int(device is Device.cuda))
        waiting, running = list(job.seeds), list[Any]()
        while waiting or running:
            while waiting and len(running) < job.cluster.workers:
                name = waiting.pop(0)
                running.append(task.remote(job.training, name, output, device.value, threads))
            done, running = ray.wait(running)
            (record,) = results(done)
            print(f"seed {record['name']}: {record['tokens_seen']:,} tokens, held-out loss "
                  f"{record['held_out_loss']:.3f} nats, {record['seconds']} s, in {output}")
    if job.export:
        export(output, job.seeds, Path(job.export))


if __name__ == "__main__":
    main()
