"""Statistics and families of every neuron of a run whose correlations are there, no more."""

from universal_ray.cli.options import entry
from universal_ray.cli.study import PROFILE, run
from universal_ray.config.study import Study


@entry("config", Study)
def main(study: Study) -> None:
    run(study, (PROFILE,))


if __name__ == "__main__":
    main()
