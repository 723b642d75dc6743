"""What happens around the jobs: how long the start took, how many jobs at once, the warm-up."""

import asyncio
import json
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

from handler.engine.host import EngineHost
from handler.engine.protocol import Capacity, Request
from handler.errors import EngineStartFailed, WorkerError

log = logging.getLogger(__name__)

# `auto` counts on a request of this many tokens, prompt and answer: a guess, for nobody knows the
# next request's length. The engine queues, and preempts, what does not fit.
TYPICAL_REQUEST_TOKENS = 1024
WARM_UP_TOKENS = 2


class Stages:
    """Seconds that each stage of the start took, in order."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time what runs inside."""
        started = time.monotonic()
        yield
        self.seconds[name] = time.monotonic() - started

    def __str__(self) -> str:
        parts = [f"{name} {seconds:.1f} s" for name, seconds in self.seconds.items()]
        return f"start: {' · '.join(parts)} · total {sum(self.seconds.values()):.1f} s"


def concurrency(setting: str | int, capacity: Capacity) -> int:
    """Return how many jobs to take at once; MAX_CONCURRENCY=auto asks the engine's capacity."""
    if isinstance(setting, int):
        return setting
    typical = min(TYPICAL_REQUEST_TOKENS, capacity.max_model_tokens)
    return max(1, min(capacity.max_sequences, capacity.kv_cache_tokens // typical))


def warm_up(host: EngineHost, served_model_name: str) -> None:
    """Have the engine write two tokens, so that the first job does not wait for first times.

    Raises:
        EngineStartFailed: the engine is up but cannot write.
    """
    running = host.running
    if running is None or not running.generates:
        return
    body = {"model": served_model_name, "prompt": "Hello", "max_tokens": WARM_UP_TOKENS}
    request = Request("POST", "/v1/completions", json.dumps(body).encode(), request_id="warm-up")
    try:
        status, text = asyncio.run(_ask(host, request))
    except WorkerError as error:
        raise EngineStartFailed(f"The engine failed at its first tokens: {error}") from error
    if status != 200:
        raise EngineStartFailed(f"The engine failed at its first tokens: {text}")


async def _ask(host: EngineHost, request: Request) -> tuple[int, str]:
    async with host.call(request) as exchange:
        parts = []
        while data := await exchange.read():
            parts.append(data)
        return exchange.status, b"".join(parts).decode("utf-8", "replace")
