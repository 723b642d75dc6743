"""The jobs, the queue and the workers: everything that the two sides of the API share.

All methods run in the server's event loop. There are no locks: a method without an
`await` cannot be interrupted, and waiting is done on `News`.

Not imitated: results are kept until the server ends (the real platform drops them after
30 minutes, or 1 for `/runsync`), there are no webhooks, no `policy.ttl`, no
`policy.lowPriority` and no rate limits. A worker that takes a job and vanishes is
noticed only by the job's execution timeout.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import Counter, deque
from collections.abc import Callable
from typing import Any

from tests.platform.faults import Faults
from tests.platform.job import Chunk, Job, LatePost, State
from tests.platform.news import News
from tests.platform.seen import Ping, Worker
from tests.platform.settings import Settings


class Store:
    """The state of one endpoint."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.faults = Faults()
        self.jobs: dict[str, Job] = {}
        self.workers: dict[str, Worker] = {}
        self.requests: Counter[str] = Counter()
        """How many requests came in, by the route's name (`job-stream`, `ping`, `run` …)."""
        self.retried = 0
        self._queue: deque[Job] = deque()
        self._polls = News()
        self._workers_news = News()
        self._released = 0
        self._timers: dict[str, asyncio.TimerHandle] = {}

    # the user's side

    def submit(
        self, job_input: Any, *, timeout_seconds: float | None = None, sync: bool = False
    ) -> Job:
        """Put a new job at the end of the queue."""
        identity = f"sync-{uuid.uuid4()}-u1" if sync else f"{uuid.uuid4()}-u1"
        default = self.settings.execution_timeout_seconds
        job = Job(identity, job_input, default if timeout_seconds is None else timeout_seconds)
        self.jobs[job.id] = job
        self._enqueue(job)
        return job

    def cancel(self, job: Job) -> None:
        """End the job as CANCELLED, and stop it in its worker. A finished job stays as it is."""
        self._abandon(job, State.CANCELLED)

    def retry(self, job: Job) -> bool:
        """Queue a FAILED or TIMED_OUT job again; returns whether it was one."""
        if job.state not in (State.FAILED, State.TIMED_OUT):
            return False
        job.requeue()
        self.retried += 1
        self._enqueue(job)
        return True

    def purge(self) -> int:
        """Cancel every job in the queue; returns how many."""
        waiting = list(self._queue)
        for job in waiting:
            self._abandon(job, State.CANCELLED)
        return len(waiting)

    # the worker's side

    def worker(self, worker_id: str) -> Worker:
        """Return what is known of a worker, from now on also that it is there."""
        worker = self.workers.setdefault(worker_id, Worker(worker_id))
        worker.last_seen_at = time.monotonic()
        return worker

    async def take(self, worker_id: str, count: int) -> list[Job]:
        """Hand out up to `count` jobs; waits for the first one as long as a poll may last."""
        worker = self.worker(worker_id)
        worker.polls += 1
        if worker.ready_at is None:
            worker.ready_at = time.monotonic()
            self._workers_news.tell()
        released = self._released
        await self._polls.wait_for(
            lambda: self._queue or released != self._released, self.settings.poll_seconds
        )
        if released != self._released:
            return []
        return [self._start(worker_id) for _ in range(min(count, len(self._queue)))]

    async def jobs_to_stop(self, worker_id: str) -> list[str]:
        """Hand out the ids of jobs that the worker must stop, each once."""
        worker = self.worker(worker_id)
        released = self._released
        await worker.stop_news.wait_for(
            lambda: worker.jobs_to_stop or released != self._released, self.settings.poll_seconds
        )
        stop, worker.jobs_to_stop = worker.jobs_to_stop, []
        return stop

    def add_chunk(self, job: Job, output: Any, body_bytes: int) -> None:
        """Append what the worker yielded."""
        if self._is_late(job, "stream", body_bytes):
            return
        job.chunks.append(Chunk(output, time.monotonic(), body_bytes))
        job.news.tell()

    def finish(self, job: Job, body: dict[str, Any], body_bytes: int) -> None:
        """Take the worker's last word on a job, or, if it says so, one on its progress."""
        if self._is_late(job, "done", body_bytes):
            return
        if body.get("status") == State.IN_PROGRESS:
            job.output = body.get("output")
            job.progress.append(job.output)
            job.news.tell()
            return
        job.done_bytes = body_bytes
        job.output, job.error = body.get("output"), body.get("error")
        job.stop_pod = bool(body.get("stopPod"))
        self._end(job, State.FAILED if job.error else State.COMPLETED)

    def add_ping(self, worker_id: str, ping: Ping) -> None:
        """Note a heartbeat."""
        self.worker(worker_id).pings.append(ping)
        self._workers_news.tell()

    async def any_worker(
        self, condition: Callable[[Worker], object], timeout_seconds: float
    ) -> bool:
        """Wait until a condition holds for one of the workers; looks at polls' starts and pings."""
        return await self._workers_news.wait_for(
            lambda: any(condition(worker) for worker in self.workers.values()), timeout_seconds
        )

    def release_polls(self) -> None:
        """Answer every poll that is open now with "nothing"."""
        self._released += 1
        self._polls.tell()
        for worker in self.workers.values():
            worker.stop_news.tell()

    def close(self) -> None:
        """Stop the clocks and let open polls go."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        self.release_polls()

    # a job's way through its states

    def _enqueue(self, job: Job) -> None:
        self._queue.append(job)
        self._polls.tell()
        job.news.tell()

    def _start(self, worker_id: str) -> Job:
        job = self._queue.popleft()
        job.state = State.IN_PROGRESS
        job.worker_id = worker_id
        job.taken_at = time.monotonic()
        job.attempts += 1
        self._timers[job.id] = asyncio.get_running_loop().call_later(
            job.execution_timeout_seconds, self._abandon, job, State.TIMED_OUT
        )
        job.news.tell()
        return job

    def _abandon(self, job: Job, state: State) -> None:
        if job.state is State.IN_QUEUE:
            self._queue.remove(job)
        elif job.state is State.IN_PROGRESS:
            worker = self.workers[str(job.worker_id)]
            worker.jobs_to_stop.append(job.id)
            worker.stop_news.tell()
        else:
            return
        self._end(job, state)

    def _end(self, job: Job, state: State) -> None:
        if timer := self._timers.pop(job.id, None):
            timer.cancel()
        job.state = state
        job.finished_at = time.monotonic()
        job.news.tell()

    def _is_late(self, job: Job, kind: str, body_bytes: int) -> bool:
        if job.state is State.IN_PROGRESS:
            return False
        job.late_posts.append(LatePost(kind, time.monotonic(), body_bytes))
        job.news.tell()
        return True
