"""What a run has done, does and how fast, from its files alone: `jobs/status.py run.dir=DIR`."""

from pathlib import Path

import hydra
from omegaconf import DictConfig

from universal_ray.job import check_arguments, guarded, parse, register

register()


@hydra.main(version_base="1.3", config_path="../conf", config_name="config")
def main(config: DictConfig) -> None:
    with guarded():
        from universal_ray.report.screen import console, show_plan
        from universal_ray.report.status import describe_run
        from universal_ray.store import Store

        store = Store(parse(config).run.dir)
        show_plan(console(), describe_run(store), store.url)


if __name__ == "__main__":
    check_arguments(Path(__file__).resolve().parents[1] / "conf")
    main()
