"""Warm-up before the first job: the engine's first tokens, and the prefixes that requests share.

A prefix is the common beginning of chats, such as a long system message with tools. It is prefilled
here, so that the first request that begins with it finds it in the KV cache.
"""

import asyncio
import json
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from handler.engine.interface import EngineRequest, RunningEngine
from handler.engine.response import send_request
from handler.engine.runtime import EngineRuntime
from handler.errors import (
    EngineError,
    EngineStartFailed,
    InvalidSetting,
    UnknownRoute,
    WorkerError,
    is_lasting,
)

log = logging.getLogger(__name__)

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
FIRST_TOKENS = 2
SETTING = "PREFIX_WARMUP"
EXPECTED = (
    "must be a JSON list, or a file with one, of system messages, message lists, or objects such "
    'as {"messages": […], "tools": […]}'
)
Prefix = Mapping[str, Any]
"""The body of a chat request."""


def parse_prefixes(setting: str | None) -> tuple[Prefix, ...]:
    """Return the prefixes in PREFIX_WARMUP.

    Raises:
        InvalidSetting: the file cannot be read, or an item is not a chat.
    """
    if setting is None:
        return ()
    text, shown = setting.strip(), setting if len(setting) < 100 else f"{setting[:100]}…"
    try:
        if not text.startswith("["):
            text = Path(text).expanduser().read_text(encoding="utf-8")
        items = json.loads(text)
        if not isinstance(items, list):
            raise ValueError("it is not a list")
        return tuple(_prefix(number, item) for number, item in enumerate(items, 1))
    except OSError as error:
        raise InvalidSetting(
            f"{SETTING}={shown!r} {EXPECTED} ({error.strerror}).", lasting=is_lasting(error)
        ) from error
    except (ValueError, RecursionError) as error:
        raise InvalidSetting(f"{SETTING}={shown!r} {EXPECTED} ({error}).") from error


def warm_up(runtime: EngineRuntime, prefixes: tuple[Prefix, ...]) -> None:
    """Have the engine generate its first tokens, then prefill the prefixes.

    Raises:
        EngineStartFailed: the engine is up but cannot generate.
        InvalidSetting: the engine refuses a prefix.
    """
    engine = runtime.running
    if engine is None or not engine.generates:
        if prefixes:
            raise InvalidSetting(f"{SETTING} is for models that generate text; this one does not.")
        return
    asyncio.run(_warm_up(runtime, engine, prefixes))


async def _warm_up(
    runtime: EngineRuntime, engine: RunningEngine, prefixes: tuple[Prefix, ...]
) -> None:
    first = {"model": engine.models[0], "prompt": "Hello", "max_tokens": FIRST_TOKENS}
    try:
        await _value(runtime, COMPLETIONS, first)
    except WorkerError as error:
        raise EngineStartFailed(f"The engine failed at its first tokens: {error}") from error
    for number, prefix in enumerate(prefixes, 1):
        body, started = _prefill_body(engine, number, prefix), time.monotonic()
        try:
            response = await _value(runtime, CHAT, body)
        except (EngineError, UnknownRoute) as error:
            raise InvalidSetting(
                f"{SETTING}: the engine refuses prefix {number}: {error}"
            ) from error
        except WorkerError as error:
            raise EngineStartFailed(f"The engine failed at prefix {number}: {error}") from error
        tokens, seconds = response["usage"]["prompt_tokens"], time.monotonic() - started
        log.info("prefix %d: %d tokens prefilled in %.1f s", number, tokens, seconds)


async def _value(runtime: EngineRuntime, path: str, body: Mapping[str, Any]) -> Any:
    request = EngineRequest("POST", path, json.dumps(body).encode(), request_id="warm-up")
    async with send_request(runtime, request) as response:
        return await response.value()


def _prefill_body(engine: RunningEngine, number: int, prefix: Prefix) -> dict[str, Any]:
    model = prefix.get("model", engine.models[0])
    if model not in engine.models:
        raise InvalidSetting(f"{SETTING}: prefix {number} names {model!r}, which is not served.")
    body = {"temperature": 0, **prefix, "model": model, "max_tokens": 1, "n": 1, "stream": False}
    # The next message follows the prefix, not the start of an answer.
    if "add_generation_prompt" in engine.request_fields.get(CHAT, ()):
        body["add_generation_prompt"] = False
    body.pop("stream_options", None)
    return body


def _prefix(number: int, item: Any) -> Prefix:
    if isinstance(item, str):
        item = [{"role": "system", "content": item}]
    if isinstance(item, list):
        item = {"messages": item}
    if not isinstance(item, dict) or not isinstance(item.get("messages"), list):
        raise ValueError(f"item {number} has no messages")
    return item
