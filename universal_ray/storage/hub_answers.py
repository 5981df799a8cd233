"""Asking the Hugging Face hub: with patience, and with what it answered told in one sentence.

Failures are told apart by how they end, not by a list of exceptions: the hub's client, its
transports and Xet each raise their own.
"""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any, TypeVar

from universal_ray.errors import HubError, MissingError, StorageError, UniversalRayError, words

log = logging.getLogger(__name__)

PATIENCE = 300.0
"""Seconds altogether to wait for a hub that says it is busy: as long as its limits count."""
SHORT_PATIENCE = 30.0
"""Seconds to wait for one that says nothing: without a network nothing comes later either."""
PASSING = {408, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524}
"""What a hub answers that may answer otherwise soon."""
NOT_SHOWN = {401, 403, 404, 410, 451}
DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR}

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class _Failure:
    """How a question to the hub has ended."""

    status: int | None  # None where the hub gave no answer
    code: str  # by which the hub says more than by its status
    after: float | None  # seconds that it asks to wait
    disk: OSError | None  # the cache could not be written
    words: str

    @property
    def passing(self) -> bool:
        return self.disk is None and (self.status is None or self.status in PASSING)

    @property
    def answer(self) -> str:
        """For a sentence: what was answered."""
        if self.status is None:
            return self.words
        known = {each.value: each.phrase for each in HTTPStatus}
        return f"it answered {self.status}, {known.get(self.status, self.words)}"


def offline() -> bool:
    """Whether the hub is not to be asked."""
    from huggingface_hub import constants

    return constants.is_offline_mode()


def ask(
    wanted: str, call: Callable[[], Answer], cached: Callable[[], Answer | None] = lambda: None
) -> Answer:
    """What `call` gives, which asks the hub for what is `wanted`. Where what comes in its place may
    pass, what is `cached` does as well; else the hub is asked again after as long as it says, or
    after ever longer, for up to PATIENCE seconds, or SHORT_PATIENCE of one that does not answer.

    Raises MissingError for what the hub does not have, does not show or is not asked for, HubError
    for what it did not give meanwhile, StorageError where its cache cannot be written.
    """
    from huggingface_hub.errors import HFValidationError

    waited, pause = 0.0, 1.0
    while True:
        try:
            with _answers_as_they_are():
                return call()
        except (UniversalRayError, MemoryError):
            raise
        except HFValidationError as error:
            raise MissingError(
                f"The hub can have no {wanted} ({words(error)}): check the spelling."
            ) from error
        except Exception as error:
            failure = _failure(error)
            if failure.passing and not waited and (found := cached()) is not None:
                return found
            limit = SHORT_PATIENCE if failure.status is None else PATIENCE
            wait = pause if failure.after is None else failure.after
            if offline() or not failure.passing or waited + wait > limit:
                raise _told(wanted, failure, waited) from error
            log.warning(
                "%s is not to be had from the hub yet (%s): asked again in %.0f s, for %.0f s at "
                "most", wanted, failure.answer, wait, limit,
            )  # fmt: skip
            time.sleep(wait)
            waited, pause = waited + wait, min(2 * pause, 60.0)


def _failure(error: Exception) -> _Failure:
    """What an error says of the answer, itself or by what it came from."""
    chain = list[BaseException]()
    came: BaseException | None = error
    while came is not None and came not in chain:
        chain.append(came)
        came = came.__cause__ or came.__context__
    for each in chain:
        response: Any = getattr(each, "response", None)
        status = getattr(response, "status_code", None)
        if isinstance(status, int) and status >= 400:
            headers = response.headers
            code = headers.get("X-Error-Code", "")
            return _Failure(status, code, _asked_to_wait(headers), None, words(each))
    disk = (each for each in chain if isinstance(each, OSError) and each.errno in DISK)
    return _Failure(None, "", None, next(disk, None), words(chain[-1]))


def _asked_to_wait(headers: Any) -> float | None:
    """Seconds, by Retry-After (a number or a date) or by the hub's account of its limits."""
    from huggingface_hub.utils import parse_ratelimit_headers

    after = headers.get("Retry-After", "").strip()
    if after.isdigit():
        return float(after)
    if after:
        try:
            return max(parsedate_to_datetime(after).timestamp() - time.time(), 0.0)
        except ValueError:
            return None
    limits = parse_ratelimit_headers(headers)
    return limits.reset_in_seconds + 1.0 if limits and limits.remaining == 0 else None


def _told(wanted: str, failure: _Failure, waited: float) -> UniversalRayError:
    """The one sentence about a question that has failed for good."""
    from huggingface_hub import constants

    if failure.disk is not None:
        return StorageError(
            f"The hub's cache {constants.HF_HUB_CACHE} cannot take {wanted} "
            f"({failure.disk.strerror}): make room, or lead HF_HOME to another place."
        )
    if offline():
        return MissingError(
            f"The hub's cache {constants.HF_HUB_CACHE} does not hold {wanted}, and the hub is not "
            "asked because HF_HUB_OFFLINE is set: download it (deploy/prefetch.py) while the "
            "network is there."
        )
    if failure.code == "GatedRepo":
        return MissingError(
            f"The hub shows {wanted} to whom its owner lets see it ({failure.answer}): ask for "
            "access on its page, and log in here by `hf auth login` or HF_TOKEN."
        )
    if failure.status in NOT_SHOWN:
        return MissingError(
            f"The hub has no {wanted} that can be read ({failure.answer}): check spelling and "
            "revision, and log in where it is private."
        )
    after = "" if failure.after is None else f" and asks to wait {failure.after:.0f} s"
    advice = "run the same command later"
    if failure.status is None:
        advice = "check the network (HF_ENDPOINT, proxies) and run the same command again"
        if "xet" in failure.words.lower():
            advice = "set HF_HUB_DISABLE_XET=1 to go without Xet and run the same command again"
    return HubError(
        f"The hub did not give {wanted} ({failure.answer}{after}), asked again for {waited:.0f} s: "
        f"{advice}."
    )


@contextmanager
def _answers_as_they_are() -> Iterator[None]:
    """The hub's client passes on what may pass, and does not wait for whatever time it is told."""
    from huggingface_hub.utils import get_session, hf_raise_for_status

    def pass_on(response: Any) -> None:
        if response.status_code in PASSING:
            response.read()
            hf_raise_for_status(response)

    hooks = get_session().event_hooks["response"]
    hooks.append(pass_on)
    try:
        yield
    finally:
        hooks.remove(pass_on)
