"""Paced streams in SGLang: outputs are gathered in a request's state until their time has come."""

import weakref
from dataclasses import dataclass

from sglang.srt.managers.tokenizer_manager import ReqState

from handler.pacing import Gate, Pacer


def paced(pacer: Pacer) -> type[ReqState]:
    """Return a state in place of `sglang.srt.managers.tokenizer_manager.ReqState`.

    Its event is set for each token; the consumer takes all that has been gathered since.
    """

    class PacedGate(Gate):
        def __init__(self, state: ReqState) -> None:
            super().__init__(pacer)
            self._state = weakref.proxy(state)  # which holds this gate

        def set(self) -> None:
            if self._state.finished or not getattr(self._state.obj, "stream", False):
                self.open()
            else:
                super().set()

    @dataclass
    class PacedState(ReqState):
        def __post_init__(self) -> None:
            self.event = PacedGate(self)

    return PacedState
