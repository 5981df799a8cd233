"""What neurons do: roles of a run whose profile is there, no more."""

from universal_ray.cli.options import entry
from universal_ray.cli.study import ROLES, run
from universal_ray.config.study import Study


@entry("config", Study)
def main(study: Study) -> None:
    run(study, (ROLES,))


if __name__ == "__main__":
    main()
