"""SGLang's detokenizer process, changed so that it sends no character twice.

SGLang sends the text before an incomplete character. If the next tokens end in another incomplete
character, it resets the offset and sends that text again: 東京 with the first byte of は, then the
rest of は with the first byte of 夜. That happens when a step has several tokens, hardly ever with
one.
"""

from typing import Any


def run(*arguments: Any, **named: Any) -> None:
    """Run the detokenizer; SGLang calls this in its detokenizer process."""
    from sglang.srt.managers import detokenizer_manager

    detokenizer_manager.DecodeStatus = append_only_status()
    detokenizer_manager.run_detokenizer_process(*arguments, **named)


def append_only_status() -> type[Any]:
    """Return a `DecodeStatus` whose offset of sent text never decreases."""
    from sglang.srt.managers.detokenizer_manager import DecodeStatus

    class AppendOnlyStatus(DecodeStatus):
        _sent = 0

        @property
        def sent_offset(self) -> int:
            return self._sent

        @sent_offset.setter
        def sent_offset(self, offset: int) -> None:
            self._sent = max(self._sent, offset)

    return AppendOnlyStatus
