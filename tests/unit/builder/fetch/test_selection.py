"""Which files are fetched, and which quantization is accepted."""

import pytest

from builder.errors import CheckpointRefused
from builder.fetch.request import FetchRequest
from builder.fetch.selection import require_quantization, select_files

INDEX = "model.safetensors.index.json"
PICKLE_INDEX = "pytorch_model.bin.index.json"


@pytest.mark.parametrize(
    ("asked", "found", "accepted"),
    [
        ("auto", "awq", True),
        ("auto", "compressed-tensors-fp8", True),
        ("auto", "compressed-tensors-int4", True),
        ("auto", "fp8", True),
        ("auto", "modelopt-fp8", True),
        ("auto", "gptq", False),
        ("auto", "bitsandbytes", False),
        ("auto", None, False),
        ("none", None, True),
        ("none", "awq", False),
        ("awq", "awq", True),
        ("awq", None, False),
        ("fp8", None, False),
        ("fp8", "modelopt-fp8", True),
        ("compressed-tensors", "compressed-tensors-int4", True),
    ],
)
def test_auto_accepts_awq_and_fp8_in_any_container(asked, found, accepted):
    request = FetchRequest("org/name", quantization=asked)
    if accepted:
        require_quantization(request, found)
        return
    with pytest.raises(CheckpointRefused, match="org/name"):
        require_quantization(request, found)


@pytest.mark.parametrize(
    ("request_", "names", "indexed", "selected"),
    [
        (
            FetchRequest("o/m", patterns=("*.json", "pytorch_model.bin")),
            ["config.json", "pytorch_model.bin", "model.safetensors"],
            None,
            ["config.json", "pytorch_model.bin"],
        ),
        (
            FetchRequest("o/m", kind="tokenizer"),
            ["config.json", "tokenizer.json", "model.safetensors"],
            None,
            ["config.json", "tokenizer.json"],
        ),
        (
            FetchRequest("o/m", kind="lora"),
            ["adapter_config.json", "adapter_model.safetensors", "LICENSE", "optimizer.pt"],
            None,
            ["LICENSE", "adapter_config.json", "adapter_model.safetensors"],
        ),
    ],
    ids=["patterns", "tokenizer", "lora"],
)
def test_each_kind_has_its_files(request_, names, indexed, selected):
    assert select_files(request_, names, indexed) == selected


@pytest.mark.parametrize(
    ("request_", "names", "indexed", "message"),
    [
        (
            FetchRequest("o/m", kind="lora"),
            ["adapter_config.json"],
            None,
            "o/m has no adapter_model.safetensors: it is not a LoRA adapter.",
        ),
        (FetchRequest("o/m", kind="tokenizer"), ["config.json"], None, "o/m has no tokenizer."),
        (
            FetchRequest("o/m", patterns=("*.json", "*.bin")),
            ["config.json", PICKLE_INDEX, "pytorch_model-1.bin"],
            {"pytorch_model-1.bin", "pytorch_model-2.bin"},
            "o/m has no pytorch_model-2.bin that matches ALLOW_PATTERNS, but its index lists that "
            "file.",
        ),
        (
            FetchRequest("o/m"),
            ["config.json", INDEX, "a.safetensors"],
            {"a.safetensors", "b.safetensors"},
            "o/m has no b.safetensors, but its index lists that file.",
        ),
    ],
    ids=["lora", "tokenizer", "pickle index", "index"],
)
def test_an_incomplete_repository_is_refused(request_, names, indexed, message):
    with pytest.raises(CheckpointRefused) as refused:
        select_files(request_, names, indexed)
    assert str(refused.value) == message
