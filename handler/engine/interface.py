"""The interface of an engine. No code outside this folder knows which engine runs."""

from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

from handler.engine.capacity import Capacity
from handler.engine.pacing import Pacer
from handler.startup.timings import StartupStage

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
AsgiApp = Callable[[Scope, Receive, Send], Awaitable[None]]
"""ASGI 3, https://asgi.readthedocs.io/en/latest/specs/main.html"""
AUTO = -1
"""A length that the engine chooses: the longest that fits."""


@dataclass(frozen=True)
class EngineRequest:
    """One call of the engine's app.

    Attributes:
        method: GET or POST.
        path: the app's own path, such as `/v1/chat/completions`, without a query.
        body: empty for GET.
        query: the query string without `?`.
        request_id: the job's id; the engines put it into their own request ids and logs.
        hide_usage: whether the usage event of a stream is for the worker's metrics only.
        prepare_body: returns the body to send in place of `body`; awaited on the engine's loop
            before the app is called. It adds media that the engine must not fetch itself.
        transform_response: returns the JSON response for the caller from the engine's, for a
            route that the engine does not have.
    """

    method: str
    path: str
    body: bytes = b""
    content_type: str = "application/json"
    query: str = ""
    request_id: str = ""
    hide_usage: bool = False
    prepare_body: Callable[[bytes], Awaitable[bytes]] | None = None
    transform_response: Callable[[Any], Any] | None = None


@dataclass(frozen=True)
class Configuration:
    """What a start that ran out of GPU memory has tried; sizes in bytes are on each GPU.

    Attributes:
        graph_sizes: the batch sizes that have a CUDA graph, ascending.
        token_bytes, sequence_bytes: what a batched token and a sequence take in a step.
        graph_bytes: of all CUDA graphs, an estimate.
        kv_token_bytes: the KV cache of a token, None where it is not known.
        memory_fraction: of each GPU's memory, for the engine.
        min_batched_tokens: that the engine accepts.
        min_graphs: 1 where the user has decided whether there are graphs.
        has_own_cache: whether the KV cache has a size that the user has set.
        fixed: the fields with a variable that stay: the user has set them.
        settings: the variable of each field that can be lowered; `no_graphs` is that which turns
            graphs off.
        total_bytes: of the GPU's memory, 0 if it is not known.
        weight_bytes: what the weights take at least, 0 if it is not known.
    """

    batched_tokens: int
    graph_sizes: Sequence[int]
    sequences: int
    model_tokens: int
    token_bytes: int
    sequence_bytes: int
    graph_bytes: int
    kv_token_bytes: int | None
    memory_fraction: float
    min_batched_tokens: int
    min_graphs: int
    has_own_cache: bool
    fixed: frozenset[str]
    settings: Mapping[str, str]
    total_bytes: int = 0
    weight_bytes: int = 0


@dataclass(frozen=True)
class LoweredSetting:
    """A variable that the worker has lowered to fit the GPU's memory; `after` may be AUTO."""

    name: str
    before: float
    after: float

    @property
    def value(self) -> str:
        return "auto" if self.after == AUTO else str(self.after)

    def __str__(self) -> str:
        after = "what fits" if self.after == AUTO else self.value
        return f"{self.name} {self.before} → {after}"


@dataclass(frozen=True)
class RunningEngine:
    """An engine that is up.

    Attributes:
        app: the OpenAI-compatible ASGI app, to be called on the loop it was made on.
        alive: says without blocking whether the engine's processes still serve.
        models: the names that callers may use, the model's first and then its LoRA adapters'.
        adapter_routes: the paths on which a LoRA adapter may be chosen, None for all.
        generates: whether the model writes text (a pooling model does not).
        request_fields: for each POST path the field names that its body may carry.
        aborts_on_disconnect: whether `http.disconnect` aborts a request at once; else it is
            cancelled.
        stages: stages of the start that the engine's own processes have measured.
        validators: for each POST path, the check of an encoded body by the engine's own model.
        max_token_characters: the characters of the tokenizer's longest token, None if unknown.
        constrains_tools: whether tools are compiled to a constraint though the model need call none
            (TOOL_STRICT_LEVEL).
        lowered: the settings that the check of the flags has lowered.
    """

    app: AsgiApp
    capacity: Capacity
    alive: Callable[[], bool]
    models: tuple[str, ...] = ()
    adapter_routes: frozenset[str] | None = None
    generates: bool = True
    request_fields: Mapping[str, frozenset[str]] = field(default_factory=dict)
    aborts_on_disconnect: bool = True
    stages: tuple[StartupStage, ...] = ()
    validators: Mapping[str, Callable[[bytes], None]] = field(default_factory=dict)
    max_token_characters: int | None = None
    constrains_tools: bool = False
    lowered: tuple[LoweredSetting, ...] = ()


class EngineAdapter(Protocol):
    """One engine, in the order of its start: `prepare`, `check_flags`, `start`.

    The engine is imported before `check_flags`, maybe before the model is known.
    """

    name: str
    served_model_name: str

    @property
    def forks(self) -> int:
        """After `check_flags`: how many forks of this process the engine's start makes.

        Until the last of them no other thread may work: a lock that it holds stays locked in the
        fork.
        """

    def prepare(self) -> None:
        """Install the signal handlers that the engine needs; called on the main thread."""

    def check_flags(self) -> None:
        """Have the engine's own parser check the flags; quick, needs no device.

        Raises:
            InvalidSetting: the engine does not accept a flag or its value.
        """

    def start(self, pacer: Pacer) -> AbstractAsyncContextManager[RunningEngine]:
        """Load the weights and start the engine on the current event loop; leaving it stops it.

        Raises:
            EngineStartFailed: with the engine's reason.
        """

    def configuration(self) -> Configuration | None:
        """Return what a start that ran out of memory has tried, None if there is no second one."""
