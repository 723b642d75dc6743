"""The worker's HTTP door beside the engine's own server: same engine, same flags, same client.

They take turns, so that a slow minute of the machine does not hit one of them only.
"""

import contextlib
import os
import shlex
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from statistics import median

from benchmarks import http_load
from benchmarks.case import Bench, Case, Measured
from benchmarks.endpoint import START_SECONDS, STOP_SECONDS
from benchmarks.proxy import SERVE
from benchmarks.report import Row, Table, at_least
from benchmarks.workers import WORKER
from tests.support.http_worker import free_port

TOKENS = 128
STREAMS = (1, 16, 64, 192)
KEY = "key"
LOOK_SECONDS = 0.1


def measure(bench: Bench) -> Measured:
    """Start each several times, and load it; medians."""
    environ = bench.environment()
    loads: dict[str, list[dict[int, http_load.HttpLoad]]] = {"server": [], "worker": []}
    for _ in range(bench.starts):
        for name, runs in loads.items():
            with _serving(name, environ) as (url, pid):
                runs.append(
                    {
                        streams: http_load.measure(
                            url, KEY, pid, streams, max(streams, 2) * bench.rounds * 2, TOKENS
                        )
                        for streams in STREAMS
                    }
                )
    return {
        name: {
            streams: {
                figure: median(asdict(run[streams])[figure] for run in runs)
                for figure in asdict(runs[0][streams])
            }
            for streams in STREAMS
        }
        for name, runs in loads.items()
    }


def tables(measured: Measured) -> Sequence[Table]:
    """Return the worker against the server."""
    figures = {
        "tokens_per_second": "tokens/s",
        "first_token_p50": "time to first token, p50 (s)",
        "first_token_p99": "time to first token, p99 (s)",
        "cpu_ms_per_token": "CPU per token (ms)",
        "reads_per_stream": "pieces of a stream",
    }
    rows = [
        Row(
            f"{what}, {streams} streams",
            measured["server"][streams][figure],
            measured["worker"][streams][figure],
            at_least(1.0) if (figure, streams) == ("tokens_per_second", "192") else None,
        )
        for figure, what in figures.items()
        for streams in map(str, STREAMS)
    ]
    return [Table("engine's own server", "worker", rows)]


@contextmanager
def _serving(name: str, environ: Mapping[str, str]) -> Iterator[tuple[str, int]]:
    """Run one of the two; give its URL and its process."""
    port = free_port()
    if name == "worker":
        command, ready = list(WORKER.command), "/ping"
        more = {"PORT": str(port), "API_KEY": KEY}
    else:
        command, ready, more = [sys.executable, "-c", SERVE, "serve"], "/health", {}
        command += [environ["MODEL_NAME"], "--host", "127.0.0.1", "--port", str(port)]
        command += shlex.split(environ["ENGINE_ARGS"])
    process = subprocess.Popen(
        command,
        env={**environ, **more},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        _wait_until_ready(process, url + ready)
        yield url, process.pid
        process.terminate()
        process.wait(STOP_SECONDS)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _wait_until_ready(process: "subprocess.Popen[bytes]", url: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        with (
            contextlib.suppress(urllib.error.URLError, ConnectionError),
            urllib.request.urlopen(url) as answer,
        ):
            if answer.status == 200:
                return
        if process.poll() is not None:
            raise RuntimeError(f"the server ended with code {process.returncode}")
        if time.monotonic() > deadline:
            raise TimeoutError(f"{url} is not ready after {START_SECONDS} s")
        time.sleep(LOOK_SECONDS)


CASE = Case("http", "The HTTP door beside the engine's own server", measure, tables)
