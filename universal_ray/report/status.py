"""A run's state from its files: no cluster, no model, no torch."""

import time
from typing import Any

from universal_ray.config.wellformed import ABSENT, mistake, moment
from universal_ray.errors import StorageError
from universal_ray.runtime.progress import PROGRESS_FILE, remaining
from universal_ray.storage import finished
from universal_ray.storage.lock import read_lock
from universal_ray.storage.record import check_started
from universal_ray.storage.store import Store

WRITTEN = {
    "driver": (str, ABSENT),
    "left": (float, None, ABSENT),
    "ahead": ([str], ABSENT),
    "updated": moment,
    "stage": str,
    "error": (str, None),
    "batches": [
        {
            "name": str, "tasks_done": int, "tasks_total": int, "tokens_total": int,
            "rate": float, "left": float, "updated": moment,
        }
    ],
    "running": {str: moment},
    "failures": [{"task": str, "at": moment, "reason": str}],
}
"""What is read of a progress file, and its shape; those of earlier versions tell of one stage."""


def describe_run(store: Store) -> list[tuple[str, str]]:
    """Rows of (what, how it stands). Raises MissingError where no run lives."""
    check_started(store)
    lock = read_lock(store)
    alive = bool(lock and lock.get("alive"))
    rows = [("driver", f"process {lock['pid']} on {lock['host']}" if lock and alive else "none")]
    rows.append(("finished tables", ", ".join(finished.stages(store)) or "none that are whole"))
    if not store.exists(PROGRESS_FILE):
        return [*rows, ("stage", "starting" if alive else "stopped before the first unit")]
    state = store.get_json(PROGRESS_FILE)
    wrong = mistake(state, WRITTEN)
    if wrong is not None:
        raise StorageError(
            f"{store.url}/{PROGRESS_FILE} is not as a driver writes it ({wrong}): the command of "
            "the run writes it anew"
        )
    stage = state["stage"]
    mine = lock is not None and state.get("driver", lock["owner"]) == lock["owner"]
    if not alive and stage not in ("finished", "stopped"):
        stage = "interrupted: the same command goes on"
    if alive and not mine:
        stage = f"starting: the study is being checked; before, {stage}"
    rows.append(("stage", stage + (f": {state['error']}" if state.get("error") else "")))
    now = time.time()
    for batch in state["batches"]:
        rate, what = batch["rate"], "tokens/s" if batch["tokens_total"] else "tasks/s"
        told = f", {rate:,.0f} {what}" if rate >= 10 else f", {rate:.1f} {what}" if rate else ""
        rows.append((batch["name"], f"{batch['tasks_done']} of {batch['tasks_total']} done{told}"))
    if alive and mine:
        rows.append(("remaining", _remaining(state, now)))
        running = ", ".join(
            f"{task} for {now - since:.0f} s" for task, since in state["running"].items()
        )
        rows.append(("running", running or "none"))
    elif alive:
        rows.append(("remaining", "not known before the study is checked"))
    for failure in state["failures"]:
        ago = now - failure["at"]
        rows.append(("failed", f"{failure['task']} {ago:.0f} s ago: {failure['reason']}"))
    return rows


def _remaining(state: dict[str, Any], now: float) -> str:
    """Of the batch under way, and of all stages; what is running has been since the last of its
    tasks finished, or since anything was told.
    """
    batches, left, ahead = state["batches"], state.get("left"), state.get("ahead", [])
    since = now - (batches[-1]["updated"] if batches else state["updated"])
    whole = remaining(None if left is None else left - since, ahead)
    if not batches or not batches[-1]["rate"]:
        return whole
    own = batches[-1]["left"] / batches[-1]["rate"] - since
    return f"{max(own, 0):,.0f} s of {batches[-1]['name']}, {whole}"
