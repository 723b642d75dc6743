"""State of one endpoint, shared by all routes: its jobs, queue and workers.

All methods run in the server's event loop, so there are no locks. A worker that takes a job and
vanishes is noticed only by the job's execution timeout.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from runpod_local.faults import Faults
from runpod_local.jobs import Chunk, Job, JobState, Notifier
from runpod_local.workers import Ping, Worker


@dataclass
class Settings:
    """The platform's settings. Durations may be changed while the server runs.

    The defaults are the real platform's. Its `poll_seconds` and `stream_wait_seconds` are not
    known, nor is `max_line_bytes`, the longest request line: 8190 is that of aiohttp and Apache.
    A longer one is answered with 400. `accept_queue` is how many connections may wait until the
    server accepts them; the kernel drops further ones, and the client tries again a second later.
    """

    endpoint_id: str = "demo"
    api_key: str = "demo-user-key"
    worker_key: str = "demo-worker-key"
    port: int = 0
    poll_seconds: float = 20.0
    stream_wait_seconds: float = 1.0
    runsync_wait_seconds: float = 90.0
    execution_timeout_seconds: float = 600.0
    post_delay_seconds: float = 0.0
    ping_interval_seconds: int = 10
    max_line_bytes: int = 8190
    accept_queue: int = 128

    def __post_init__(self) -> None:
        if self.ping_interval_seconds < 1:  # the SDK would ping without a pause
            raise ValueError(
                f"ping_interval_seconds must be at least 1, got {self.ping_interval_seconds}"
            )


class ApiError(Exception):
    """A request that is answered with this status and `{"error": message}`."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class EndpointState:
    """The state of one endpoint. `requests` counts by route: `job-stream`, `ping`, `run` …"""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.faults = Faults()
        self.jobs: dict[str, Job] = {}
        self.workers: dict[str, Worker] = {}
        self.requests: Counter[str] = Counter()
        self._retried = 0
        self._queue: deque[Job] = deque()
        self._queue_changed = Notifier()
        self._workers_changed = Notifier()
        self._poll_releases = 0
        self._execution_timers: dict[str, asyncio.TimerHandle] = {}

    # Called for users

    def submit(
        self, job_input: Any, *, timeout_seconds: float | None = None, sync: bool = False
    ) -> Job:
        """Put a new job at the end of the queue."""
        job_id = f"sync-{uuid.uuid4()}-u1" if sync else f"{uuid.uuid4()}-u1"
        if timeout_seconds is None:
            timeout_seconds = self.settings.execution_timeout_seconds
        job = self.jobs[job_id] = Job(job_id, job_input, timeout_seconds)
        self._enqueue(job)
        return job

    def submit_taken(self, job_id: str, worker_id: str = "worker-1") -> Job:
        """Record a job as taken by a worker that gets it with a planned answer to its poll."""
        job = self.jobs[job_id] = Job(job_id, None, self.settings.execution_timeout_seconds)
        job.state, job.worker_id, job.taken_at = JobState.IN_PROGRESS, worker_id, time.monotonic()
        return job

    def job(self, job_id: str) -> Job:
        """Return a job; raises ApiError for an unknown id."""
        if job_id not in self.jobs:
            raise ApiError(404, "job not found")
        return self.jobs[job_id]

    def cancel(self, job: Job) -> None:
        """End a job as CANCELLED and stop it in its worker. A finished job stays as it is."""
        self._abort(job, JobState.CANCELLED)

    def retry(self, job: Job) -> None:
        """Queue a FAILED or TIMED_OUT job again; raises ApiError for any other."""
        if job.state not in (JobState.FAILED, JobState.TIMED_OUT):
            raise ApiError(400, f"a job that is {job.state.value} cannot be retried")
        job.requeue()
        self._retried += 1
        self._enqueue(job)

    def purge_queue(self) -> int:
        """Cancel all jobs in the queue; returns how many."""
        queued = list(self._queue)
        for job in queued:
            self.cancel(job)
        return len(queued)

    def health(self) -> dict[str, dict[str, int]]:
        """Return the body of `/health`.

        The documentation's example has `idle` and `running` workers only; what else the real
        platform counts is not known. A worker that ended stays in the counts here.
        """
        states = Counter(job.state for job in self.jobs.values())
        busy = {job.worker_id for job in self.jobs.values() if job.state is JobState.IN_PROGRESS}
        workers = Counter(worker.status(busy=worker.id in busy) for worker in self.workers.values())
        return {
            "jobs": {
                "completed": states[JobState.COMPLETED],
                "failed": states[JobState.FAILED] + states[JobState.TIMED_OUT],
                "inProgress": states[JobState.IN_PROGRESS],
                "inQueue": states[JobState.IN_QUEUE],
                "retried": self._retried,
            },
            "workers": {
                status: workers[status]
                for status in ("idle", "initializing", "running", "unhealthy")
            },
        }

    # Called for workers

    async def take_jobs(self, worker_id: str, max_jobs: int) -> list[Job]:
        """Start up to `max_jobs` jobs; waits for the first one for the length of a poll."""
        worker = self._worker(worker_id)
        if worker.ready_at is None:
            worker.ready_at = time.monotonic()
            self._workers_changed.notify_all()
        releases = self._poll_releases
        await self._queue_changed.wait_for(
            lambda: self._queue or releases != self._poll_releases, self.settings.poll_seconds
        )
        if releases != self._poll_releases:
            return []
        return [self._start_next(worker_id) for _ in range(min(max_jobs, len(self._queue)))]

    async def jobs_to_stop(self, worker_id: str) -> list[str]:
        """Return the ids of jobs that the worker must stop, each once, after a long poll."""
        worker = self._worker(worker_id)
        releases = self._poll_releases
        await worker.stop_requested.wait_for(
            lambda: worker.jobs_to_stop or releases != self._poll_releases,
            self.settings.poll_seconds,
        )
        job_ids, worker.jobs_to_stop = worker.jobs_to_stop, []
        return job_ids

    def add_chunk(self, job: Job, output: Any, body_bytes: int) -> None:
        """Record a job-stream POST."""
        if self._is_late(job, "stream"):
            return
        job.chunks.append(Chunk(output, time.monotonic(), body_bytes))
        job.changed.notify_all()

    def finish(self, job: Job, result: dict[str, Any], body_bytes: int) -> None:
        """Record a job-done POST: the result, or a progress update."""
        if self._is_late(job, "done"):
            return
        job.output = result.get("output")
        if result.get("status") == JobState.IN_PROGRESS:
            job.progress.append(job.output)
            job.changed.notify_all()
            return
        job.error = result.get("error")
        job.done_bytes = body_bytes
        self._end(job, JobState.FAILED if job.error else JobState.COMPLETED)

    def add_ping(self, worker_id: str, ping: Ping) -> None:
        self._worker(worker_id).pings.append(ping)
        self._workers_changed.notify_all()

    async def wait_for_worker(
        self, predicate: Callable[[Worker], object], timeout_seconds: float
    ) -> bool:
        """Wait until the predicate is true of a worker on its first poll or a ping."""
        return await self._workers_changed.wait_for(
            lambda: any(predicate(worker) for worker in self.workers.values()), timeout_seconds
        )

    def release_polls(self) -> None:
        """Answer all open polls with "nothing"."""
        self._poll_releases += 1
        self._queue_changed.notify_all()
        for worker in self.workers.values():
            worker.stop_requested.notify_all()

    def close(self) -> None:
        for timer in self._execution_timers.values():
            timer.cancel()
        self._execution_timers.clear()
        self.release_polls()

    def _worker(self, worker_id: str) -> Worker:
        return self.workers.setdefault(worker_id, Worker(worker_id))

    # Changes of a job's state

    def _enqueue(self, job: Job) -> None:
        self._queue.append(job)
        self._queue_changed.notify_all()
        job.changed.notify_all()

    def _start_next(self, worker_id: str) -> Job:
        job = self._queue.popleft()
        job.state = JobState.IN_PROGRESS
        job.worker_id = worker_id
        job.taken_at = time.monotonic()
        job.attempts += 1
        self._execution_timers[job.id] = asyncio.get_running_loop().call_later(
            job.execution_timeout_seconds, self._abort, job, JobState.TIMED_OUT
        )
        job.changed.notify_all()
        return job

    def _abort(self, job: Job, state: JobState) -> None:
        if job.finished:
            return
        if job.state is JobState.IN_QUEUE:
            self._queue.remove(job)
        else:
            worker = self.workers[str(job.worker_id)]
            worker.jobs_to_stop.append(job.id)
            worker.stop_requested.notify_all()
        self._end(job, state)

    def _end(self, job: Job, state: JobState) -> None:
        if timer := self._execution_timers.pop(job.id, None):
            timer.cancel()
        job.state = state
        job.finished_at = time.monotonic()
        job.changed.notify_all()

    def _is_late(self, job: Job, kind: str) -> bool:
        if job.state is JobState.IN_PROGRESS:
            return False
        job.late_posts.append(kind)
        job.changed.notify_all()
        return True
