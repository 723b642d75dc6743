"""Paced streams in vLLM: deltas are merged in its collector until their time has come."""

from typing import Any

from vllm.outputs import RequestOutput
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine.output_processor import RequestOutputCollector

from handler.pacing import Gate, Pacer


def paced(pacer: Pacer) -> type[RequestOutputCollector]:
    """Return a collector in place of `vllm.v1.engine.async_llm.RequestOutputCollector`.

    vLLM's own hands out each token's delta as soon as somebody asks.
    """

    class PacedCollector(RequestOutputCollector):
        def __init__(self, output_kind: RequestOutputKind, request_id: str) -> None:
            super().__init__(output_kind, request_id)
            self.ready = Gate(pacer)

        def put(self, output: Any) -> None:
            super().put(output)
            kept = self.output
            if not self.aggregate or not isinstance(kept, RequestOutput) or kept.finished:
                self.ready.open()

        async def get(self) -> Any:
            await self.ready.wait()
            return await super().get()

        def get_nowait(self) -> Any:
            return super().get_nowait() if self.ready.is_set() else None

    return PacedCollector
