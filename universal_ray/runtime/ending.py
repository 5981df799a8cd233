"""How a job ends: an error as one sentence, a signal as Ctrl-C does, output that nobody reads."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from universal_ray.errors import UniversalRayError

SIGNALS = signal.SIGTERM, signal.SIGHUP
"""What schedulers and closed terminals send."""


class Stopped(KeyboardInterrupt):
    """A signal of SIGNALS came: what Ctrl-C undoes is undone, and nothing catches it by chance."""

    def __init__(self, number: int):
        super().__init__(signal.Signals(number).name)
        self.number = number


@contextmanager
def guarded() -> Iterator[None]:
    """Print an error made on purpose as its one sentence and exit with 1; end after a signal.

    The exit status after signal n is 128 + n, as a shell's.
    """
    try:
        yield
    except UniversalRayError as error:
        import logging  # here, so that little is imported before there is a guard

        logging.getLogger(__name__).debug("the error in full", exc_info=True)
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except MemoryError:
        print(
            "error: this process got no more memory: raise its limit (ulimit -v), or use a machine "
            "with more",
            file=sys.stderr,
        )
        sys.exit(1)
    except KeyboardInterrupt as error:
        number = error.number if isinstance(error, Stopped) else signal.SIGINT
        by = f" by {error}" if isinstance(error, Stopped) else ""
        print(f"interrupted{by}: the same command goes on from here", file=sys.stderr)
        sys.exit(128 + number)


@contextmanager
def stoppable() -> Iterator[None]:
    """SIGTERM and SIGHUP raise Stopped, once: while things are put in order another is no news."""

    def stop(number: int, frame: FrameType | None) -> None:
        for each in SIGNALS:
            signal.signal(each, signal.SIG_IGN)
        raise Stopped(number)

    # A job that was started to outlive its terminal (nohup) goes on ignoring what it was told to.
    before = {each: signal.getsignal(each) for each in SIGNALS}
    for each in SIGNALS:
        if before[each] is not signal.SIG_IGN:
            signal.signal(each, stop)
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


class Lasting:
    """A stream whose reader may go away (`| head`, a closed terminal): the rest goes nowhere."""

    def __init__(self, stream: Any):
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError:
            self._reader_left()
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError:
            self._reader_left()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _reader_left(self) -> None:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)


@contextmanager
def lasting_output() -> Iterator[None]:
    """What cannot be printed any more stops no work: the exit status tells how that ended."""
    before = sys.stdout, sys.stderr
    with open(os.devnull, "w") as nowhere:  # for a stream that was closed from the start (`>&-`)
        sys.stdout, sys.stderr = (  # type: ignore[assignment]
            Lasting(stream or nowhere) for stream in before
        )
        try:
            yield
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            sys.stdout, sys.stderr = before
