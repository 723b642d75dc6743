"""What the worker asks of an engine. Nothing outside this folder knows which engine it is."""

from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

from handler.engine.pacing import Pacer
from handler.request.media import RequestMedia
from handler.startup.timings import StartupStage

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
AsgiApp = Callable[[Scope, Receive, Send], Awaitable[None]]
"""ASGI 3, https://asgi.readthedocs.io/en/latest/specs/main.html"""


@dataclass(frozen=True)
class EngineRequest:
    """One call of the engine's app.

    Attributes:
        method: GET or POST.
        path: the app's own path, such as `/v1/chat/completions`, without a query.
        query: the query string without `?`.
        body: the bytes of the body, empty for GET.
        content_type: of the body.
        request_id: the job's id; the engines put it into their own request ids and logs.
        hides_count: whether a stream's event with nothing but its token count is for us only.
        media: what has to be brought first, for the engine may fetch nothing.
    """

    method: str
    path: str
    body: bytes = b""
    content_type: str = "application/json"
    query: str = ""
    request_id: str = ""
    hides_count: bool = False
    media: RequestMedia | None = None


@dataclass(frozen=True)
class Capacity:
    """What the engine can hold at once, known once it is up.

    Attributes:
        max_sequences: sequences in one batch.
        kv_cache_tokens: tokens that the KV cache holds over all sequences.
        max_model_tokens: the longest context of one sequence.
    """

    max_sequences: int
    kv_cache_tokens: int
    max_model_tokens: int


@dataclass(frozen=True)
class RunningEngine:
    """An engine that is up: its app, its capacity, and whether it still lives.

    Attributes:
        app: the OpenAI-compatible ASGI app, to be called on the loop it was made on.
        capacity: see `Capacity`.
        alive: says without blocking whether the engine's processes still serve.
        models: the names that callers may use, the model's first and then its adapters'.
        adapter_routes: the paths on which an adapter may be chosen, None for all.
        generates: whether the model writes text (a pooling model does not).
        request_fields: for each POST path the names that its body may carry.
        listens: whether `http.disconnect` aborts a request at once; else it is cancelled.
        stages: what the engine's own processes say of their start.
    """

    app: AsgiApp
    capacity: Capacity
    alive: Callable[[], bool]
    models: tuple[str, ...] = ()
    adapter_routes: frozenset[str] | None = None
    generates: bool = True
    request_fields: Mapping[str, frozenset[str]] = field(default_factory=dict)
    listens: bool = True
    stages: tuple[StartupStage, ...] = ()


class EngineAdapter(Protocol):
    """One engine, in the order of its start.

    `prepare` is for the main thread, which alone may install a signal's handler. `check` is quick
    and needs no device; `running` loads the weights.
    """

    name: str
    served_model_name: str

    @property
    def forks(self) -> bool:
        """After `check`: whether its processes are forks of this one.

        Nothing may run beside the engine's thread then until they are there: a child would keep
        the locks that another thread holds.
        """

    def prepare(self) -> None:
        """Do what only the main thread can; raise nothing."""

    def check(self) -> None:
        """Import the engine and let its own parser judge the flags.

        Raises:
            BadSetting: a flag or value that the engine does not take.
        """

    def running(self, pacer: Pacer) -> AbstractAsyncContextManager[RunningEngine]:
        """Start the engine on the current event loop; leaving the context stops it.

        Args:
            pacer: says how long a stream's deltas are merged.

        Raises:
            EngineStartFailed: with the engine's reason.
        """
