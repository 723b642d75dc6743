"""The platform in a thread of its own, for tests and benchmarks."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from runpod_local.endpoint_state import EndpointState, Settings
from runpod_local.jobs import Job
from runpod_local.server import running_server, worker_environment
from runpod_local.workers import Worker

T = TypeVar("T")
DEFAULT_WORKER_ID = "worker-1"
REQUESTS_CHECK_INTERVAL_SECONDS = 0.02


class Platform:
    """A running platform. Its methods may be called from any thread.

    `Job` and `Worker` objects are live: read them, do not change them.
    """

    def __init__(
        self, state: EndpointState, base_url: str, loop: asyncio.AbstractEventLoop
    ) -> None:
        self._loop = loop
        self.state = state
        self.settings = state.settings  # durations may be changed at any time
        self.api_key = state.settings.api_key
        self.faults = state.faults
        self.requests = state.requests
        self.workers = state.workers
        self.base_url = base_url
        self.openai_base_url = f"{base_url}/openai/v1"
        self.anthropic_base_url = f"{base_url}/openai"

    @property
    def post_delay_seconds(self) -> float:
        """How long an accepted job-stream or job-done POST waits for its answer."""
        return self.settings.post_delay_seconds

    @post_delay_seconds.setter
    def post_delay_seconds(self, seconds: float) -> None:
        self.settings.post_delay_seconds = seconds

    def worker_environment(self, worker_id: str = DEFAULT_WORKER_ID) -> dict[str, str]:
        """Return the environment variables that make the SDK a worker of this endpoint."""
        return worker_environment(self.base_url, self.settings, worker_id)

    def job(self, job_id: str) -> Job:
        return self.state.job(job_id)

    def submit(self, job_input: Any, *, execution_timeout_seconds: float | None = None) -> str:
        """Queue a job, as `/run` does; returns its id."""

        async def submit() -> Job:
            return self.state.submit(job_input, timeout_seconds=execution_timeout_seconds)

        return self.run_in_loop(submit()).id

    def cancel(self, job_id: str) -> None:
        """Cancel a job, as `/cancel` does."""

        async def cancel() -> None:
            self.state.cancel(self.job(job_id))

        self.run_in_loop(cancel())

    def wait(self, job_id: str, timeout_seconds: float = 60.0) -> Job:
        """Wait until a job is finished; raises TimeoutError."""
        return self.wait_until(job_id, lambda job: job.finished, timeout_seconds)

    def wait_until(
        self, job_id: str, predicate: Callable[[Job], object], timeout_seconds: float = 60.0
    ) -> Job:
        """Wait until the predicate is true for a job; raises TimeoutError."""
        job = self.job(job_id)
        if not self.run_in_loop(job.changed.wait_for(lambda: predicate(job), timeout_seconds)):
            raise TimeoutError(f"waited {timeout_seconds} s for {job}")
        return job

    def wait_for_worker(
        self,
        timeout_seconds: float,
        predicate: Callable[[Worker], object] = lambda worker: worker.ready,
    ) -> None:
        """Wait until the predicate is true for a worker at its first poll or a ping.

        Raises TimeoutError.
        """
        if not self.run_in_loop(self.state.wait_for_worker(predicate, timeout_seconds)):
            raise TimeoutError(f"waited {timeout_seconds} s for a worker")

    def wait_until_requests(self, route: str, count: int, timeout_seconds: float = 60.0) -> None:
        """Wait until a route was requested `count` times in all; raises TimeoutError."""
        until = time.monotonic() + timeout_seconds
        while self.requests[route] < count:
            if time.monotonic() > until:
                raise TimeoutError(f"{route} was requested {self.requests[route]} times")
            time.sleep(REQUESTS_CHECK_INTERVAL_SECONDS)

    def release_polls(self) -> None:
        """Answer all open polls with 204 now; later ones are held as usual."""
        self._loop.call_soon_threadsafe(self.state.release_polls)

    def run_in_loop(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine beside the server, where it may use `state`."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()


@contextmanager
def running_platform(**settings: Any) -> Iterator[Platform]:
    """Run a platform in a thread; takes the fields of `Settings`."""
    state = EndpointState(Settings(**settings))
    server = running_server(state)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="runpod-local", daemon=True)
    thread.start()
    try:
        base_url = asyncio.run_coroutine_threadsafe(server.__aenter__(), loop).result()
        try:
            yield Platform(state, base_url, loop)
        finally:
            asyncio.run_coroutine_threadsafe(server.__aexit__(None, None, None), loop).result()
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
