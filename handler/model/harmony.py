"""The vocabulary of OpenAI's harmony format, made from the tokenizer of a gpt-oss checkpoint.

The package openai-harmony downloads it from a host of its own at the first use, which fails in an
image without a network. vLLM's fork of the package has it built in, SGLang's does not. The tokens
of tokenizer.json are the same, and a checksum proves it.
"""

import base64
import hashlib
import logging
import os
from pathlib import Path

from handler.errors import ModelUnavailable
from handler.model.checkpoint import json_object, model_config

log = logging.getLogger(__name__)

VARIABLE = "TIKTOKEN_ENCODINGS_BASE"  # where the package looks for the file
FILE = "o200k_base.tiktoken"
SHA256 = "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d"


def uses_harmony(folder: Path) -> bool:
    """Whether a checkpoint is a gpt-oss, whose answers the engines parse with harmony."""
    return model_config(folder).get("model_type") == "gpt_oss"


def write_vocabulary(tokenizer: Path, cache: Path) -> dict[str, str]:
    """Write the vocabulary of a tokenizer's folder; return the variable that names it.

    The result is empty where the tokenizer has another vocabulary: the package then downloads it.
    """
    file = cache / FILE
    try:
        if not file.is_file() or hashlib.sha256(file.read_bytes()).hexdigest() != SHA256:
            content = _vocabulary(tokenizer / "tokenizer.json")
            if hashlib.sha256(content).hexdigest() != SHA256:
                raise ModelUnavailable("tokenizer.json has another vocabulary")
            cache.mkdir(parents=True, exist_ok=True)
            partial = file.with_name(f"{FILE}.{os.getpid()}")
            partial.write_bytes(content)
            partial.replace(file)
    except (ModelUnavailable, OSError) as error:
        log.warning(
            "harmony's vocabulary is downloaded at the first use (%s): without a network set %s to "
            "a folder with %s",
            error,
            VARIABLE,
            FILE,
        )
        return {}
    return {VARIABLE: str(cache)}


def _vocabulary(path: Path) -> bytes:
    """Return a byte-level BPE vocabulary as tiktoken writes it: token in base64, rank."""
    model = json_object(path).get("model")
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    if not isinstance(vocabulary, dict):
        raise ModelUnavailable("tokenizer.json has no vocabulary")
    bytes_of = _bytes_of_characters()
    try:
        tokens = sorted(
            (rank, bytes(map(bytes_of.__getitem__, t))) for t, rank in vocabulary.items()
        )
    except (KeyError, TypeError) as error:
        raise ModelUnavailable("tokenizer.json has no vocabulary of bytes") from error
    return b"".join(base64.b64encode(token) + b" %d\n" % rank for rank, token in tokens)


def _bytes_of_characters() -> dict[str, int]:
    """Return the byte behind each character of a byte-level BPE (GPT-2's table)."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {
        chr(256 + index): byte for index, byte in enumerate(others)
    }
