"""Documents cut into windows of tokens of one length: what calibrates, and what is compared on.

A window is a stretch of the text, not a document: short documents would leave most of it empty.
Importing it imports no tokenizer; the one that it is given is transformers'.
"""

import random
from collections.abc import Sequence
from typing import Any

from builder.errors import InvalidArgument
from builder.quantize.data import Document

SEED = 0  # the same documents in the same order, whenever it runs
BETWEEN = "\n\n"


def shuffled(documents: Sequence[Document]) -> list[Document]:
    """Mix the documents, which may be sorted by what they are about; always in the same way."""
    mixed = list(documents)
    random.Random(SEED).shuffle(mixed)
    return mixed


def windows(
    documents: Sequence[Document], tokenizer: Any, tokens: int, most: int
) -> list[list[int]]:
    """Cut the documents into windows, and stop when there are enough.

    Args:
        documents: in the order in which they are taken.
        tokenizer: the model's.
        tokens: of a window; the text's last one may be shorter.
        most: as many windows are made.

    Raises:
        InvalidArgument: there are no two tokens, or a chat that the model's template does not take.
    """
    start = _start(tokenizer)
    wanted = tokens - len(start)
    stream: list[int] = []
    for document in documents:
        stream += tokenizer(_text(document, tokenizer), add_special_tokens=False)["input_ids"]
        if len(stream) >= wanted * most:
            break
    cut = [start + stream[i : i + wanted] for i in range(0, len(stream), wanted)][:most]
    cut = [window for window in cut if len(window) > 1]  # one token foresees nothing
    if not cut:
        raise InvalidArgument("the text has no two tokens: give more of it.")
    return cut


def _start(tokenizer: Any) -> list[int]:
    """Return the token that every text of this model begins with, where it has one."""
    found = list(tokenizer("")["input_ids"])
    return found if found == [tokenizer.bos_token_id] else []


def _text(document: Document, tokenizer: Any) -> str:
    if isinstance(document, str):
        return document + BETWEEN
    from jinja2 import TemplateError

    try:
        return str(tokenizer.apply_chat_template(document, tokenize=False))
    except (TemplateError, ValueError, TypeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InvalidArgument(
            f"the model's chat template does not take a chat: {reason}"
        ) from error
