"""Correlate every neuron of a reference model with those of other seeds, no more."""

from universal_ray.config.study import Study
from universal_ray.job import CORRELATIONS, run
from universal_ray.options import entry


@entry("config", Study)
def main(study: Study) -> None:
    run(study, (CORRELATIONS,))


if __name__ == "__main__":
    main()
