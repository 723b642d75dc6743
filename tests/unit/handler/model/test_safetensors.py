"""Tensors from the headers of safetensors files."""

import pytest

from handler.errors import ModelUnavailable
from handler.model.safetensors import Tensor, loaded_files, tensors_in_file, tensors_in_folder
from tests.support.environment import MODELS, NAME


def test_the_tensors_of_a_checkpoint_are_as_large_as_its_file():
    folder = MODELS / f"{NAME}-bf16"
    tensors = tensors_in_folder(folder)
    file = folder / "model.safetensors"
    with file.open("rb") as opened:
        header_bytes = int.from_bytes(opened.read(8), "little")
    assert sum(tensor.bytes for tensor in tensors) == file.stat().st_size - 8 - header_bytes
    embedding = next(t for t in tensors if t.name == "model.embed_tokens.weight")
    assert embedding == Tensor(embedding.name, "BF16", (49152, 576), 49152 * 576 * 2)


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
