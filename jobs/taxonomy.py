"""Statistics and families of every neuron of a run whose correlations are there, no more."""

from universal_ray.config.study import Study
from universal_ray.job import PROFILE, run
from universal_ray.options import entry


@entry("config", Study)
def main(study: Study) -> None:
    run(study, (PROFILE,))


if __name__ == "__main__":
    main()
