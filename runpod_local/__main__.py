"""`python -m runpod_local -- COMMAND…`: an endpoint on this machine with one worker.

Starts the platform and COMMAND as its worker, waits for the worker's first poll, and prints three
lines of Python that call it. Ctrl-C or SIGTERM stops both, a second one kills the worker.

Exit codes: 0 after Ctrl-C or SIGTERM; 1 when the worker did not poll in time; 127 when COMMAND
cannot be started; the worker's own code when it exits by itself (128 + N for signal N).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import functools
import json
import os
import signal
import sys
from asyncio.subprocess import Process

import aiohttp

from runpod_local.endpoint_state import EndpointState, Settings
from runpod_local.platform import DEFAULT_WORKER_ID
from runpod_local.server import running_server, worker_environment
from runpod_local.worker_process import POLL_SECONDS_WHILE_STOPPING

MODEL_LIST_TIMEOUT_SECONDS = 60.0


def main(arguments: list[str]) -> int:
    """Run the endpoint; returns the exit code."""
    options = build_parser().parse_args(arguments)
    settings = Settings(
        port=options.port,
        api_key=options.api_key,
        post_delay_seconds=options.post_delay,
        poll_seconds=options.poll,
    )
    return asyncio.run(run_endpoint(EndpointState(settings), options))


def build_parser() -> argparse.ArgumentParser:
    defaults = Settings()
    parser = argparse.ArgumentParser(
        prog="python -m runpod_local", description="A Runpod endpoint on this machine."
    )
    add = parser.add_argument
    add_seconds = functools.partial(add, type=float, metavar="S")
    shown = "(default: %(default)g)"
    add("--port", type=int, default=0, help="port on 127.0.0.1; 0, the default, selects a free one")
    add("--api-key", default=defaults.api_key, help="the user's key (default: %(default)s)")
    add_seconds("--post-delay", default=0.0, help=f"seconds until a POST is answered {shown}")
    add_seconds(
        "--poll", default=defaults.poll_seconds, help=f"seconds that a poll waits for a job {shown}"
    )
    add_seconds("--ready-within", default=900.0, help=f"time limit for the first poll {shown}")
    add_seconds(
        "--stop-within", default=60.0, help=f"time limit for the exit after SIGTERM {shown}"
    )
    add("command", nargs="+", metavar="COMMAND", help="the worker, after --")
    return parser


async def run_endpoint(state: EndpointState, options: argparse.Namespace) -> int:
    """Serve, run the worker until it exits or a signal comes; returns the exit code."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with running_server(state) as base_url:
        environment = os.environ | worker_environment(base_url, state.settings, DEFAULT_WORKER_ID)
        try:
            # In a session of its own, so that Ctrl-C reaches the worker only as SIGTERM.
            worker = await asyncio.create_subprocess_exec(
                *options.command, env=environment, start_new_session=True
            )
        except OSError as error:
            log(f"the worker cannot be started: {error}")
            return 127
        try:
            return await wait_for_end(worker, stop, state, base_url, options.ready_within)
        finally:
            stop.clear()
            await stop_worker(worker, stop, state, options.stop_within)


async def wait_for_end(
    worker: Process,
    stop: asyncio.Event,
    state: EndpointState,
    base_url: str,
    ready_within_seconds: float,
) -> int:
    """Wait until the worker exits, a signal comes or the worker is late; returns the exit code."""
    exited = asyncio.create_task(worker.wait())
    stopped = asyncio.create_task(stop.wait())
    announced = asyncio.create_task(announce_endpoint(state, base_url, ready_within_seconds))
    try:
        await asyncio.wait({exited, stopped, announced}, return_when=asyncio.FIRST_COMPLETED)
        if announced.done():
            if not announced.result():
                return 1
            await asyncio.wait({exited, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if stopped.done():
            return 0
        code = exited.result()
        log(f"the worker ended by itself, exit code {code}")
        return code if code >= 0 else 128 - code
    finally:
        for task in (exited, stopped, announced):
            task.cancel()


async def announce_endpoint(
    state: EndpointState, base_url: str, ready_within_seconds: float
) -> bool:
    """Wait for the worker and print how to call it; returns whether it was ready in time."""
    if not await state.wait_for_worker(lambda worker: worker.ready, ready_within_seconds):
        log(f"the worker did not poll for a job within {ready_within_seconds:g} s")
        return False
    log(f"the worker is ready, the endpoint is {base_url}")
    api_key = state.settings.api_key
    try:
        model = await first_model(base_url, api_key)
    except (aiohttp.ClientError, TimeoutError, ValueError, LookupError, TypeError) as error:
        log(f"/openai/v1/models has no model's name ({error!r}): replace NAME in the example")
        model = "NAME"
    message = {"role": "user", "content": "What is the capital of France?"}
    print(
        "",
        "from openai import OpenAI",
        f"client = OpenAI(base_url={json.dumps(base_url + '/openai/v1')}, "
        f"api_key={json.dumps(api_key)})",
        f"print(client.chat.completions.create(model={json.dumps(model)}, "
        f"messages=[{json.dumps(message)}], temperature=0).choices[0].message.content)",
        sep="\n",
        flush=True,
    )
    return True


async def first_model(base_url: str, api_key: str) -> str:
    """Return the name of the endpoint's first model."""
    timeout = aiohttp.ClientTimeout(total=MODEL_LIST_TIMEOUT_SECONDS)
    headers = {"Authorization": f"Bearer {api_key}"}
    async with (
        aiohttp.ClientSession(timeout=timeout, headers=headers) as session,
        session.get(f"{base_url}/openai/v1/models", raise_for_status=True) as response,
    ):
        models = await response.json()
    return str(models["data"][0]["id"])


async def stop_worker(
    worker: Process, stop: asyncio.Event, state: EndpointState, timeout_seconds: float
) -> None:
    """Send SIGTERM, wait for the exit or another signal, kill the rest of the process group."""
    if worker.returncode is None:
        worker.terminate()
        state.settings.poll_seconds = POLL_SECONDS_WHILE_STOPPING
        state.release_polls()
        tasks = {asyncio.create_task(worker.wait()), asyncio.create_task(stop.wait())}
        done, pending = await asyncio.wait(
            tasks, timeout=timeout_seconds, return_when=asyncio.FIRST_COMPLETED
        )
        for task in pending:
            task.cancel()
        if not done:
            log(f"the worker did not end within {timeout_seconds:g} s and is killed")
    with contextlib.suppress(ProcessLookupError):
        os.killpg(worker.pid, signal.SIGKILL)
        log("the worker's remaining processes are killed")
    await worker.wait()


def log(text: str) -> None:
    """Print a line with a prefix that the worker's lines do not have."""
    print(f"platform: {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
