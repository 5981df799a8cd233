"""What the tests of store and lock run in other processes; light, since each imports it anew."""

import multiprocessing
import os
import time

from universal_ray.errors import LockedError
from universal_ray.storage.lock import RunLock

# Not fork, which a test process full of threads does not survive unharmed; nor forkserver, which
# keeps the environment of its first use.
CONTEXT = multiprocessing.get_context("spawn")
OURS = "progress.json"
"""A name that is ours to delete."""


def write_for_ever(store, kind, ready, size=16_000_000):
    number = 0
    while True:
        number += 1
        if kind == "tensors":
            import torch

            torch.set_num_threads(1)
            store.put_tensors(OURS, {"x": torch.full((size // 4,), float(number))})
        else:
            store.put(OURS, bytes([number % 256]) * size)
        ready.set()


def create_many(store, count, start, won):
    start.wait()
    for number in range(count):
        if store.create(f"c/{number}", str(os.getpid()).encode()):
            won.put((number, os.getpid()))
    won.put(None)


def run_all(processes):
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * len(processes)


def hold(store, ready):
    with RunLock(store):
        ready.set()
        time.sleep(600)


def inherit(stores, start, all_tried, results):
    for number, store in enumerate(stores):
        start.wait()
        try:
            with RunLock(store):
                results.put((number, "won"))
                all_tried.wait()
        except LockedError:
            results.put((number, "refused"))
            all_tried.wait()


def come_and_go(store, inside, start, seconds, entries):
    start.wait()
    until, entered = time.monotonic() + seconds, 0
    while time.monotonic() < until:
        try:
            with RunLock(store):
                os.close(os.open(inside, os.O_CREAT | os.O_EXCL))  # fails if anyone else is in
                os.unlink(inside)
                entered += 1
        except LockedError:
            continue
    entries.put(entered)
