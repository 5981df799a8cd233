"""The whole study, or some of its stages: `jobs/run.py stages=[correlations]`."""

from universal_ray.cli.commands import run as main

if __name__ == "__main__":
    main()
