"""The folder that an engine loads: weights, configuration, tokenizer, in one of three precisions.

Reads a Llama GGUF and writes what `transformers`, vLLM and SGLang expect to find. It does not
know places or checksums; `__main__.py` does. Importing it imports torch, which takes seconds.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from builder.demo import awq, fp8
from builder.demo.chat_template import with_tools
from builder.demo.gguf_llama import LlamaGguf
from builder.demo.recipe import AWQ_GROUP_SIZE, Variant
from builder.demo.tokenizer import tokenizer_config, tokenizer_json

# Float16 is AutoAWQ's dtype and the only one that some AWQ kernels take. It suits FP8 as well:
# this model's largest activations are near 25,000, where bfloat16 has steps of 128 and float16
# of 16.
DTYPES: dict[Variant, torch.dtype] = {
    "awq": torch.float16,
    "fp8": torch.float16,
    "none": torch.bfloat16,
}
DEFAULT_SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"


def write_weights(model: LlamaGguf, variant: Variant, folder: Path) -> None:
    """`model.safetensors`."""
    # Two threads that wait for each other's share of a small tensor need twenty times as long
    # where others use the same cores, and gain little where they do not.
    torch.set_num_threads(1)
    tensors = {
        name: tensor.contiguous()
        for source, weight in model.tensors()
        for name, tensor in _stored(source, torch.from_numpy(weight), variant)
    }
    # Not save_file: it reports a full disk as its own error, write_bytes as an OSError.
    (folder / "model.safetensors").write_bytes(safetensors.torch.save(tensors, {"format": "pt"}))


def write_configs(model: LlamaGguf, variant: Variant, folder: Path) -> None:
    """`config.json` and `generation_config.json`."""
    config = model.config()
    config["dtype"] = str(DTYPES[variant]).removeprefix("torch.")
    if variant == "awq":
        config["quantization_config"] = awq.quantization_config(AWQ_GROUP_SIZE)
    elif variant == "fp8":
        config["quantization_config"] = fp8.quantization_config()
    _write_json(folder / "config.json", config)
    # Upstream has these three and no sampling defaults.
    names = ("bos_token_id", "eos_token_id", "pad_token_id")
    _write_json(folder / "generation_config.json", {name: config[name] for name in names})


def write_tokenizer(model: LlamaGguf, folder: Path) -> None:
    """`tokenizer.json`, `tokenizer_config.json` and `chat_template.jinja`."""
    vocabulary = model.vocabulary()
    longest_tokens = model.config()["max_position_embeddings"]
    _write_json(folder / "tokenizer_config.json", tokenizer_config(vocabulary, longest_tokens))
    (folder / "tokenizer.json").write_text(tokenizer_json(vocabulary), encoding="utf-8")
    template = with_tools(vocabulary.chat_template, DEFAULT_SYSTEM)
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")


def _stored(
    name: str, weight: torch.Tensor, variant: Variant
) -> Iterator[tuple[str, torch.Tensor]]:
    """What is written for one weight: the linear layers are quantized, the rest is cast."""
    dtype = DTYPES[variant]
    layer = name.removesuffix(".weight")
    if variant == "awq" and layer.endswith("_proj"):
        yield from awq.tensors(layer, awq.quantize(weight, AWQ_GROUP_SIZE, dtype))
    elif variant == "fp8" and layer.endswith("_proj") and not layer.endswith(fp8.KEPT):
        yield from fp8.tensors(layer, weight)
    else:
        yield name, weight.to(dtype)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
