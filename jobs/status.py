"""What a run has done, does and how fast, from its files alone: `jobs/status.py run.dir=DIR`."""

from universal_ray.cli.doors import door

main = door("status")

if __name__ == "__main__":
    main()
