"""Hold a run's neurons against a published table: published=FILE.csv, run.dir=RUN."""

from universal_ray.cli.doors import door

main = door("compare")

if __name__ == "__main__":
    main()
