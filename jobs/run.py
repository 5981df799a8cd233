"""The whole study, or some of its stages: `jobs/run.py stages=[correlations]`."""

from universal_ray.cli.doors import door

main = door("run")

if __name__ == "__main__":
    main()
