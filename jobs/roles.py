"""What neurons do: roles of a run whose profile is there, no more."""

from pathlib import Path

import hydra
from omegaconf import DictConfig

from universal_ray.job import ROLES, check_arguments, guarded, parse, register, run

register()


@hydra.main(version_base="1.3", config_path="../conf", config_name="config")
def main(config: DictConfig) -> None:
    with guarded():
        run(parse(config), (ROLES,))


if __name__ == "__main__":
    check_arguments(Path(__file__).resolve().parents[1] / "conf")
    main()
