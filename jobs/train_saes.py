"""Train small sparse autoencoders on models, one for each layer, saved as SAELens does."""

from universal_ray.runtime.ending import guarded

with guarded():
    import logging
    from dataclasses import dataclass, field
    from pathlib import Path

    from universal_ray.cli.entry import entry
    from universal_ray.errors import ConfigurationError
    from universal_ray.testbed.settings import CoderSettings


@dataclass(kw_only=True)
class TrainSaes:
    of: list[str]
    """Directories, or hub `id[@revision]`; the last part of a name is that of its folder."""
    tokens: str
    """A directory of tokenised rows, as corpus=tokens reads them."""
    output: str
    """Where a folder of each model goes, with one of each layer."""
    threads: int
    training: CoderSettings = field(default_factory=CoderSettings)


@entry(
    "train_saes", TrainSaes,
    ("", "of the first two embedded seeds, in twenty minutes"),
    ("training.latents=4096 training.hook=hook_resid_post", "wider ones of the residual stream"),
)  # fmt: skip
def main(job: TrainSaes) -> None:
    names = [name.split("@")[0].rstrip("/").split("/")[-1] for name in job.of]
    if len(set(names)) < len(names):
        raise ConfigurationError(f"of={job.of} have one last part: train them one by one")
    import torch

    from universal_ray.corpus.rows import open_corpus
    from universal_ray.models.source import resolve
    from universal_ray.testbed.coders import check, train

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(job.threads)
    rows, sources = open_corpus(job.tokens), [resolve(name) for name in job.of]
    for source in sources:
        check(source, rows, job.training)
    for source, name in zip(sources, names, strict=True):
        print(f"{name}:", flush=True)
        for layer, told in enumerate(train(source, rows, job.training, Path(job.output) / name)):
            print(f"layer {layer}: {told['lost']:.1%} of the variance is lost, {told['fired']} of "
                  f"{job.training.latents} latents fire, in {Path(job.output) / name}")


if __name__ == "__main__":
    main()
