"""A stream's tokens wait in vLLM's output processor until its next flush is due.

One output is made of all of them, so that work is done per flush and not per token.
"""

from collections.abc import Sequence
from typing import Any

from vllm.v1.engine import FinishReason
from vllm.v1.engine.exceptions import EngineDeadError
from vllm.v1.engine.output_processor import RequestOutputCollector, RequestState

from handler.engine.pacing import FlushGate
from handler.engine.runtime import ENGINE_DIED
from handler.engine.vllm.merged_detokenizer import MergedDetokenizer


class EndedByEngine(EngineDeadError):
    """The engine core ended a request that no caller aborted."""

    def __str__(self) -> str:
        return ENGINE_DIED


class PacedState(RequestState):
    """State of a request that makes one output of many tokens."""

    detokenizer: Any

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self._pending: list[int] = []  # token ids that are in no output yet
        queue = self.queue
        is_stream = isinstance(queue, PacedCollector) and bool(queue.aggregate)
        self._is_merged = is_stream and self.detokenizer is not None
        self.detokenizer = self._wrapped(self.detokenizer)

    def _wrapped(self, detokenizer: Any) -> Any:
        """Return the detokenizer for this request's text."""
        if self._is_merged and MergedDetokenizer.can_merge(detokenizer):
            return MergedDetokenizer(detokenizer)
        return detokenizer

    def make_request_output(
        self,
        new_token_ids: Sequence[int],
        pooling_output: Any,
        finish_reason: Any,
        *rest: Any,
        **named: Any,
    ) -> Any:
        """Return the last output of a stream; the collector gets the earlier ones with `take`.

        A request that the engine core ends because it exits itself fails: vLLM would end the
        response as if it were complete. A request that its caller aborted has no reader.
        """
        queue = self.queue
        if finish_reason is FinishReason.ABORT and queue is not None:
            queue.put(EndedByEngine())
            return None
        if self._is_merged:
            self._pending += new_token_ids
            if finish_reason is None:
                queue.add_pending(self)
                return None
            queue.discard_pending(self)
            new_token_ids, self._pending = self._pending, []
        return super().make_request_output(
            new_token_ids, pooling_output, finish_reason, *rest, **named
        )

    def take(self) -> Any:
        """Return one output of all tokens since the last one."""
        pending, self._pending = self._pending, []
        return super().make_request_output(pending, None, None, None)


class PacedCollector(RequestOutputCollector):
    """Hands a stream's outputs to its consumer when a flush is due."""

    def __init__(self, gate: FlushGate, output_kind: Any, request_id: str) -> None:
        super().__init__(output_kind, request_id)
        self.ready: FlushGate = gate
        self._pending: dict[PacedState, None] = {}  # in order; several states where n > 1

    def add_pending(self, state: PacedState) -> None:
        """Take the state's tokens at the next flush."""
        if state not in self._pending:
            self._pending[state] = None
            self.ready.set()

    def discard_pending(self, state: PacedState) -> None:
        """Forget the state's tokens, because its last output has all of them."""
        self._pending.pop(state, None)

    def put(self, output: Any) -> None:
        """Hand out at once the last output, an error, or an output that is not streamed."""
        super().put(output)
        self.ready.open()

    async def get(self) -> Any:
        """Wait for the next flush."""
        while (output := self.get_nowait()) is None:
            await self.ready.wait()
        return output

    def get_nowait(self) -> Any:
        """Return the next output, None before a flush is due."""
        if not self.ready.is_set():
            return None
        pending, self._pending = self._pending, {}
        for state in pending:
            if (output := state.take()) is not None:
                super().put(output)
        self.ready.clear()
        return super().get_nowait()
