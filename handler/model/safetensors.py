"""The tensors of a checkpoint, read from the headers of its safetensors files alone.

A header is JSON after eight bytes with its length:
https://huggingface.co/docs/safetensors/index#format
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from handler.errors import ModelUnavailable
from handler.model.checkpoint import shards

LENGTH_BYTES = 8
MAX_HEADER_BYTES = 100_000_000  # the format's own limit


@dataclass(frozen=True)
class Tensor:
    """One tensor; `dtype` is safetensors' name of the type, such as `BF16`."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    bytes: int

    @property
    def elements(self) -> int:
        """Elements in the file; packed quantized weights hold several values in each."""
        return prod(self.shape)

    @property
    def loaded_bytes(self) -> int:
        """Size in GPU memory: engines load 32-bit weights as 16-bit ones, unless DTYPE says not."""
        return min(self.bytes, 2 * self.elements) if self.dtype == "F32" else self.bytes


def tensors_in_folder(folder: Path) -> tuple[Tensor, ...]:
    """Return the tensors that an engine loads; none where the weights have another format.

    Raises:
        ModelUnavailable: a file is not a safetensors file.
    """
    names = loaded_files((path.name for path in folder.iterdir()), shards(folder))
    return tuple(tensor for name in names for tensor in tensors_in_file(folder / name))


def loaded_files(names: Iterable[str], indexed: set[str] | None) -> list[str]:
    """Return the safetensors files that an engine loads, of all files of a checkpoint.

    Args:
        names: paths in the checkpoint.
        indexed: the files that its index of weights names, None where it has no index.
    """
    weights = [name for name in names if name.endswith(".safetensors")]
    files = sorted(name for name in weights if (name in indexed if indexed else "/" not in name))
    # Mistral publishes its own format (consolidated*.safetensors) beside the usual one.
    return [name for name in files if not name.startswith("consolidated")] or files


def tensors_in_file(path: Path) -> tuple[Tensor, ...]:
    """Return the tensors of one file.

    Raises:
        ModelUnavailable: it is not a safetensors file.
    """
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(LENGTH_BYTES), "little")
            if not 0 < length <= MAX_HEADER_BYTES:
                raise ValueError(f"a header of {length} bytes")
            return _tensors_in_header(json.loads(file.read(length)))
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise ModelUnavailable(f"{path.name} is not a safetensors file") from error


def _tensors_in_header(header: dict[str, Any]) -> tuple[Tensor, ...]:
    return tuple(
        Tensor(
            name,
            str(entry["dtype"]),
            tuple(int(size) for size in entry["shape"]),
            int(entry["data_offsets"][1]) - int(entry["data_offsets"][0]),
        )
        for name, entry in header.items()
        if name != "__metadata__"
    )
