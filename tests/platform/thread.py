"""The platform in a thread of its own, for tests and benchmarks.

`with running_platform(poll_seconds=5) as platform:` gives a server on a free port. All
methods of `Platform` may be called from any thread. A `Job` that they return is the live
object: read it, do not change it.
"""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from tests.platform.faults import Faults
from tests.platform.job import Job
from tests.platform.seen import Worker
from tests.platform.server import serving, worker_environment
from tests.platform.settings import Settings
from tests.platform.store import Store

T = TypeVar("T")
WORKER_ID = "worker-1"


class Platform:
    """A running platform, seen from another thread."""

    def __init__(self, store: Store, base_url: str, loop: asyncio.AbstractEventLoop) -> None:
        self._store = store
        self._loop = loop
        self.base_url = base_url
        self.openai_base_url = f"{base_url}/openai/v1"
        self.anthropic_base_url = f"{base_url}/openai"

    @property
    def settings(self) -> Settings:
        """The settings; the durations may be changed at any time."""
        return self._store.settings

    @property
    def api_key(self) -> str:
        """The user's key."""
        return self.settings.api_key

    @property
    def post_delay_seconds(self) -> float:
        """How long each accepted job-stream and job-done POST waits for its answer."""
        return self.settings.post_delay_seconds

    @post_delay_seconds.setter
    def post_delay_seconds(self, seconds: float) -> None:
        self.settings.post_delay_seconds = seconds

    @property
    def faults(self) -> Faults:
        """What is to go wrong on the worker's side."""
        return self._store.faults

    @property
    def requests(self) -> Counter[str]:
        """How many requests came in, by route: "job-take", "job-stream", "ping", "run" …"""
        return self._store.requests

    @property
    def posts(self) -> int:
        """How many job-stream and job-done POSTs came in, refused ones included."""
        return self.requests["job-stream"] + self.requests["job-done"]

    @property
    def workers(self) -> dict[str, Worker]:
        """The workers that were seen, by id."""
        return self._store.workers

    def worker_environment(self, worker_id: str = WORKER_ID) -> dict[str, str]:
        """Return the environment variables a worker needs to be one of this endpoint."""
        return worker_environment(self.base_url, self.settings, worker_id)

    def job(self, job_id: str) -> Job:
        """Return a job; KeyError if there is none with this id."""
        return self._store.jobs[job_id]

    def submit(self, job_input: Any, *, execution_timeout_seconds: float | None = None) -> str:
        """Queue a job, as `/run` does; returns its id."""

        async def submit() -> str:
            return self._store.submit(job_input, timeout_seconds=execution_timeout_seconds).id

        return self._in_loop(submit())

    def cancel(self, job_id: str) -> None:
        """Cancel a job, as `/cancel` does."""

        async def cancel() -> None:
            self._store.cancel(self.job(job_id))

        self._in_loop(cancel())

    def wait(self, job_id: str, timeout_seconds: float = 10.0) -> Job:
        """Wait until a job is finished; TimeoutError if it is not in time."""
        return self.wait_until(job_id, lambda job: job.finished, timeout_seconds)

    def wait_until(
        self, job_id: str, condition: Callable[[Job], object], timeout_seconds: float = 10.0
    ) -> Job:
        """Wait until a condition on a job holds; TimeoutError if it does not in time."""
        job = self.job(job_id)
        if not self._in_loop(job.news.wait_for(lambda: condition(job), timeout_seconds)):
            raise TimeoutError(f"waited {timeout_seconds} s for {job}")
        return job

    def wait_for_worker(
        self,
        timeout_seconds: float,
        condition: Callable[[Worker], object] = lambda worker: worker.ready,
    ) -> None:
        """Wait until a worker asked for its first job, or until a condition on a worker holds.

        Conditions on `ready_at` and on `pings` work. TimeoutError if none holds in time.
        """
        if not self._in_loop(self._store.any_worker(condition, timeout_seconds)):
            raise TimeoutError(f"waited {timeout_seconds} s for a worker")

    def release_polls(self) -> None:
        """Answer all open polls with 204 now; new ones are held as usual."""
        self._loop.call_soon_threadsafe(self._store.release_polls)

    def drive(self, user: Callable[[Store], Coroutine[Any, Any, T]]) -> T:
        """Run a coroutine beside the server: for many jobs that no thread each could wait for."""
        return self._in_loop(user(self._store))

    def _in_loop(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()


@contextmanager
def running_platform(**options: Any) -> Iterator[Platform]:
    """Run a platform in a thread; the options are the fields of `Settings`."""
    store = Store(Settings(**options))
    loop = asyncio.new_event_loop()
    context = serving(store)
    thread = threading.Thread(target=loop.run_forever, name="platform", daemon=True)
    thread.start()
    try:
        base_url = asyncio.run_coroutine_threadsafe(context.__aenter__(), loop).result()
        try:
            yield Platform(store, base_url, loop)
        finally:
            asyncio.run_coroutine_threadsafe(context.__aexit__(None, None, None), loop).result()
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
