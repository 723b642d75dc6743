"""A worker that serves HTTP, as a child process."""

import contextlib
import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO

import httpx

PING_INTERVAL_SECONDS = 0.1
PORTS = (20_000, 32_768)  # below those that Linux gives out itself
KEY = "key-of-the-tests"


@dataclass
class HttpWorker:
    """A worker that serves HTTP, its port and its key."""

    process: subprocess.Popen[bytes]
    port: int
    api_key: str = KEY

    @property
    def base_url(self):
        """Without a path."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def openai_base_url(self):
        """For OpenAI's client."""
        return f"{self.base_url}/v1"

    @property
    def anthropic_base_url(self):
        """For Anthropic's client, which adds /v1."""
        return self.base_url

    def call(self, method, path, *, key=True, **more):
        """Send a request, with the API key unless `key` is false."""
        headers = {"Authorization": f"Bearer {self.api_key}"} if key else {}
        return httpx.request(method, self.base_url + path, headers=headers, timeout=120, **more)

    def ping(self):
        """Return the status of /ping, or 0 when nothing listens."""
        try:
            return self.call("GET", "/ping", key=False).status_code
        except httpx.TransportError:
            return 0

    def wait_for_ping(self, status, within_seconds):
        """Wait until /ping answers with this status."""
        deadline = time.monotonic() + within_seconds
        while (seen := self.ping()) != status:
            if self.process.poll() is not None:
                raise RuntimeError(f"the worker ended with code {self.process.returncode}")
            if time.monotonic() > deadline:
                raise TimeoutError(f"/ping says {seen} after {within_seconds} s")
            time.sleep(PING_INTERVAL_SECONDS)


def free_port() -> int:
    """Return a port that nothing listens on, and that the system gives to nobody else."""
    while True:
        port = random.randrange(*PORTS)
        with socket.socket() as free, contextlib.suppress(OSError):
            free.bind(("127.0.0.1", port))
            return port


@contextmanager
def running_http_worker(
    command: Sequence[str],
    environment: Mapping[str, str],
    *,
    ready_within_seconds: float | None,
    log: IO[bytes] | None = None,
) -> Iterator[HttpWorker]:
    """Run a worker; yields when it is ready, or at once if `ready_within_seconds` is None."""
    port = free_port()
    process = subprocess.Popen(
        list(command),
        env={**environment, "PORT": str(port), "API_KEY": KEY},
        start_new_session=True,
        stdout=log,
        stderr=log and subprocess.STDOUT,
    )
    worker = HttpWorker(process, port)
    try:
        if ready_within_seconds is not None:
            worker.wait_for_ping(200, ready_within_seconds)
        yield worker
        if process.poll() is None:
            process.terminate()
            process.wait(60)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
