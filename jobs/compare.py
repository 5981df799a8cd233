"""Hold a run's neurons against a published table: published=FILE.csv, run.dir=RUN."""

from universal_ray.cli.commands import compare as main

if __name__ == "__main__":
    main()
