"""The constraints of outputs in vLLM's core: each with its own backend, none for a gone caller.

vLLM chooses a backend for each request: xgrammar, or guidance for a schema that xgrammar does not
support. Its core makes the backend of the first request and compiles all later ones with it: after
one schema with `multipleOf`, which goes to guidance, each tool call that is required failed,
because guidance has no structural tags of the present form.
"""

import copy
import sys
import threading
from typing import Any

from vllm.v1.structured_output import StructuredOutputManager

from handler.engine.grammar_threads import grammar_threads

CORE_MODULE = "vllm.v1.engine.core"


class CallerHasLeft(Exception):
    """The request was aborted while its constraint waited to be compiled."""


class GrammarManager(StructuredOutputManager):
    """vLLM's manager, with a backend for each name that requests were checked for."""

    backend: Any

    def __init__(self, vllm_config: Any) -> None:
        super().__init__(vllm_config)
        if not vllm_config.model_config.skip_tokenizer_init:
            self.executor = grammar_threads()  # in place of threads that run beside the engine's
        self._backends: dict[str, Any] = {}
        self._lock = threading.RLock()  # the threads that compile read the backends

    def grammar_init(self, request: Any) -> None:
        """Compile a request's constraint in a thread."""
        if request.structured_output_request is None:
            return
        name = self._backend_name(request)
        with self._lock:
            first = self.backend
            self.backend = self._backends.get(name)
            super().grammar_init(request)  # makes the backend where there is none
            made, self.backend = self.backend, first or self.backend
            self._backends.setdefault(name, made if self._shares_bitmask(made) else first)

    def _create_grammar(self, request: Any) -> Any:
        if request.is_finished():
            raise CallerHasLeft
        own = copy.copy(self)
        with self._lock:
            own.backend = self._backends.get(self._backend_name(request), self.backend)
        return StructuredOutputManager._create_grammar(own, request)

    def clear_backend(self) -> None:
        """Stop the threads and release all backends."""
        super().clear_backend()
        self._backends.clear()

    def _shares_bitmask(self, backend: Any) -> bool:
        """Whether masks of a backend fit into those of the first, which allocates them for all."""
        shapes = [each.allocate_token_bitmask(1).shape for each in (self.backend, backend)]
        return bool(shapes[0] == shapes[1])

    def _backend_name(self, request: Any) -> str:
        return str(request.sampling_params.structured_outputs._backend)


def use_in_core() -> None:
    """Make this process's core use `GrammarManager`; in a process without a core do nothing."""
    if CORE_MODULE in sys.modules:
        sys.modules[CORE_MODULE].StructuredOutputManager = GrammarManager  # type: ignore[attr-defined]
