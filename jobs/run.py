"""The whole study: which neurons are universal, what they respond to and what they do."""

from universal_ray.config.study import Study
from universal_ray.job import CORRELATIONS, PROFILE, ROLES, run
from universal_ray.options import entry


@entry("config", Study)
def main(study: Study) -> None:
    run(study, (CORRELATIONS, PROFILE, ROLES))


if __name__ == "__main__":
    main()
