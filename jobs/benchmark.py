"""Measure this project's loop beside what it replaces, and how exact it is, on a CPU or a GPU."""

from universal_ray.cli.commands import benchmark as main

if __name__ == "__main__":
    main()
