"""Measure this project's loop beside what it replaces, and how exact it is, on a CPU or a GPU."""

from universal_ray.cli.doors import door

main = door("benchmark")

if __name__ == "__main__":
    main()
