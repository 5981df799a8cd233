"""The store on an S3 server, sound and failing."""

import logging
import re
import threading
import time

import pytest
import torch
from store_contract import SharedStoreContract

from universal_ray.errors import MissingError, StorageError
from universal_ray.storage import failures
from universal_ray.storage.lock import RunLock, read_lock
from universal_ray.storage.store import Store

PASSING = {"throttled": 6, "hung-up": 6, "unanswered": 6, "broken": 3, "conflict": 3}
"""Failures in a row, more than the client gets over by itself: it asks five times at most."""


@pytest.mark.thorough
class TestS3Store(SharedStoreContract):
    rounds = 3
    rivals = 2  # each imports the client

    @pytest.fixture
    def store(self, s3_store):
        return s3_store


@pytest.fixture
def hurried(monkeypatch):
    monkeypatch.setattr(failures, "FIRST_WAIT", 0.01)


def one_sentence(error):
    text = str(error)
    return text.endswith(".") and not re.search(r"\. [A-Z]", text) and "\n" not in text


def names(error, store):
    """Whether a message says which store failed, or which folder where it could not be listed."""
    folder, _, name = store.url.rpartition("/")
    return f" in {store.url}/profile " in str(error) or str(error).startswith(
        f"{name} could not be listed in {folder} "
    )


U = "profile/topics-0123456789ab.json"
ASK = {
    "put": lambda store: store.put(U, b"new").bytes == 3 and store.get(U) == b"new",
    "create": lambda store: store.create("profile/n", b"new") and store.get("profile/n") == b"new",
    "get": lambda store: store.get(U) == b"old",
    "exists": lambda store: store.exists(U) and not store.exists("profile/n"),
    "list": lambda store: store.list() == [U],
    "delete": lambda store: store.delete(U) is None and store.list() == [],
}


@pytest.mark.parametrize(
    ("kind", "ask"),
    [
        *((kind, ask) for kind in PASSING for ask in ("put", "create")),
        *(("broken", ask) for ask in ("get", "exists", "list", "delete")),
    ],
)
def test_what_fails_for_a_while_succeeds_in_the_end(s3_store, s3_server, hurried, kind, ask):
    s3_store.put(U, b"old")
    failed = s3_server.counts()[1]
    s3_server.fail(kind, PASSING[kind])
    assert ASK[ask](s3_store)
    assert s3_server.counts()[1] - failed == PASSING[kind]


@pytest.mark.parametrize("ask", ASK)
def test_what_is_denied_is_refused_at_once(s3_store, s3_server, ask, caplog):
    s3_store.put(U, b"old")
    s3_server.fail("denied", 1000)
    try:
        with pytest.raises(StorageError) as caught, caplog.at_level(logging.WARNING):
            ASK[ask](s3_store)
    finally:
        s3_server.fail("", 0)
    assert one_sentence(caught.value) and "give this user the rights" in str(caught.value)
    assert names(caught.value, s3_store)
    assert "trying again" not in caplog.text
    assert s3_store.get(U) == b"old"


@pytest.mark.parametrize("ask", ASK)
def test_a_store_that_stays_away_is_given_up_in_one_sentence(
    s3_store, s3_server, hurried, monkeypatch, caplog, ask
):
    monkeypatch.setattr(failures, "PATIENCE", 0.1)
    s3_store.put(U, b"old")
    s3_server.fail("broken", 1000)
    try:
        with pytest.raises(StorageError) as caught, caplog.at_level(logging.WARNING):
            ASK[ask](s3_store)
    finally:
        s3_server.fail("", 0)
    assert one_sentence(caught.value) and names(caught.value, s3_store)
    assert re.search(r"(?i)internal.* error.* at every one of \d+ attempts", str(caught.value))
    assert "run the same command again" in str(caught.value)
    assert "trying again in" in caplog.text
    assert s3_store.list() == [U] and s3_store.get(U) == b"old"


def test_a_server_that_is_stopped_and_started_again(s3_store, s3_server, caplog):
    s3_server.stop()
    starter = threading.Thread(target=lambda: (time.sleep(1.0), s3_server.start()))
    starter.start()
    with caplog.at_level(logging.WARNING):
        receipt = s3_store.put("u", b"patient")
    starter.join()
    assert "trying again in" in caplog.text
    assert s3_store.verify(receipt) and s3_store.list() == ["u"]


def test_a_missing_bucket_is_one_sentence(s3_server):
    store = Store("s3://never-made/run")
    with pytest.raises(StorageError, match="make that folder or bucket") as caught:
        store.put("u", b".")
    assert one_sentence(caught.value) and "s3://never-made/run" in str(caught.value)
    with pytest.raises(StorageError, match="make that folder or bucket"), RunLock(store):
        pass
    with pytest.raises(MissingError):
        store.get("u")


def test_a_file_that_is_sent_and_fetched_in_parts(s3_store, s3_server, hurried):
    sums = {"x": torch.arange(26_500_000, dtype=torch.float32)}  # a single put ends at 100 MiB
    before = s3_server.counts()[0]
    s3_server.fail("broken", 1)
    receipt = s3_store.put_tensors("u", sums)
    assert s3_server.counts()[0] - before > 3
    assert torch.equal(s3_store.get_tensors("u", receipt)["x"], sums["x"])
    assert s3_store.list() == ["u"]


def test_the_lock_outlasts_a_store_that_fails(s3_store, s3_server, hurried):
    with RunLock(s3_store, beat_every=0.05) as lock:
        s3_server.fail("broken", 8)
        before = read_lock(s3_store)["heartbeat"]
        deadline = time.monotonic() + 30
        while read_lock(s3_store)["heartbeat"] == before:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        lock.check()
    assert read_lock(s3_store) is None
