"""Paced streams in vLLM: tokens are gathered in a request's state until its consumer's time.

vLLM's own hands out each token's delta as soon as somebody asks, and makes an output of each.
"""

from collections.abc import Sequence
from typing import Any

from vllm.v1.engine import async_llm, output_processor
from vllm.v1.engine.output_processor import RequestOutputCollector, RequestState

from handler.engine.pacing import FlushGate, Pacer


class PacedState(RequestState):
    """In place of `vllm.v1.engine.output_processor.RequestState`: one output for many tokens."""

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self._held: list[int] = []

    def make_request_output(
        self,
        new_token_ids: Sequence[int],
        pooling_output: Any,
        finish_reason: Any,
        *rest: Any,
        **named: Any,
    ) -> Any:
        """Return the request's last output, and none before where the consumer takes those."""
        queue = self.queue
        if isinstance(queue, PacedCollector) and queue.aggregate and self.detokenizer is not None:
            self._held += new_token_ids
            if finish_reason is None:
                queue.hold(self)
                return None
            queue.forget(self)
            new_token_ids, self._held = self._held, []
        return super().make_request_output(
            new_token_ids, pooling_output, finish_reason, *rest, **named
        )

    def take(self) -> Any:
        """Return one output for all tokens since the last one."""
        held, self._held = self._held, []
        return super().make_request_output(held, None, None, None)


class PacedCollector(RequestOutputCollector):
    """In place of `vllm.v1.engine.async_llm.RequestOutputCollector`."""

    def __init__(self, gate: FlushGate, output_kind: Any, request_id: str) -> None:
        super().__init__(output_kind, request_id)
        self.ready: FlushGate = gate
        self._holding: dict[PacedState, None] = {}  # in order; several where n > 1

    def hold(self, state: PacedState) -> None:
        """Take the state's tokens when it is time."""
        if state not in self._holding:
            self._holding[state] = None
            self.ready.set()

    def forget(self, state: PacedState) -> None:
        """Its last output is put, and has all of its tokens."""
        self._holding.pop(state, None)

    def put(self, output: Any) -> None:
        """Hand out what does not wait: an end, an error, what is no stream."""
        super().put(output)
        self.ready.open()

    async def get(self) -> Any:
        """Wait until it is time, and return what there is then."""
        while (output := self.get_nowait()) is None:
            await self.ready.wait()
        return output

    def get_nowait(self) -> Any:
        """Return what there is, if it is time."""
        if not self.ready.is_set():
            return None
        holding, self._holding = self._holding, {}
        for state in holding:
            if (output := state.take()) is not None:
                super().put(output)
        self.ready.clear()
        return super().get_nowait()


def install(pacer: Pacer) -> None:
    """Have vLLM make these in place of its own, from the next request on."""

    def collector(output_kind: Any, request_id: str) -> PacedCollector:
        return PacedCollector(FlushGate(pacer), output_kind, request_id)

    async_llm.RequestOutputCollector = collector
    output_processor.RequestState = PacedState
