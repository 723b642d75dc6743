"""Write the files that an engine loads: configuration, tokenizer and weights.

Importing it imports torch, which takes seconds.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from builder.demo.llama_gguf import LlamaGguf
from builder.demo.quantization import (
    FP8_IGNORED,
    awq_config,
    awq_tensors,
    fp8_config,
    fp8_tensors,
    quantize_awq,
)
from builder.demo.variants import AWQ_GROUP_SIZE, Precision

# Float16 is AutoAWQ's dtype and the only one that some AWQ kernels take. It suits FP8 as well: this
# model's largest activations are near 25,000, where bfloat16 has steps of 128 and float16 of 16.
DTYPES = {"awq": torch.float16, "fp8": torch.float16, "none": torch.bfloat16}
# Upstream's template cannot render tools. A chat with tools, calls or results is rendered as
# NousResearch's Hermes and Qwen2.5 do, which the engines' `hermes` tool parser reads; any other
# chat with upstream's template, unchanged.
CHAT_TEMPLATE = Path(__file__).with_name("chat_template.jinja")
DEFAULT_SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"


def write_weights(model: LlamaGguf, precision: Precision, folder: Path) -> None:
    """Write `model.safetensors`: linear layers quantized, the rest in the variant's dtype."""
    # Two threads that share small tensors take twenty times as long where others use the same
    # cores, and gain little where they do not.
    torch.set_num_threads(1)
    tensors = {
        stored_name: tensor.contiguous()
        for name, weight in model.tensors()
        for stored_name, tensor in _stored(name, torch.from_numpy(weight), precision)
    }
    # Not save_file: it reports a full disk as its own error, write_bytes as an OSError.
    (folder / "model.safetensors").write_bytes(safetensors.torch.save(tensors, {"format": "pt"}))


def write_configs(model: LlamaGguf, precision: Precision, folder: Path) -> None:
    """Write `config.json` and `generation_config.json`."""
    config = model.config()
    config["dtype"] = str(DTYPES[precision]).removeprefix("torch.")
    if precision == "awq":
        config["quantization_config"] = awq_config(AWQ_GROUP_SIZE)
    elif precision == "fp8":
        config["quantization_config"] = fp8_config()
    _write_json(folder / "config.json", config)
    # Upstream has no sampling defaults.
    names = ("bos_token_id", "eos_token_id", "pad_token_id")
    _write_json(folder / "generation_config.json", {name: config[name] for name in names})


def write_tokenizer(model: LlamaGguf, folder: Path) -> None:
    """Write `tokenizer.json`, `tokenizer_config.json` and `chat_template.jinja`."""
    _write_json(folder / "tokenizer_config.json", model.tokenizer_config())
    (folder / "tokenizer.json").write_text(model.tokenizer_json(), encoding="utf-8")
    template = CHAT_TEMPLATE.read_text(encoding="utf-8")
    template = template.replace("@DEFAULT_SYSTEM@", DEFAULT_SYSTEM)
    template = template.replace("@ORIGINAL@", model.value("tokenizer.chat_template"))
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")


def _stored(
    name: str, weight: torch.Tensor, precision: Precision
) -> Iterator[tuple[str, torch.Tensor]]:
    dtype, layer = DTYPES[precision], name.removesuffix(".weight")
    if precision == "awq" and layer.endswith("_proj"):
        yield from awq_tensors(layer, quantize_awq(weight, AWQ_GROUP_SIZE, dtype))
    elif precision == "fp8" and layer.endswith("_proj") and not layer.endswith(FP8_IGNORED):
        yield from fp8_tensors(layer, weight)
    else:
        yield name, weight.to(dtype)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
