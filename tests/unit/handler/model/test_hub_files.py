"""Which files of a repository an engine loads."""

import pytest

from handler.model.hub_files import engine_files, no_model_reason


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
            ["tokenizer.model", "tekken.json", "x.tiktoken", "tokenizer.model.v3"],
            None,
            ["tekken.json", "tokenizer.model", "tokenizer.model.v3", "x.tiktoken"],
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


BOTH = [
    *("config.json", "model.safetensors", "params.json", "tekken.json"),
    *("consolidated-1.safetensors", "consolidated.safetensors.index.json", "old.safetensors"),
]


@pytest.mark.parametrize(
    ("names", "requested", "selected"),
    [
        (BOTH, False, ["config.json", "model.safetensors", "params.json", "tekken.json"]),
        (
            BOTH,
            True,
            [
                *("config.json", "consolidated-1.safetensors"),
                *("consolidated.safetensors.index.json", "params.json", "tekken.json"),
            ],
        ),
        (
            ["params.json", "consolidated.safetensors", "tokenizer.model.v7m1", "x.pdf"],
            False,
            ["consolidated.safetensors", "params.json", "tokenizer.model.v7m1"],
        ),
    ],
    ids=["both", "both, Mistral's asked for", "Mistral's alone"],
)
def test_one_of_two_formats_is_selected(names, requested, selected):
    assert engine_files("model", names, mistral_requested=requested) == selected


def test_of_code_only_python_is_selected():
    names = ["modeling_x.py", "config.json", "lib/part.py", "model.safetensors"]
    assert engine_files("code", names) == ["lib/part.py", "modeling_x.py"]


ADAPTER = (
    "m is a LoRA adapter: name it in LORA_MODULES, and give the model that "
    "base_model_name_or_path in its adapter_config.json names"
)


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (["adapter_config.json", "adapter_model.safetensors"], ADAPTER),
        (
            ["model_index.json", "x.safetensors"],
            "m is a Diffusers pipeline, not a language model",
        ),
        (["x.gguf"], "m has only GGUF weights: choose one with safetensors"),
        (
            ["config.json", "onnx/model.onnx"],
            "m has only ONNX weights: choose one with safetensors",
        ),
        (["config.json", "weights.npz"], "m has only MLX weights: choose one with safetensors"),
        (["model.safetensors"], "m has no config.json"),
        (["README.md"], "m has no weights"),
    ],
    ids=["adapter", "diffusers", "gguf", "onnx", "mlx", "no configuration", "nothing"],
)
def test_a_repository_that_is_no_model_says_what_it_is(names, reason):
    assert no_model_reason("m", names) == reason
