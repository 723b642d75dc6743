"""An engine for the tests of what no real engine does on demand.

A real one cannot be made to hang, to break a stream in the middle, to refuse one request, to die or
to hold exactly two requests until a test has looked. What real engines do is in tests/engine.

The prompt selects the answer of /v1/completions:

| prompt     | plain                            | streamed                               |
| ---------- | -------------------------------- | -------------------------------------- |
| `wait`     | the prompt, after `may_answer`   | the same, not streamed                 |
| `slow`     | the prompt, after 0.1 s          |                                        |
| `long`     | the prompt, after 3 s            |                                        |
| `refuse`   | 400                              |                                        |
| `in a 200` | 200 with an error object         | the same, not streamed                 |
| `broken`   |                                  | two chunks, an error event, one chunk  |
| `endless`  |                                  | small chunks for ever                  |
| `flood`    |                                  | large chunks for ever                  |
| other      | the prompt                       | two chunks, the usage                  |
"""

import asyncio
import json
import os
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Literal

import psutil
from starlette.applications import Starlette
from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from handler.engine.capacity import Capacity
from handler.engine.interface import LoweredSetting, RunningEngine
from handler.engine.pacing import Pacer
from handler.engine.runtime import EngineRuntime
from handler.errors import InvalidSetting
from handler.request.body_limits import BodyLimits
from handler.request.parse import RequestParser
from handler.serve.worker import FrontEnd, NoFrontEnd, Worker

NAME = "stand-in"
CAPACITY = Capacity(max_sequences=8, kv_cache_tokens=8192, max_model_tokens=2048)
USAGE = {"prompt_tokens": 7, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 5}}
ERROR = {
    "message": "device lost at /opt/venv/lib/x.py",
    "type": "InternalServerError",
    "param": None,
    "code": 500,
}
EMBEDDINGS = (b"\0\xff", 200, {"metadata": "{}"}, "application/octet-stream")
SECONDS = {"slow": 0.1, "long": 1.0}
SLEEPS = {"long": 3}  # most of them after a freeze, during which one may end
PLAIN = ("wait", "in a 200")  # also where a stream is asked for
CHUNKS = {"endless": "x", "flood": "x" * 100_000}
CHUNK_INTERVAL_SECONDS = 0.005
LAUNCH_SECONDS = 0.3

StartFault = Literal["invalid flag", "out of memory", "process dies"]


def event(data: object) -> bytes:
    """Return one SSE event, with JSON as compact as the engines'."""
    return b"data: " + json.dumps(data, separators=(",", ":")).encode() + b"\n\n"


def text_event(text: str) -> bytes:
    """Return the event of one chunk of a completion."""
    return event({"choices": [{"index": 0, "text": text}]})


