"""Entry points: functions of a typed job, which Hydra configures and a signal ends in order."""

import functools
from collections.abc import Callable
from typing import TypeVar

from universal_ray.cli.help import Example
from universal_ray.runtime.ending import guarded, lasting_output, stoppable

Job = TypeVar("Job")


def entry(
    name: str, schema: type[Job], *examples: Example
) -> Callable[[Callable[[Job], None]], Callable[[], None]]:
    """Make a function of a typed job the entry point that `conf/<name>.yaml` configures."""

    def decorate(body: Callable[[Job], None]) -> Callable[[], None]:
        @functools.wraps(body)
        def main() -> None:
            with lasting_output(), stoppable(), guarded():
                from universal_ray.cli.options import enter

                enter(body, name, schema, examples)

        return main

    return decorate
