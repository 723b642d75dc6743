"""Which files of a repository an engine loads."""

import pytest

from handler.model.hub_files import engine_files


@pytest.mark.parametrize(
    ("names", "indexed", "selected"),
    [
        (["model.safetensors", "model.fp16.safetensors"], None, ["model.safetensors"]),
        (
            ["a.safetensors", "b.safetensors", "consolidated.safetensors"],
            None,
            ["a.safetensors", "b.safetensors"],
        ),
        (
            ["consolidated.safetensors", "params.json"],
            None,
            ["consolidated.safetensors", "params.json"],
        ),
        (
            ["1_Pooling/config.json", "2_Dense/model.safetensors"],
            None,
            ["1_Pooling/config.json", "2_Dense/model.safetensors"],
        ),
        (["fp16/model.safetensors", "unet/x.bin", "model.onnx"], None, []),
        (
            ["LICENSE", "NOTICE.txt", "README.md", ".gitattributes"],
            None,
            ["LICENSE", "NOTICE.txt"],
        ),
        (
            ["tokenizer.model", "tekken.json", "x.tiktoken"],
            None,
            ["tekken.json", "tokenizer.model", "x.tiktoken"],
        ),
        (
            ["model.safetensors.index.json", "x.safetensors"],
            {"y.safetensors"},
            ["model.safetensors.index.json"],
        ),
    ],
    ids=[
        *("one format", "without consolidated", "consolidated only", "sentence-transformers"),
        *("other formats", "licence", "tokenizers", "index"),
    ],
)
def test_files_are_selected_by_name(names, indexed, selected):
    assert engine_files("model", names, indexed) == selected
    assert not any(name.endswith(".safetensors") for name in engine_files("tokenizer", names))
