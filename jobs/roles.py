"""What neurons do: roles of a run whose profile is there, no more."""

from universal_ray.config.study import Study
from universal_ray.job import ROLES, run
from universal_ray.options import entry


@entry("config", Study)
def main(study: Study) -> None:
    run(study, (ROLES,))


if __name__ == "__main__":
    main()
