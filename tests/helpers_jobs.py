"""Entry points in this process, where what they import is there already.

That a script starts as a process of its own is shown once for each, in tests/cli.
"""

import contextlib
import importlib.util
import io
import logging
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Ended:
    """Exit status and output, under the names of subprocess.CompletedProcess."""

    returncode: int
    stdout: str
    stderr: str


def load(script: str) -> Any:
    """The module of a script, `jobs/run.py`, made anew."""
    path = ROOT / script
    specification = importlib.util.spec_from_file_location(f"script_{path.stem}", path)
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules[specification.name] = module  # a dataclass looks its module up
    specification.loader.exec_module(module)
    return module


@contextlib.contextmanager
def _logging_kept() -> Any:
    """What a job sets of logging is put back."""
    root = logging.getLogger()
    level, handlers = root.level, root.handlers[:]
    try:
        yield
    finally:
        root.setLevel(level)
        root.handlers[:] = handlers


def enter(script: str, *options: str, folder: Path) -> Ended:
    """`python script options` in a folder."""
    out, err = io.StringIO(), io.StringIO()
    status = 0
    with (
        _logging_kept(), contextlib.chdir(folder), patch.object(sys, "argv", [script, *options]),
        contextlib.redirect_stdout(out), contextlib.redirect_stderr(err),
    ):  # fmt: skip
        try:
            load(script).main()
        except SystemExit as ended:
            status = int(ended.code or 0)
    return Ended(status, out.getvalue(), err.getvalue())


def start(script: str, *options: str, folder: Path) -> Ended:
    """The same as a process of its own."""
    done = subprocess.run(
        [sys.executable, str(ROOT / script), *options],
        capture_output=True, text=True, cwd=folder, check=False, timeout=250,
    )  # fmt: skip
    return Ended(done.returncode, done.stdout, done.stderr)
