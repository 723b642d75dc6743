"""The counts that `/health` shows.

The documentation's example has the workers `idle` and `running` only; what else the
real platform counts there is not known. A worker that ended stays in the counts here.
"""

from __future__ import annotations

from collections import Counter

from tests.platform.job import State
from tests.platform.seen import Worker
from tests.platform.store import Store


def health(store: Store) -> dict[str, dict[str, int]]:
    """Count jobs by state, and workers by what they do now."""
    states = Counter(job.state for job in store.jobs.values())
    busy = {job.worker_id for job in store.jobs.values() if job.state is State.IN_PROGRESS}
    workers = Counter(activity(worker, worker.id in busy) for worker in store.workers.values())
    return {
        "jobs": {
            "completed": states[State.COMPLETED],
            "failed": states[State.FAILED] + states[State.TIMED_OUT],
            "inProgress": states[State.IN_PROGRESS],
            "inQueue": states[State.IN_QUEUE],
            "retried": store.retried,
        },
        "workers": {
            name: workers[name] for name in ("idle", "initializing", "running", "unhealthy")
        },
    }


def activity(worker: Worker, busy: bool) -> str:
    """Say in one word what a worker does."""
    if worker.unhealthy:
        return "unhealthy"
    if not worker.ready:
        return "initializing"
    return "running" if busy else "idle"
