"""Which failures pass by themselves, and how long they are waited for."""

import errno
import os

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError, NoCredentialsError

from universal_ray.storage import failures
from universal_ray.storage.failures import passes, patiently, reason, remedy


def answer(status, code="Code"):
    content = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return ClientError(content, "PutObject")


def caused(error, cause):
    error.__cause__ = cause
    return error


class HttpError(Exception):
    """What gcsfs raises."""

    def __init__(self, code):
        super().__init__("The server answered.")
        self.code = code


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        *((answer(status), True) for status in (408, 409, 429, 500, 502, 503, 504)),
        *((answer(status), False) for status in (301, 400, 401, 403, 404, 412, 416, 501)),
        (HttpError(503), True),
        (HttpError(401), False),
        (caused(OSError(errno.EBUSY, "slow down"), answer(503)), True),
        (caused(PermissionError("clock"), answer(503)), False),
        (caused(FileNotFoundError("gone"), ConnectionResetError()), False),
        (FileExistsError(), False),
        (ConnectionResetError(), True),
        (TimeoutError(), True),
        (caused(OSError("lost"), BrokenPipeError()), True),
        (EndpointConnectionError(endpoint_url="http://x"), True),
        (NoCredentialsError(), False),
        (OSError(errno.ENOSPC, "full"), False),
        (ValueError("mistake"), False),
    ],
)
def test_what_passes(error, expected):
    assert passes(error) is expected


@pytest.fixture
def clock(monkeypatch):
    """Time that only sleeping spends; the pauses taken."""
    pauses = []
    monkeypatch.setattr(failures.time, "monotonic", lambda: sum(pauses))
    monkeypatch.setattr(failures.time, "sleep", pauses.append)
    return pauses


def failing(errors):
    remaining = iter(errors)

    def call():
        error = next(remaining, None)
        if error is not None:
            raise error
        return "done"

    return call


def test_pauses_grow_to_a_bound_and_end(clock):
    assert patiently(failing([ConnectionResetError()] * 12)) == "done"
    bounds = [min(failures.FIRST_WAIT * 2**k, failures.LONGEST_WAIT) for k in range(12)]
    assert len(clock) == 12
    assert all(b / 2 <= pause <= b for pause, b in zip(clock, bounds, strict=True))


def test_patience_ends_and_what_does_not_pass_is_raised_as_it_is(clock):
    with pytest.raises(TimeoutError, match=r"reset by peer, at every one of \d+ attempts within"):
        patiently(failing([OSError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))] * 1000))
    least, most = failures.PATIENCE - failures.LONGEST_WAIT, failures.PATIENCE
    assert least <= sum(clock) <= most
    clock.clear()
    with pytest.raises(PermissionError):
        patiently(failing([TimeoutError(), PermissionError()]))
    assert len(clock) == 1


def test_an_interrupt_is_not_waited_out(clock):
    with pytest.raises(KeyboardInterrupt):
        patiently(failing([KeyboardInterrupt()]))
    assert not clock


def test_words_and_remedies():
    assert reason(OSError(errno.ENOSPC, "Something\nlong. Errno 28")) == "No space left on device"
    translated = caused(OSError(errno.EBUSY, "Slow down. Please try later."), answer(503))
    assert reason(translated) == "Slow down; Please try later"
    assert reason(ValueError()) == "ValueError"
    assert "rights" in remedy(PermissionError("Access Denied"))
    assert "bucket" in remedy(FileNotFoundError("The specified bucket does not exist"))
    assert "free some space" in remedy(OSError(errno.ENOSPC, ""))
