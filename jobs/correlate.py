"""Correlate every neuron of a reference model with those of other seeds, no more."""

from universal_ray.cli.options import entry
from universal_ray.cli.study import CORRELATIONS, run
from universal_ray.config.study import Study


@entry("config", Study)
def main(study: Study) -> None:
    run(study, (CORRELATIONS,))


if __name__ == "__main__":
    main()
