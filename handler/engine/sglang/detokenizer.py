"""The state of a stream in SGLang's detokenizer, changed so that no character is sent twice.

SGLang sends the text before an incomplete character. If the next tokens end in another incomplete
character, it resets the offset and sends that text again: 東京 with the first byte of は, then the
rest of は with the first byte of 夜. That happens when a step has several tokens, hardly ever with
one.
"""

from typing import Any


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
