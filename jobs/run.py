"""The whole study: correlate, then show which neurons are universal."""

from pathlib import Path

import hydra
from omegaconf import DictConfig

from universal_ray.job import check_arguments, correlate, guarded, parse, register

register()


@hydra.main(version_base="1.3", config_path="../conf", config_name="config")
def main(config: DictConfig) -> None:
    with guarded():
        store, out = correlate(parse(config))
        if store is not None:
            from universal_ray.report.screen import show_results

            show_results(out, store)


if __name__ == "__main__":
    check_arguments(Path(__file__).resolve().parents[1] / "conf")
    main()
