"""SGLang's detokenizer process, which here sends no character twice.

It sends what stands before an unfinished character, and takes that back where the next tokens
end in another one: 東京 with the first byte of は, then the rest of は with the first byte of 夜.
All of it is sent again. One token at a time hardly ever does that; several do.
"""

from typing import Any


def run(*arguments: Any, **named: Any) -> None:
    """Be the detokenizer process."""
    from sglang.srt.managers import detokenizer_manager

    detokenizer_manager.DecodeStatus = forward_status()
    detokenizer_manager.run_detokenizer_process(*arguments, **named)


def forward_status() -> type[Any]:
    """Return SGLang's state of a text that goes out, of which what is out stays out."""
    from sglang.srt.managers.detokenizer_manager import DecodeStatus

    class ForwardStatus(DecodeStatus):
        _sent = 0

        @property
        def sent_offset(self) -> int:
            return self._sent

        @sent_offset.setter
        def sent_offset(self, offset: int) -> None:
            self._sent = max(self._sent, offset)

    return ForwardStatus
