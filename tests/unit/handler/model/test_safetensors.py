"""Tensors from the headers of safetensors files."""

import pytest
import torch
from safetensors.torch import save_file

from handler.errors import ModelUnavailable
from handler.model.safetensors import (
    Tensor,
    expected_bytes,
    loaded_files,
    tensors_in_file,
    tensors_in_folder,
)


def test_the_tensors_of_a_checkpoint_are_as_large_as_its_file(tmp_path):
    weights = {
        "model.embed_tokens.weight": torch.zeros(16, 6, dtype=torch.bfloat16),
        "model.norm.weight": torch.zeros(6),
    }
    file = tmp_path / "model.safetensors"
    save_file(weights, file)
    tensors = tensors_in_folder(tmp_path)
    header_bytes = int.from_bytes(file.read_bytes()[:8], "little")
    assert sum(tensor.bytes for tensor in tensors) == file.stat().st_size - 8 - header_bytes
    assert sorted(tensors, key=lambda tensor: tensor.name) == [
        Tensor("model.embed_tokens.weight", "BF16", (16, 6), 16 * 6 * 2),
        Tensor("model.norm.weight", "F32", (6,), 6 * 4),
    ]


@pytest.mark.parametrize(
    "content",
    [b"", b"\x05", b"\xff" * 100, (8).to_bytes(8, "little") + b"{"],
    ids=["empty", "no length", "endless header", "cut header"],
)
def test_a_broken_file_is_an_error_with_its_name(tmp_path, content):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(ModelUnavailable) as raised:
        tensors_in_file(path)
    assert str(raised.value) == "model.safetensors is not a safetensors file"


def test_an_offset_beyond_all_bounds_is_an_error_with_the_files_name(tmp_path):
    header = b'{"t": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1e400]}}'
    path = tmp_path / "model.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(ModelUnavailable) as raised:
        expected_bytes(path)
    assert str(raised.value) == "model.safetensors is not a safetensors file"


@pytest.mark.parametrize(
    ("names", "indexed", "expected"),
    [
        (["b.safetensors", "a.safetensors", "c.bin"], None, ["a.safetensors", "b.safetensors"]),
        (
            ["a.safetensors", "b.safetensors"],
            {"b.safetensors", "lost.safetensors"},
            ["b.safetensors"],
        ),
        (["a.safetensors", "original/a.safetensors"], None, ["a.safetensors"]),
        (["a.safetensors", "consolidated.safetensors"], None, ["a.safetensors"]),
        (["consolidated.safetensors"], None, ["consolidated.safetensors"]),
    ],
    ids=["all", "those of the index", "not in folders", "not Mistral's", "only Mistral's"],
)
def test_engines_load_some_files_of_a_checkpoint(names, indexed, expected):
    assert loaded_files(names, indexed) == expected
