"""Damaged files: Git LFS pointers, and copies that were cut short.

Only headers and ends are read, which takes milliseconds, before an engine is imported.
"""

import os
import re
import zipfile
from pathlib import Path

from handler.errors import ModelUnavailable
from handler.model import mistral
from handler.model.checkpoint import (
    file_names,
    index_of_weights,
    model_named_in_errors,
    shards,
)
from handler.model.hub_files import PICKLE_SUFFIXES, broken_links, engine_files
from handler.model.reference import ArtifactKind
from handler.model.safetensors import expected_bytes, loaded_files

POINTER = re.compile(rb"version https://git-lfs\.github\.com/spec/|# xet version ")
MAX_POINTER_BYTES = 1024
END_BYTES = 64
# JSON files that an engine reads; others in a repository are not checked.
JSON_FILE = re.compile(
    r"(.*config|tokenizer|tekken|vocab|params|special_tokens_map|added_tokens|chat_template"
    r"|.*\.index)\.json"
)
TIKTOKEN_START = re.compile(rb"[A-Za-z0-9+/=]+ \d+\n")
TIKTOKEN_END = re.compile(rb"[A-Za-z0-9+/=]+ \d+\s*$")
SENTENCEPIECE_START = b"\n"  # the first field of a protobuf
MAX_SENTENCEPIECE_BYTES = 16 << 20


def check_files(folder: Path, name: str, kind: ArtifactKind) -> None:
    """Check the headers and ends of the files that an engine reads.

    Raises:
        ModelUnavailable: names the damaged file and the reason.
    """
    with model_named_in_errors(name):
        read = _files_read(folder, kind) | set(broken_links(folder, kind))
    modules = [path for path in sorted(folder.glob("[0-9]*_*/*")) if path.is_file()]
    for path in [*(folder / each for each in sorted(read)), *modules]:
        if reason := damage(path):
            if folder.parent.name == "snapshots" and os.access(folder, os.W_OK):
                reason += f"; remove {folder.parents[1]} to have it fetched again"
            raise ModelUnavailable(f"{name} in {folder}: {path.relative_to(folder)} {reason}.")


def damage(path: Path) -> str | None:
    """Return what is wrong with a file, None if no damage is found."""
    if path.is_symlink() and not path.exists():
        return f"is a link to {path.readlink()}, which does not exist"
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(min(size, MAX_POINTER_BYTES))
        file.seek(max(0, size - END_BYTES))
        end = file.read()
    if size <= MAX_POINTER_BYTES and POINTER.match(start):
        return (
            f"is a Git LFS pointer of {size} bytes, not the file: run `git lfs pull` where it was "
            "cloned, or download it from the hub"
        )
    if path.suffix == ".safetensors":
        return _safetensors_damage(path, size)
    if JSON_FILE.fullmatch(path.name):
        return None if end.rstrip()[-1:] in (b"}", b"]") else _cut_short(size, "JSON")
    if path.suffix in (".model", ".tiktoken"):
        return _vocabulary_damage(path, size, start, end)
    if path.suffix in (".bin", ".pt") and start.startswith(b"PK"):
        return None if zipfile.is_zipfile(path) else _cut_short(size, "a PyTorch file")
    if path.suffix == ".gguf":
        return None if start.startswith(b"GGUF") else "is not a GGUF file"
    return None


def _files_read(folder: Path, kind: ArtifactKind) -> set[str]:
    """Return the files in a folder that an engine reads, and check that no shard is missing.

    A model may be without any weights: LOAD_FORMAT=dummy needs none.
    """
    names = file_names(folder)
    if kind != "model":
        return set(engine_files(kind, names))
    index = index_of_weights(names)
    if index and damage(folder / index):  # which is reported with the other files
        return {index}
    indexed = shards(folder, index) if index else None
    # If both formats exist, vLLM prefers Mistral's.
    weights = {*loaded_files(names, indexed), *filter(mistral.is_weight, names)}
    missing = [each for each in sorted(indexed or ()) if not (folder / each).is_file()]
    if missing and any(name.endswith(".safetensors") for name in names):
        raise ModelUnavailable(f"{folder} has no {missing[0]}, which is in its index")
    if not weights:
        weights = {each for each in names if each.endswith((".gguf", *PICKLE_SUFFIXES))}
    return {*weights, *engine_files("tokenizer", names)}


def _safetensors_damage(path: Path, size: int) -> str | None:
    try:
        expected = expected_bytes(path)
    except ModelUnavailable as error:
        if not error.lasting:
            raise
        return _cut_short(size, "a safetensors file")
    if size < expected:
        return f"was cut short: it has {size} of {expected} bytes"
    return f"has {size} bytes, but its header describes {expected}" if size > expected else None


def _vocabulary_damage(path: Path, size: int, start: bytes, end: bytes) -> str | None:
    """Check a sentencepiece model, or a vocabulary of tiktoken under either name."""
    if start.startswith(SENTENCEPIECE_START):
        is_whole = size > MAX_SENTENCEPIECE_BYTES or _is_whole_protobuf(path.read_bytes())
        return None if is_whole else _cut_short(size, "a sentencepiece model")
    if path.suffix == ".tiktoken" or TIKTOKEN_START.match(start):
        return None if TIKTOKEN_END.search(end) else _cut_short(size, "a vocabulary")
    return None if size else _cut_short(size, "a vocabulary")


def _is_whole_protobuf(content: bytes) -> bool:
    """Whether the fields of a protobuf message end where the message ends."""
    position = 0
    try:
        while position < len(content):
            tag, position = _varint(content, position)
            wire_type = tag & 7
            if wire_type == 0:
                _, position = _varint(content, position)
            elif wire_type == 2:
                length, position = _varint(content, position)
                position += length
            elif wire_type in (1, 5):
                position += 8 if wire_type == 1 else 4
            else:
                return False
    except IndexError:
        return False
    return position == len(content)


def _varint(content: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = content[position]
        position += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, position


def _cut_short(size: int, what: str) -> str:
    if not size:
        return "is empty"
    return f"is not {what}, or was cut short: it has {size} bytes"
