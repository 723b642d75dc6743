"""The tensors of a checkpoint, from the headers of its safetensors files alone.

A header is JSON behind eight bytes that say how long it is:
https://huggingface.co/docs/safetensors/index#format
"""

import json
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from handler.errors import ModelUnavailable
from handler.model.checkpoint import shards

LENGTH_BYTES = 8
MOST_HEADER_BYTES = 100_000_000  # the format's own limit


@dataclass(frozen=True)
class Tensor:
    """One tensor.

    Attributes:
        name: in the checkpoint.
        dtype: in safetensors' words, such as `BF16`.
        shape: its dimensions.
        bytes: its size.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    bytes: int

    @property
    def elements(self) -> int:
        """How many numbers it holds; a packed one holds several in each."""
        return prod(self.shape)

    @property
    def loaded_bytes(self) -> int:
        """What the engines make of it: of 32 bits 16, unless DTYPE says otherwise."""
        return min(self.bytes, 2 * self.elements) if self.dtype == "F32" else self.bytes


def in_folder(folder: Path) -> tuple[Tensor, ...]:
    """Return the tensors of the files that an engine loads; none where they are in another format.

    Raises:
        ModelUnavailable: a file is no safetensors file.
    """
    named = shards(folder)
    files = sorted(path for path in folder.glob("*.safetensors") if not named or path.name in named)
    # Mistral's own format lies beside the usual one.
    usual = [path for path in files if not path.name.startswith("consolidated")]
    return tuple(tensor for path in usual or files for tensor in in_file(path))


def in_file(path: Path) -> tuple[Tensor, ...]:
    """Return the tensors of one file.

    Raises:
        ModelUnavailable: it is no safetensors file.
    """
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(LENGTH_BYTES), "little")
            if not 0 < length <= MOST_HEADER_BYTES:
                raise ValueError(f"a header of {length} bytes")
            return in_header(json.loads(file.read(length)))
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise ModelUnavailable(f"{path.name} is no safetensors file") from error


def in_header(header: dict[str, Any]) -> tuple[Tensor, ...]:
    """Return the tensors that a header names."""
    named = ((name, entry) for name, entry in header.items() if name != "__metadata__")
    return tuple(
        Tensor(
            name,
            str(entry["dtype"]),
            tuple(int(each) for each in entry["shape"]),
            int(entry["data_offsets"][1]) - int(entry["data_offsets"][0]),
        )
        for name, entry in named
    )
