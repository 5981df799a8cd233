"""The doors: little is imported before an error is one sentence and a signal ends in order."""

from collections.abc import Callable

from universal_ray.runtime.ending import guarded


def door(command: str) -> Callable[[], None]:
    """The entry point of one of the commands."""

    def main() -> None:
        with guarded():
            from universal_ray.cli.commands import COMMANDS

            COMMANDS[command]()

    return main


def main() -> None:
    """`universal-ray COMMAND [options]`."""
    with guarded():
        from universal_ray.cli.commands import main

        main()
