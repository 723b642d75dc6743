"""An HTTP server under load: the worker's, or the engine's own, with one lean client."""

import asyncio
import contextlib
import os
import shlex
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import aiohttp
import requests

from benchmarks.devices import VLLM_COMMAND
from benchmarks.load import Body, LoadTarget, Response, Send
from benchmarks.queue_worker import START_TIMEOUT_SECONDS, STOP_TIMEOUT_SECONDS

T = TypeVar("T")

API_KEY = "key"
REQUEST_TIMEOUT_SECONDS = 600.0
READY_INTERVAL_SECONDS = 0.1


@dataclass(frozen=True)
class HttpServer(LoadTarget):
    """A server that is ready."""

    url: str
    pid: int

    def drive(self, use: Callable[[Send], Coroutine[Any, Any, T]]) -> T:
        """Run load with one lean client."""

        async def users() -> T:
            async with aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0),
                timeout=aiohttp.ClientTimeout(REQUEST_TIMEOUT_SECONDS),
                headers={"Authorization": f"Bearer {API_KEY}"},
            ) as session:
                return await use(lambda body: self._send(session, body))

        return asyncio.run(users())

    async def _send(self, session: aiohttp.ClientSession, body: Body) -> Response:
        response = Response()
        pieces: list[bytes] = []
        began = time.monotonic()
        async with session.post(f"{self.url}/v1/chat/completions", json=body) as answer:
            async for data in answer.content.iter_any():
                response.flush_seconds.append(time.monotonic() - began)
                pieces.append(data)
        response.end_seconds = time.monotonic() - began
        response.messages = len(pieces)
        if answer.status != 200:
            raise RuntimeError(f"HTTP {answer.status}: {b''.join(pieces)[:500]!r}")
        response.count(b"".join(pieces).decode())
        return response


@contextmanager
def running_http_worker(environ: Mapping[str, str], python: str) -> Iterator[HttpServer]:
    """Run the worker with SERVE_MODE=http, as a PORT does by itself."""
    port = free_port()
    more = {"PORT": str(port), "API_KEY": API_KEY}
    command = [python, "-m", "handler"]
    with _running(command, {**environ, **more}, port, "/ping") as server:
        yield server


@contextmanager
def running_vllm_server(environ: Mapping[str, str], python: str) -> Iterator[HttpServer]:
    """Run vLLM's own server with the worker's engine arguments."""
    port = free_port()
    command = [python, *VLLM_COMMAND, "serve", environ["MODEL_NAME"]]
    command += ["--host", "127.0.0.1", "--port", str(port), *shlex.split(environ["ENGINE_ARGS"])]
    with _running(command, environ, port, "/health") as server:
        yield server


def free_port() -> int:
    """An unused port."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return int(unused.getsockname()[1])


@contextmanager
def _running(
    command: Sequence[str], environ: Mapping[str, str], port: int, ready_path: str
) -> Iterator[HttpServer]:
    process = subprocess.Popen(
        command,
        env=environ,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        _wait_until_ready(process, url + ready_path)
        yield HttpServer(url, process.pid)
        process.terminate()
        process.wait(STOP_TIMEOUT_SECONDS)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _wait_until_ready(process: "subprocess.Popen[bytes]", url: str) -> None:
    deadline = time.monotonic() + START_TIMEOUT_SECONDS
    while True:
        with contextlib.suppress(requests.RequestException):
            if requests.get(url, timeout=1).status_code == 200:
                return
        if process.poll() is not None:
            raise RuntimeError(f"the server ended with code {process.returncode}")
        if time.monotonic() > deadline:
            raise TimeoutError(f"{url} is not ready after {START_TIMEOUT_SECONDS:g} s")
        time.sleep(READY_INTERVAL_SECONDS)
