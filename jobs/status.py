"""What a run has done, does and how fast, from its files alone: `jobs/status.py run.dir=DIR`."""

from universal_ray.cli.commands import status as main

if __name__ == "__main__":
    main()
