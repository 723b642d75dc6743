"""What the engine does before the first job: its first tokens, and the prefixes that jobs share.

A prefix is a chat's beginning, such as a long system message with tools. Its KV cache is computed
here, so that the first job that begins with it already finds it.
"""

import asyncio
import json
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from handler.engine.interface import EngineRequest
from handler.engine.runtime import EngineRuntime
from handler.errors import EngineStartFailed, InvalidSetting, WorkerError

log = logging.getLogger(__name__)

CHAT = "/v1/chat/completions"
FIRST_TOKENS = 2
SETTING = "PREFIX_WARMUP"
RIGHT = (
    "should be a JSON list, or a file with one, whose items are system messages, lists of "
    'messages, or objects such as {"messages": […], "tools": […]}'
)
Prefix = Mapping[str, Any]


def read(setting: str | None) -> tuple[Prefix, ...]:
    """Read PREFIX_WARMUP into the bodies of chats.

    Raises:
        InvalidSetting: the file cannot be read, or what is in it are no chats.
    """
    if setting is None:
        return ()
    text, shown = setting.strip(), setting if len(setting) < 100 else f"{setting[:100]}…"
    try:
        if not text.startswith("["):
            text = Path(text).expanduser().read_text(encoding="utf-8")
        items = json.loads(text)
        if not isinstance(items, list):
            raise ValueError("it is no list")
        return tuple(_prefix(number, item) for number, item in enumerate(items, 1))
    except OSError as error:
        raise InvalidSetting(f"{SETTING}={shown!r} {RIGHT} ({error.strerror}).") from error
    except (ValueError, RecursionError) as error:
        raise InvalidSetting(f"{SETTING}={shown!r} {RIGHT} ({error}).") from error


def run(host: EngineRuntime, prefixes: tuple[Prefix, ...]) -> None:
    """Have the engine write two tokens, and prefill the prefixes.

    Raises:
        EngineStartFailed: the engine is up but cannot write.
        InvalidSetting: it refuses a prefix.
    """
    running = host.running
    if running is None or not running.generates:
        if prefixes:
            raise InvalidSetting(f"{SETTING} is for models that write; this one does not.")
        return
    model = running.models[0]
    _first_tokens(host, model)
    fields = running.request_fields.get(CHAT, frozenset())
    for number, prefix in enumerate(prefixes, 1):
        # The chat goes on with another message, not with an answer: no beginning of one.
        more = {"add_generation_prompt": False} if "add_generation_prompt" in fields else {}
        name = prefix.get("model", model)
        if name not in running.models:
            raise InvalidSetting(
                f"{SETTING}: prefix {number} is for {name!r}, which is not served."
            )
        once = {"model": name, "max_tokens": 1, "n": 1, "stream": False}
        body = {"temperature": 0, **prefix, **more, **once}
        body.pop("stream_options", None)
        started = time.monotonic()
        status, text = _ask(host, CHAT, body)
        if status != 200:
            raise InvalidSetting(f"{SETTING}: the engine refuses prefix {number}: {_reason(text)}")
        tokens = json.loads(text)["usage"]["prompt_tokens"]
        seconds = time.monotonic() - started
        log.info("prefix %d: %d tokens prefilled in %.1f s", number, tokens, seconds)


def _first_tokens(host: EngineRuntime, model: str) -> None:
    body = {"model": model, "prompt": "Hello", "max_tokens": FIRST_TOKENS}
    status, text = _ask(host, "/v1/completions", body)
    if status != 200:
        raise EngineStartFailed(f"The engine failed at its first tokens: {text}")


def _ask(host: EngineRuntime, path: str, body: Mapping[str, Any]) -> tuple[int, str]:
    request = EngineRequest("POST", path, json.dumps(body).encode(), request_id="warm-up")
    try:
        return asyncio.run(_answer(host, request))
    except WorkerError as error:
        raise EngineStartFailed(f"The engine failed at its first tokens: {error}") from error


async def _answer(host: EngineRuntime, request: EngineRequest) -> tuple[int, str]:
    async with host.open(request) as exchange:
        parts = []
        while data := await exchange.read():
            parts.append(data)
        return exchange.status, b"".join(parts).decode("utf-8", "replace")


def _prefix(number: int, item: Any) -> Prefix:
    if isinstance(item, str):
        item = [{"role": "system", "content": item}]
    if isinstance(item, list):
        item = {"messages": item}
    if not isinstance(item, dict) or not isinstance(item.get("messages"), list):
        raise ValueError(f"item {number} has no messages")
    return item


def _reason(text: str) -> str:
    try:
        payload = json.loads(text)
        return str(payload.get("error", payload)["message"])
    except (ValueError, KeyError, TypeError, AttributeError):
        return text
