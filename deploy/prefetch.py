"""Fill a machine's hub cache with the models of a study; the options are those of jobs/run.py."""

from pathlib import Path

import hydra
from omegaconf import DictConfig

from universal_ray.job import check_arguments, guarded, parse, register

register()


@hydra.main(version_base="1.3", config_path="../conf", config_name="config")
def main(config: DictConfig) -> None:
    with guarded():
        from universal_ray.models import prefetch, resolve
        from universal_ray.study import check, model_groups

        study = parse(config)
        check(study)
        for name in (name for group in model_groups(study.models) for name in group):
            print(f"{name}: {prefetch(resolve(name))}")


if __name__ == "__main__":
    check_arguments(Path(__file__).resolve().parents[1] / "conf")
    main()
