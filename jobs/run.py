"""The whole study: which neurons are universal, what they respond to and what they do."""

from universal_ray.cli.options import entry
from universal_ray.cli.study import CORRELATIONS, PROFILE, ROLES, run
from universal_ray.config.study import Study


@entry("config", Study)
def main(study: Study) -> None:
    run(study, (CORRELATIONS, PROFILE, ROLES))


if __name__ == "__main__":
    main()
