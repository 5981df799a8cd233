"""What neurons do: roles of a run whose profile is there, no more."""

from universal_ray.job import ROLES, run
from universal_ray.options import entry
from universal_ray.study import Study


@entry("config", Study)
def main(study: Study) -> None:
    run(study, (ROLES,))


if __name__ == "__main__":
    main()
