"""Statistics and families of every neuron of a run whose correlations are there, no more."""

from universal_ray.job import PROFILE, run
from universal_ray.options import entry
from universal_ray.study import Study


@entry("config", Study)
def main(study: Study) -> None:
    run(study, (PROFILE,))


if __name__ == "__main__":
    main()
