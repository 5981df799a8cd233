"""What a user named is shown as it is: names, paths and texts hold no markup."""

import inspect
import re

import pytest
from rich.console import Console

from universal_ray.report import screen
from universal_ray.runtime.progress import Advance, Forecast, Progress

NAMES = ["m [v2]", "x[/x]", "[bold]b[/bold]", "[/]", ":warning: [red", "[link=a]"]
"""What rich reads as a style, as the end of one, or as a picture."""


def advance(out: Console, name: str) -> None:
    with screen.Watcher(out) as watch:
        progress = Progress(ahead={name: Forecast({})})
        progress.begin(name, Advance(name, 2, 0, 0))
        progress.finished("", 0.0)
        watch(progress)


SHOWN = {
    "show_plan": lambda out, name: screen.show_plan(out, [(name, name)], name),
    "show_rows": lambda out, name: screen.show_rows(out, name, [name], [[name]]),
    "Watcher": advance,
    "Worded": lambda out, name: screen.Worded(out, "latent").print(name),
}
CONSOLES = Console, screen.Worded, Console | screen.Worded
BY_A_RUN = {
    "show_results", "_show_references", "_show_families", "_show_roles", "_show_descriptions",
}  # fmt: skip
"""Shown of a run whose models have such names, in tests/cli."""


def test_everything_that_writes_on_a_screen_is_swept():
    writing = {
        name
        for name, each in vars(screen).items()
        if getattr(each, "__module__", "") == screen.__name__ and callable(each)
        and any(one.annotation in CONSOLES for one in inspect.signature(each).parameters.values())
    }
    assert writing == SHOWN.keys() | BY_A_RUN


@pytest.mark.parametrize("terminal", [False, True])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("what", SHOWN)
def test_a_name_is_shown_as_it_is(what, name, terminal, monkeypatch, capsys):
    if terminal:
        monkeypatch.setenv("FORCE_COLOR", "1")
        monkeypatch.setenv("TERM", "xterm")
    out = screen.console()
    assert out.is_terminal == terminal
    SHOWN[what](out, name)
    shown = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", capsys.readouterr().out)
    assert shown.count(name) >= (3 if what.startswith("show") else 1)
