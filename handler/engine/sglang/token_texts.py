"""The text of each token in SGLang's outputs.

SGLang's detokenizer runs in a process of its own and sends the text of all new tokens together. It
is split here as if the detokenizer had received one token at a time.
"""

import functools
from collections.abc import Callable
from typing import Any

Output = dict[str, Any]
Decode = Callable[[list[int]], str]

INCOMPLETE = "\N{REPLACEMENT CHARACTER}"  # the last bytes are the beginning of a character


def decoder(tokenizer: Any, sampling_params: dict[str, Any]) -> Decode:
    """Return the function with which SGLang's detokenizer decodes tokens."""
    from sglang.srt.utils.patch_tokenizer import decode_without_hf_kwargs

    skip = sampling_params.get("skip_special_tokens", True)
    if not getattr(tokenizer, "is_fast", False):
        return lambda ids: str(decode_without_hf_kwargs(tokenizer, ids, skip))
    return functools.partial(
        tokenizer.decode,
        skip_special_tokens=skip,
        spaces_between_special_tokens=sampling_params.get("spaces_between_special_tokens", True),
    )


class TokenTexts:
    """Splits the outputs of one choice into one output per token.

    An output holds all text and tokens so far; with `incremental`, only the new ones.
    """

    def __init__(self, decode: Decode, *, incremental: bool) -> None:
        self._incremental = incremental
        self._lengths = TokenLengths(decode)
        self._tokens = 0
        self._sent = 0  # characters
        self._end = 0  # of the last token, by TokenLengths
        # Ends of tokens whose text SGLang holds back, because a step ended within a character.
        self._held: list[int] = []

    def split(self, output: Output) -> list[Output]:
        """Return an output for each new token; only the last may have a finish reason."""
        text, ids, meta_info = output["text"], output["output_ids"], output["meta_info"]
        # SGLang keeps appending to a list that holds all tokens.
        count = len(ids) if self._incremental else meta_info.get("completion_tokens", len(ids))
        before, first = (self._sent, 0) if self._incremental else (0, self._tokens)
        start, self._sent = self._sent, before + len(text)
        ends = self._held
        for token in ids[first:count]:
            self._end += self._lengths.following(token)
            ends.append(self._end)
        if first == start == 0 and meta_info.get("finish_reason") is None:
            # Decoded without the prompt, the first token may lose its leading space.
            lost = max(self._sent - self._end, 0)
            self._end += lost
            ends = [end + lost for end in ends]
        self._held = [end for end in ends if end > self._sent]
        self._tokens = first + len(ids[first:count])
        unfinished = meta_info | {"finish_reason": None}
        parts = []
        for position in ends[:-1]:
            end = max(start, min(position, self._sent))
            part = text[start - before if self._incremental else 0 : end - before]
            parts.append(output | {"text": part, "meta_info": unfinished})
            start = end
        return [*parts, output | {"text": text[start - before :]} if self._incremental else output]


class TokenLengths:
    """The number of characters that each token adds, as in SGLang's detokenizer.

    A token is decoded together with the tokens of the last two steps that gave text. A character
    may take several tokens; its text belongs to the last of them.
    """

    def __init__(self, decode: Decode) -> None:
        self._decode = decode
        self._ids: list[int] = []
        self._known = 0  # number of ids whose text was sent
        self._printed = 0  # characters of the other ids that were sent

    def following(self, token: int) -> int:
        """Return the number of characters that the next token adds."""
        self._ids.append(token)
        known = self._decode(self._ids[: self._known])
        text = self._decode(self._ids)[len(known) :]
        if text and not text.endswith(INCOMPLETE):
            length, self._printed = len(text) - self._printed, 0
            self._ids = self._ids[self._known :]
            self._known = len(self._ids)
            return length
        from sglang.utils import find_printable_text

        printable = max(self._printed, len(find_printable_text(text)))
        length, self._printed = printable - self._printed, printable
        return length
