"""A run's state from its files: no cluster, no model, no torch."""

import time

from universal_ray.config.wellformed import ABSENT, mistake, moment
from universal_ray.errors import StorageError
from universal_ray.runtime.progress import PROGRESS_FILE, remaining
from universal_ray.storage import finished
from universal_ray.storage.lock import read_lock
from universal_ray.storage.record import check_started
from universal_ray.storage.store import Store

WRITTEN = {
    "driver": (str, ABSENT),
    "own": (float, None, ABSENT),
    "later": (float, None, ABSENT),
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
"""What is read of a progress file, and its shape; earlier versions foresaw nothing."""


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
    ended = stage in ("finished", "stopped")
    mine = lock is not None and state.get("driver", lock["owner"]) == lock["owner"] and not ended
    if alive and not mine:
        stage = f"between: checks the study, writes the site or leaves the cluster; last, {stage}"
    elif not alive and not ended:
        stage = "interrupted: the same command goes on"
    rows.append(("stage", stage + (f": {state['error']}" if state.get("error") else "")))
    now = time.time()
    for batch in state["batches"]:
        if not batch["tasks_total"]:
            continue  # it was asked for nothing
        rate, what = batch["rate"], "tokens/s" if batch["tokens_total"] else "tasks/s"
        told = f", {rate:,.0f} {what}" if rate >= 10 else f", {rate:.1f} {what}" if rate else ""
        rows.append((batch["name"], f"{batch['tasks_done']} of {batch['tasks_total']} done{told}"))
    if alive and mine:
        rows.append(("remaining", remaining(state, now)))
        running = ", ".join(
            f"{task} for {now - since:.0f} s" for task, since in state["running"].items()
        )
        rows.append(("running", running or "none"))
    elif alive:
        rows.append(("remaining", "not known yet"))
    for failure in state["failures"]:
        ago = now - failure["at"]
        rows.append(("failed", f"{failure['task']} {ago:.0f} s ago: {failure['reason']}"))
    return rows
