"""The tensors of a checkpoint, read from the headers of its safetensors files alone.

A header is JSON after eight bytes with its length:
https://huggingface.co/docs/safetensors/index#format
"""

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from handler.errors import ModelUnavailable, is_lasting
from handler.model import mistral
from handler.model.checkpoint import file_names, index_of_weights, shards

LENGTH_BYTES = 8
MAX_HEADER_BYTES = 100_000_000  # the format's own limit
METADATA = "__metadata__"


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
    names = file_names(folder)
    index = index_of_weights(names)
    loaded = loaded_files(names, shards(folder, index) if index else None)
    return tuple(tensor for name in loaded for tensor in tensors_in_file(folder / name))


def loaded_files(names: Iterable[str], indexed: set[str] | None) -> list[str]:
    """Return the safetensors files that an engine loads, of all files of a checkpoint.

    Args:
        names: paths in the checkpoint.
        indexed: the files that its index of weights names, None where it has no index.
    """
    weights = [name for name in names if name.endswith(".safetensors")]
    files = sorted(name for name in weights if (name in indexed if indexed else "/" not in name))
    return [name for name in files if not mistral.is_weight(name)] or files


def tensors_in_file(path: Path) -> tuple[Tensor, ...]:
    """Return the tensors of one file.

    Raises:
        ModelUnavailable: it is not a safetensors file.
    """
    with _broken_file_named(path):
        header, _ = _read_header(path)
        return _tensors_in_header(header)


def expected_bytes(path: Path) -> int:
    """Return the size that a file must have, from its header.

    Raises:
        ModelUnavailable: it is not a safetensors file, or ends in its header.
    """
    with _broken_file_named(path):
        header, data_start = _read_header(path)
        ends = [int(header[name]["data_offsets"][1]) for name in header if name != METADATA]
        return data_start + max(ends, default=0)


@contextmanager
def _broken_file_named(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, TypeError, LookupError, ArithmeticError, RecursionError) as error:
        reason = f"{path.name} is not a safetensors file"
        raise ModelUnavailable(reason, lasting=is_lasting(error)) from error


def _read_header(path: Path) -> tuple[dict[str, Any], int]:
    """Return the header, and where the data begin."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(LENGTH_BYTES), "little")
        if not 0 < length <= MAX_HEADER_BYTES:
            raise ValueError(f"a header of {length} bytes")
        return dict(json.loads(file.read(length))), LENGTH_BYTES + length


def _tensors_in_header(header: dict[str, Any]) -> tuple[Tensor, ...]:
    return tuple(
        Tensor(
            name,
            str(entry["dtype"]),
            tuple(int(size) for size in entry["shape"]),
            int(entry["data_offsets"][1]) - int(entry["data_offsets"][0]),
        )
        for name, entry in header.items()
        if name != METADATA
    )
