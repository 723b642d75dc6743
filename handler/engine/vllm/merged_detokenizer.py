"""The tokens of a flush are decoded together: one call of the tokenizer instead of one per token.

Nobody reads the text of a stream before its flush is due, unless it may contain a stop string.
"""

import copy
from collections.abc import Sequence
from typing import Any

from vllm.v1.engine.detokenizer import FastIncrementalDetokenizer


class MergedDetokenizer:
    """A detokenizer of vLLM that decodes when its text is read.

    Args:
        detokenizer: see `can_merge`.
    """

    def __init__(self, detokenizer: FastIncrementalDetokenizer) -> None:
        self._detokenizer = detokenizer
        self._pending: list[int] = []  # tokens that are not decoded
        self._drops_last = False

    @staticmethod
    def can_merge(detokenizer: Any) -> bool:
        """Whether the text of the tokens together is that of each by itself, and none may stop."""
        return (
            isinstance(detokenizer, FastIncrementalDetokenizer)
            and not detokenizer.stop
            and detokenizer.spaces_between_special_tokens
        )

    @property
    def output_token_ids(self) -> list[int]:
        self._decode()
        token_ids: list[int] = self._detokenizer.output_token_ids
        return token_ids

    def num_output_tokens(self) -> int:
        return int(self._detokenizer.num_output_tokens()) + len(self._pending)

    def update(self, new_token_ids: Sequence[int], stop_terminated: bool) -> None:
        """Take the tokens of one step."""
        self._pending += new_token_ids
        self._drops_last = stop_terminated and not self._detokenizer.include_stop_str_in_output

    def get_next_output_text(self, finished: bool, delta: bool) -> str:
        self._decode()
        text: str = self._detokenizer.get_next_output_text(finished, delta)
        return text

    def _decode(self) -> None:
        token_ids, self._pending = self._pending, []
        detokenizer = self._detokenizer
        # A stop token is not part of the text.
        text_ids = token_ids[:-1] if self._drops_last else token_ids
        before = copy.copy(detokenizer.stream)
        text = _text_of(detokenizer, text_ids)
        if text is None:  # they end within a character, and the text before it must not wait for it
            detokenizer.stream = before
            detokenizer.update(token_ids, self._drops_last)
            return
        detokenizer.output_text += text
        detokenizer.token_ids.extend(token_ids)


def _text_of(detokenizer: FastIncrementalDetokenizer, token_ids: list[int]) -> str | None:
    """Return the text of several tokens, None where each has to be taken by itself."""
    if len(token_ids) < 2:
        return None
    try:
        text: str | None = detokenizer.stream.step(detokenizer.tokenizer, token_ids)
    except Exception:  # vLLM handles it where it takes the token by itself
        return None
    return text
