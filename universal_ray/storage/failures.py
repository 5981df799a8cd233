"""How a store fails: in words, what to do about it, and whether it passes by itself.

Clients of object stores come back to a failed request too, for some seconds and each in its own
way; `patiently` outlasts a store that is away for minutes.
"""

import errno
import logging
import os
import random
import time
from collections.abc import Callable
from typing import TypeVar

logger = logging.getLogger(__name__)

PATIENCE = 300.0
"""Seconds after which a call that still fails is given up."""
FIRST_WAIT, LONGEST_WAIT = 0.5, 20.0

_RIGHTS = "give this user the rights to it, or choose another run.dir"
_IN_THE_WAY = "move away the file that lies on that path, or choose another run.dir"
_REMEDIES = {
    errno.ENOSPC: "free some space there, and run the same command again",
    errno.EDQUOT: "raise the quota or free some space, and run the same command again",
    errno.EFBIG: "raise the limit on the size of files, and run the same command again",
    errno.EACCES: _RIGHTS,
    errno.EPERM: _RIGHTS,
    errno.EROFS: "mount it writable, or choose another run.dir",
    errno.ENOTDIR: _IN_THE_WAY,
    errno.EEXIST: _IN_THE_WAY,
    errno.ENOENT: "make that folder or bucket, or choose another run.dir",
}
_PERMANENT = (
    FileExistsError,
    FileNotFoundError,
    IsADirectoryError,
    NotADirectoryError,
    PermissionError,
)
# Timeout, conflict with another request, too early, too many requests, trouble of the server.
_STATUSES = {408, 409, 425, 429, 500, 502, 503, 504}
# By name, since no client's package need be installed: botocore, aiohttp, requests and urllib3 each
# have classes of their own, some beside Python's.
_CLASSES = {
    "ClientConnectionError",
    "ClientPayloadError",
    "ConnectionError",
    "HTTPClientError",
    "IncompleteRead",
    "TimeoutError",
}
_Result = TypeVar("_Result")


def reason(error: BaseException) -> str:
    """What went wrong in the words of the system or the client, as part of a sentence."""
    words = str(error)
    if isinstance(error, OSError) and error.errno:
        # What a client translated into an error of the system has words of its own.
        words = str(error.strerror if error.__cause__ else os.strerror(error.errno))
    return " ".join(words.split()).rstrip(".").replace(". ", "; ") or type(error).__name__


def remedy(error: OSError) -> str:
    """What the user can do."""
    number = error.errno
    if number is None and isinstance(error, PermissionError):  # an object store's have no number
        number = errno.EACCES
    if number is None and isinstance(error, FileNotFoundError):
        number = errno.ENOENT
    return _REMEDIES.get(number or 0, "check that storage and run the same command again")


def passes(error: BaseException | None) -> bool:
    """Whether the same call may succeed later: throttling, a server in trouble, a lost line.

    The outermost exception that tells decides: its kind, or the status of an HTTP answer in it.
    """
    while error is not None:
        if isinstance(error, _PERMANENT):
            return False
        status = _status(error)
        if status is not None:
            return status in _STATUSES
        if _CLASSES & {kind.__name__ for kind in type(error).__mro__}:
            return True
        error = error.__cause__ or error.__context__
    return False


def patiently(call: Callable[[], _Result]) -> _Result:
    """The result of `call`, repeated with growing pauses while it fails in a way that passes.

    Raises what `call` raises when that does not pass, and TimeoutError after PATIENCE seconds.
    """
    start, wait, tries = time.monotonic(), FIRST_WAIT, 0
    while True:
        tries += 1
        try:
            return call()
        except Exception as error:
            if not passes(error):
                raise
            pause = random.uniform(0.5, 1.0) * wait  # or all workers would come back at once
            passed = time.monotonic() - start
            if passed + pause > PATIENCE:
                raise TimeoutError(
                    f"{reason(error)}, at every one of {tries} attempts within {passed:.0f} s"
                ) from error
            logger.warning(
                "The store fails (%s), trying again in %.1f s: given up %.0f s from now",
                reason(error), pause, PATIENCE - passed,
            )  # fmt: skip
        time.sleep(pause)
        wait = min(2 * wait, LONGEST_WAIT)


def _status(error: BaseException) -> int | None:
    """The status of the HTTP answer that botocore, aiohttp, gcsfs or azure put in their errors."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        return status if isinstance(status, int) else None
    found = (getattr(error, name, None) for name in ("status", "status_code", "code"))
    return next((value for value in found if isinstance(value, int)), None)