class StandInEngine:
    """The adapter of the stand-in.

    Args:
        start_fault: how the start fails.

    Attributes:
        prompts: of all requests, in the order of their arrival.
        running_requests: how many are being answered.
        max_running_requests: the most that were so far.
        may_answer: lets `wait` answer.
        launching: set when the launch has begun and has no process yet; by `process dies` only.
        alive: as the engine itself says.
        child: a process, as an engine has.
    """

    name = served_model_name = NAME
    forks = 0

    def __init__(self, start_fault: StartFault | None = None) -> None:
        self._start_fault = start_fault
        self._loop: asyncio.AbstractEventLoop | None = None
        self.prompts: list[str] = []
        self.running_requests = self.max_running_requests = 0
        self.may_answer = threading.Event()
        self.launching = threading.Event()
        self.alive = True
        self.child: psutil.Process | None = None

    def exit(self) -> None:
        """Leave the engine's thread with `sys.exit`, as SGLang does where its own loop fails."""
        self._loop.call_soon_threadsafe(sys.exit, 1)

    def prepare(self) -> None:
        pass

    def check_flags(self) -> None:
        if self._start_fault == "invalid flag":
            raise InvalidSetting("DTYPE='int3' is none")

    @asynccontextmanager
    async def start(self, pacer: Pacer) -> AsyncIterator[RunningEngine]:
        self._loop = asyncio.get_running_loop()
        if self._start_fault == "process dies":
            self.launching.set()
            time.sleep(LAUNCH_SECONDS)  # blocks the loop, as an engine's launch does
        self.child = psutil.Process(os.posix_spawnp("sleep", ["sleep", "600"], os.environ))
        if self._start_fault == "process dies":
            self.child.wait(60)  # until it is killed
            raise RuntimeError("its process died")
        if self._start_fault == "out of memory":
            try:
                raise ValueError("CUDA out of memory: 80 GiB wanted")
            except ValueError as error:
                raise RuntimeError("engine core failed") from error
        routes = [
            Route("/v1/completions", self._complete, methods=["POST"]),
            Route("/v1/embeddings", lambda _: Response(*EMBEDDINGS), methods=["POST"]),
            Route("/v1/models", lambda _: JSONResponse({"data": [{"id": NAME}]})),
            Route("/v1/responses/{id}", _response),
            Route("/v1/responses/{id}/cancel", _response, methods=["POST"]),
            Route("/v1/rerank", lambda _: JSONResponse([]), methods=["POST"]),
            Route("/v1/audio/transcriptions", _transcribe, methods=["POST"]),
            Route("/health", lambda _: Response()),
            Route("/tokenize", lambda _: Response(media_type="text/plain"), methods=["POST"]),
            Route("/metrics", lambda _: Response("vllm:num_requests_running 3.0\n")),
        ]
        yield RunningEngine(Starlette(routes=routes), CAPACITY, lambda: self.alive, (NAME,))

    async def _complete(self, request: Request) -> Response:
        body = await request.json()
        prompt = body["prompt"]
        self.prompts.append(prompt)
        if body.get("stream") and prompt not in PLAIN:
            return StreamingResponse(self._stream(prompt), media_type="text/event-stream")
        with self._counted():
            for _ in range(SLEEPS.get(prompt, 1)):
                await asyncio.sleep(SECONDS.get(prompt, 0.01))
            while prompt == "wait" and not self.may_answer.is_set():
                await asyncio.sleep(0.01)
        if prompt == "refuse":
            error = {"message": "no", "type": "BadRequestError", "param": "prompt", "code": 400}
            return JSONResponse({"error": error}, 400)
        if prompt == "in a 200":  # as the Responses API does
            return JSONResponse({"object": "response", "error": {"message": "no", "code": 422}})
        return JSONResponse({"choices": [{"text": prompt}], "usage": USAGE})

    async def _stream(self, prompt: str) -> AsyncIterator[bytes]:
        with self._counted():
            yield text_event("one ")
            while prompt in CHUNKS:
                yield text_event(CHUNKS[prompt])
                await asyncio.sleep(CHUNK_INTERVAL_SECONDS)
            yield text_event("two")
            if prompt == "broken":  # as vLLM does, which goes on after it
                yield event({"error": ERROR})
                yield text_event("three")
            yield event({"choices": [], "usage": USAGE})
            yield b"data: [DONE]\n\n"

    @contextmanager
    def _counted(self) -> Iterator[None]:
        self.running_requests += 1
        self.max_running_requests = max(self.max_running_requests, self.running_requests)
        try:
            yield
        finally:
            self.running_requests -= 1


async def _response(request: Request) -> Response:
    answer = {"id": request.path_params["id"], "method": request.method, "usage": USAGE}
    return JSONResponse(answer if request.method == "GET" else answer | {"usage": None})


async def _transcribe(request: Request) -> Response:
    """Answer with the fields of the form, and the file's name, type and content."""
    fields: dict[str, Any] = {}
    async with request.form() as form:
        for name, value in form.multi_items():
            if isinstance(value, UploadFile):
                content = (await value.read()).decode()
                value = [value.filename, value.content_type, content]
            fields.setdefault(name, []).append(value)
    return JSONResponse(fields)


@contextmanager
def runtime_of(
    engine: StandInEngine, lowered: tuple[LoweredSetting, ...] = ()
) -> Iterator[EngineRuntime]:
    """Return the stand-in's runtime; its import is over at once, and it checks its flags."""
    with EngineRuntime(lambda: None, lowered=lowered) as runtime:
        runtime.check_flags(engine)
        yield runtime


@contextmanager
def running_stand_in() -> Iterator[tuple[StandInEngine, EngineRuntime]]:
    """Run a stand-in on its thread."""
    engine = StandInEngine()
    with runtime_of(engine) as runtime:
        runtime.wait_until_up()
        yield engine, runtime


def worker_on(
    runtime: EngineRuntime,
    *,
    max_jobs: int = 8,
    front_end: FrontEnd | None = None,
    **more: Any,
) -> Worker:
    """Return a worker that answers with the stand-in."""
    limits = BodyLimits(max_values=250_000, max_items=8_192)
    parser = RequestParser((NAME,), "org/name", {}, body_limits=limits)
    return Worker(runtime, parser, max_jobs=max_jobs, front_end=front_end or NoFrontEnd(), **more)
