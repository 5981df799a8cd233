"""A run's state from its files: no cluster, no model, no torch."""

import time

from universal_ray.errors import MissingError
from universal_ray.lock import read_lock
from universal_ray.progress import PROGRESS_FILE
from universal_ray.store import Store


def describe_run(store: Store) -> list[tuple[str, str]]:
    """Rows of (what, how it stands). Raises MissingError where no run lives."""
    if not store.exists("study.yaml"):
        raise MissingError(f"{store.url} holds no run: give the run.dir of one that was started")
    lock = read_lock(store)
    alive = bool(lock and lock.get("alive"))
    rows = [("driver", f"process {lock['pid']} on {lock['host']}" if lock and alive else "none")]
    if not store.exists(PROGRESS_FILE):
        return [*rows, ("stage", "starting" if alive else "stopped before the first unit")]
    state = store.get_json(PROGRESS_FILE)
    stage = state["stage"]
    if not alive and stage not in ("finished", "stopped"):
        stage = "interrupted: the same command goes on"
    rows.append(("stage", stage + (f": {state['error']}" if state.get("error") else "")))
    rows.append(("units", f"{state['units_done']} of {state['units_total']} done"))
    rate = state["tokens_per_second"]
    rows.append(("rate", f"{rate:,.0f} tokens/s over {state['tokens_done']:,} tokens"))
    now = time.time()
    if alive and stage in ("sums", "profile"):
        left = state["tokens_total"] - state["tokens_done"]
        rows.append(("remaining", f"{left / rate:,.0f} s" if rate > 0 else "not known yet"))
        running = ", ".join(
            f"{task} for {now - since:.0f} s" for task, since in state["running"].items()
        )
        rows.append(("running", running or "none"))
    for failure in state["failures"]:
        ago = now - failure["at"]
        rows.append(("failed", f"{failure['task']} {ago:.0f} s ago: {failure['reason']}"))
    return rows
