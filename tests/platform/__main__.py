"""`python -m tests.platform -- COMMAND…`: an endpoint on this machine, with one worker.

Starts the platform, starts COMMAND as its worker, waits for the worker's first poll, and
prints three lines of Python that talk to it. Ctrl-C or SIGTERM ends both.

Exit codes: 0 after Ctrl-C or SIGTERM, 1 when the worker asked for no job in time, 127
when COMMAND cannot be started, the worker's own code when it ends by itself (128 + N for
signal N). The worker gets a session of its own, so that Ctrl-C reaches it only as
SIGTERM. When it is told to stop, its open polls are answered at once, which the real
platform is not known to do; without that the SDK needs up to a poll's length to end.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import sys
from asyncio.subprocess import Process

import aiohttp

from tests.platform.server import serving, worker_environment
from tests.platform.settings import Settings
from tests.platform.store import Store
from tests.platform.thread import WORKER_ID

ASK_WITHIN_SECONDS = 60.0
LAST_POLL_SECONDS = 0.1


def main(arguments: list[str]) -> int:
    """Read the arguments and run the endpoint; returns the exit code."""
    options = parser().parse_args(arguments)
    settings = Settings(
        port=options.port,
        api_key=options.api_key,
        post_delay_seconds=options.post_delay,
        poll_seconds=options.poll,
    )
    return asyncio.run(endpoint(Store(settings), options))


def parser() -> argparse.ArgumentParser:
    """Describe the arguments."""
    defaults = Settings()
    described = argparse.ArgumentParser(
        prog="python -m tests.platform", description="A Runpod endpoint on this machine."
    )
    add = described.add_argument
    add("--port", type=int, default=0, help="0 (the default) takes a free one")
    add("--api-key", default=defaults.api_key, help="the user's key (default: %(default)s)")
    add("--post-delay", type=float, default=0.0, metavar="S", help="seconds each POST takes")
    add("--poll", type=float, default=defaults.poll_seconds, metavar="S", help="a poll's length")
    add("--ready-within", type=float, default=900.0, metavar="S", help="for the first poll")
    add("--stop-within", type=float, default=60.0, metavar="S", help="then the worker is killed")
    add("command", nargs="+", metavar="COMMAND", help="the worker, after --")
    return described


async def endpoint(store: Store, options: argparse.Namespace) -> int:
    """Serve, start the worker, attend to it, end it."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with serving(store) as base_url:
        environment = os.environ | worker_environment(base_url, store.settings, WORKER_ID)
        try:
            worker = await asyncio.create_subprocess_exec(
                *options.command, env=environment, start_new_session=True
            )
        except OSError as problem:
            say(f"the worker cannot be started: {problem}")
            return 127
        try:
            return await attend(worker, stop, store, base_url, options.ready_within)
        finally:
            await end(worker, store, options.stop_within)


async def attend(
    worker: Process, stop: asyncio.Event, store: Store, base_url: str, ready_within: float
) -> int:
    """Wait until the worker ends or we are told to stop; returns the exit code."""
    ended = asyncio.create_task(worker.wait())
    stopped = asyncio.create_task(stop.wait())
    introduced = asyncio.create_task(introduce(store, base_url, ready_within))
    tasks = {ended, stopped, introduced}
    try:
        while not ended.done() and not stopped.done():
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if introduced.done():
                tasks.discard(introduced)
                if not introduced.result():
                    return 1
        if stopped.done():
            return 0
        code = ended.result()
        say(f"the worker ended by itself, exit code {code}")
        return code if code >= 0 else 128 - code
    finally:
        for task in (ended, stopped, introduced):
            task.cancel()


async def introduce(store: Store, base_url: str, ready_within: float) -> bool:
    """Wait for the worker and print how to talk to it; returns whether it came in time."""
    if not await store.any_worker(lambda worker: worker.ready, ready_within):
        say(f"the worker asked for no job within {ready_within:g} s")
        return False
    say(f"the worker is ready, the endpoint is {base_url}")
    try:
        model = await served_model(base_url, store.settings.api_key)
    except (aiohttp.ClientError, TimeoutError, ValueError, LookupError, TypeError) as problem:
        say(f"the worker named no model at /openai/v1/models ({problem!r}), put one for NAME:")
        model = "NAME"
    print(example(base_url, store.settings.api_key, model), flush=True)
    return True


async def served_model(base_url: str, api_key: str) -> str:
    """Ask the endpoint for the name of its first model."""
    timeout = aiohttp.ClientTimeout(total=ASK_WITHIN_SECONDS)
    headers = {"Authorization": f"Bearer {api_key}"}
    async with (
        aiohttp.ClientSession(timeout=timeout, headers=headers) as session,
        session.get(f"{base_url}/openai/v1/models", raise_for_status=True) as response,
    ):
        models = await response.json()
    return str(models["data"][0]["id"])


def example(base_url: str, api_key: str, model: str) -> str:
    """Write three lines of Python that ask the endpoint something."""
    message = {"role": "user", "content": "What is the capital of France?"}
    return "\n".join(
        [
            "from openai import OpenAI",
            f"client = OpenAI(base_url={json.dumps(base_url + '/openai/v1')}, "
            f"api_key={json.dumps(api_key)})",
            f"print(client.chat.completions.create(model={json.dumps(model)}, "
            f"messages=[{json.dumps(message)}], temperature=0).choices[0].message.content)",
        ]
    )


async def end(worker: Process, store: Store, within_seconds: float) -> None:
    """Ask the worker to end, wait, then kill it and whatever it left behind."""
    if worker.returncode is None:
        worker.terminate()
        store.settings.poll_seconds = LAST_POLL_SECONDS
        store.release_polls()
        try:
            async with asyncio.timeout(within_seconds):
                await worker.wait()
        except TimeoutError:
            say(f"the worker did not end within {within_seconds:g} s and is killed")
    with contextlib.suppress(ProcessLookupError):
        os.killpg(worker.pid, signal.SIGKILL)
        say("what was left of the worker's processes is killed")
    await worker.wait()


def say(text: str) -> None:
    """Print one line that cannot be taken for the worker's."""
    print(f"platform: {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
