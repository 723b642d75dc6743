"""The baseline: a worker that starts vLLM's server as a subprocess and forwards each job to it.

    MODEL_NAME=folder ENGINE_ARGS='--max-num-seqs 256' python -m benchmarks.baseline

Common workers are built this way: the server's health is polled until it answers, and each piece of
a stream is yielded as it arrives. Written for the benchmarks, from
that description alone; nothing of it is part of the worker.

Prints one line of JSON: when it started the server and when it found it healthy, in seconds of the
monotonic clock, which the machine's processes share.
"""

import json
import os
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import requests
import runpod

from benchmarks.devices import VLLM_COMMAND

HEALTH_INTERVAL_SECONDS = 2.0


def main() -> None:
    """Start the server, wait until it is healthy, and take jobs."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    command = [sys.executable, *VLLM_COMMAND, "serve", os.environ["MODEL_NAME"]]
    command += ["--host", "127.0.0.1", "--port", str(port), "--served-model-name", "model"]
    server_started_at = time.monotonic()
    server = subprocess.Popen([*command, *shlex.split(os.environ.get("ENGINE_ARGS", ""))])
    url = f"http://127.0.0.1:{port}"
    while not _is_healthy(url):
        if server.poll() is not None:
            sys.exit(server.returncode)
        time.sleep(HEALTH_INTERVAL_SECONDS)
    times = {"server_started_at": server_started_at, "healthy_at": time.monotonic()}
    print(json.dumps(times), flush=True)
    concurrency = int(os.environ.get("MAX_CONCURRENCY", "300"))
    sessions: list[aiohttp.ClientSession] = []

    async def handler(job: dict[str, Any]) -> AsyncIterator[str]:
        if not sessions:
            sessions.append(aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)))
        route, body = job["input"]["openai_route"], job["input"]["openai_input"]
        async with sessions[0].post(url + route, json={**body, "model": "model"}) as response:
            async for data in response.content.iter_any():
                yield data.decode("utf-8", "replace")

    runpod.serverless.start(
        {
            "handler": handler,
            "concurrency_modifier": lambda _: concurrency,
            "return_aggregate_stream": True,
        }
    )


def _is_healthy(url: str) -> bool:
    try:
        return requests.get(f"{url}/health", timeout=1).ok
    except requests.RequestException:
        return False


if __name__ == "__main__":
    main()
