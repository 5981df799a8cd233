"""Train the embedded seeds, or more of them: one seed per Ray task; the same command goes on."""

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import hydra
import ray
import torch
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

from universal_ray.errors import ConfigurationError, ResourceError
from universal_ray.job import guarded
from universal_ray.study import ClusterConfig, Device
from universal_ray.testbed import text
from universal_ray.testbed.training import Settings, export, prepare, train_seed


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


schema = OmegaConf.structured(TrainSeeds)
OmegaConf.set_readonly(schema.training, False)  # as the dataclass is frozen
ConfigStore.instance().store(name="train_seeds_schema", node=schema)


@ray.remote
def train(settings: Settings, name: str, output: Path, device: str, threads: int) -> dict[str, Any]:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(threads)
    return train_seed(settings, name, output, device)


def connect(cluster: ClusterConfig) -> None:
    local = {"num_cpus": cluster.workers * cluster.threads, "include_dashboard": False}
    ray.init(**({"address": cluster.address} if cluster.address else local))
    gpus = int(cluster.device is Device.cuda)
    has = ray.cluster_resources()
    if has.get("CPU", 0) < cluster.threads or has.get("GPU", 0) < gpus:
        asked = f"{cluster.threads} CPUs and {gpus} GPUs"
        raise ResourceError(f"a seed asks for {asked}, more than the cluster has: {has}")


@hydra.main(version_base="1.3", config_path="../conf", config_name="train_seeds")
def main(config: DictConfig) -> None:
    job = cast(TrainSeeds, OmegaConf.to_object(config))
    output, device, threads = Path(job.output).resolve(), job.cluster.device, job.cluster.threads
    with guarded():
        if len(set(job.seeds)) < len(job.seeds) or not all(name.isalnum() for name in job.seeds):
            raise ConfigurationError(f"seeds={job.seeds} must be distinct, of letters and digits")
        connect(job.cluster)
        prepare(job.training, output, text.gather())
        task = train.options(num_cpus=threads, num_gpus=int(device is Device.cuda))
        waiting, running = list(job.seeds), list[ray.ObjectRef]()
        while waiting or running:
            while waiting and len(running) < job.cluster.workers:
                name = waiting.pop(0)
                running.append(task.remote(job.training, name, output, device.value, threads))
            done, running = ray.wait(running)
            record = ray.get(done[0])
            print(f"seed {record['name']}: {record['tokens_seen']:,} tokens, held-out loss "
                  f"{record['held_out_loss']:.3f} nats, {record['seconds']} s, in {output}")
        if job.export:
            export(output, job.seeds, Path(job.export))


if __name__ == "__main__":
    main()
