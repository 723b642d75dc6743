"""A model that is as good as no work, so that what is measured is what surrounds it.

Two layers, and a vocabulary of 771 tokens, each of one or two printable characters: with weights
at random the model writes any of them, and each is text.
"""

import json
import string
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from tests.support.checkpoints import tiny_llama

PRINTABLE = [chr(code) for code in range(32, 127)]
TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }} {% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


def checkpoint(folder: Path) -> Path:
    """Write the model and its tokenizer, unless they are there."""
    if not (folder / "config.json").is_file():
        tokenizer = _tokenizer()
        tiny_llama(
            folder,
            vocab_size=tokenizer.get_vocab_size(),
            bos_token_id=tokenizer.token_to_id("<s>"),
            eos_token_id=tokenizer.token_to_id("</s>"),
        )
        tokenizer.save(str(folder / "tokenizer.json"))
        config = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": "<s>",
            "eos_token": "</s>",
            "chat_template": TEMPLATE,
        }
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
        (folder / "chat_template.jinja").write_text(TEMPLATE)
    return folder


def _tokenizer() -> Tokenizer:
    letters = string.ascii_lowercase
    pairs = [(first, second) for first in letters for second in letters][:674]
    shown = [
        pre_tokenizers.ByteLevel(add_prefix_space=False).pre_tokenize_str(c)[0][0]
        for c in PRINTABLE
    ]
    words = [*shown, *(first + second for first, second in pairs)]
    vocabulary = {word: index for index, word in enumerate(words)}
    tokenizer = Tokenizer(models.BPE(vocabulary, pairs))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken("<s>"), AddedToken("</s>")])
    return tokenizer
