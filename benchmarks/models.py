"""Llama checkpoints without weights: the engine fills them at random (`load_format=dummy`).

Such a model has only a shape and a quantization. Its output is meaningless; its speed is that of a
trained model of the same shape. Every token of its tokenizer is printable text.
"""

import itertools
import json
import string
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }} {% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
EMPTY_SAFETENSORS = b"\x02\0\0\0\0\0\0\0{}"  # a header of two bytes, no tensors
AWQ_GROUP_SIZE = 128


@dataclass(frozen=True)
class Shape:
    """Sizes of a Llama. The last two tokens of the vocabulary are `<s>` and `</s>`."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    rope_theta: float


SHAPES: Mapping[str, Shape] = {
    "8b": Shape(4096, 14336, 32, 32, 8, 128, 128_256, 500_000.0),  # Llama 3.1 8B
    # Almost no work, so that the code around the model is measured. 32 is the smallest head size
    # that vLLM's attention on a CPU supports; 771 tokens have one or two characters each.
    "tiny": Shape(64, 128, 2, 4, 2, 32, 771, 10_000.0),
}


def write_model(folder: Path, shape: Shape, quantization: str = "none") -> Path:
    """Write a checkpoint unless it is there; quantization is "none", "fp8" or "awq"."""
    if (folder / "config.json").is_file():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    make_tokenizer(shape.vocabulary).save(str(folder / "tokenizer.json"))
    tokenizer_config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "chat_template": CHAT_TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer_config))
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    (folder / "model.safetensors").write_bytes(EMPTY_SAFETENSORS)
    (folder / "config.json").write_text(json.dumps(model_config(shape, quantization), indent=1))
    return folder


def model_config(shape: Shape, quantization: str) -> dict[str, Any]:
    """Content of config.json."""
    config: dict[str, Any] = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "torch_dtype": "bfloat16",
        "hidden_act": "silu",
        "hidden_size": shape.hidden,
        "intermediate_size": shape.intermediate,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-5,
        "rope_theta": shape.rope_theta,
        "tie_word_embeddings": False,
        "vocab_size": shape.vocabulary,
        "bos_token_id": shape.vocabulary - 2,
        "eos_token_id": shape.vocabulary - 1,
    }
    method = _quantization_config(shape, quantization)
    return config | {"quantization_config": method} if method else config


def _quantization_config(shape: Shape, quantization: str) -> dict[str, Any] | None:
    """`quantization_config` of the checkpoint; the engine chooses the kernel."""
    if quantization == "awq":
        group_size = min(AWQ_GROUP_SIZE, shape.hidden)
        scheme = {"bits": 4, "group_size": group_size, "version": "gemm", "zero_point": True}
        return {"quant_method": "awq", **scheme}
    if quantization == "fp8":
        number = {"num_bits": 8, "type": "float", "symmetric": True}
        group = {
            "targets": ["Linear"],
            "weights": {**number, "strategy": "channel", "dynamic": False},
            "input_activations": {**number, "strategy": "token", "dynamic": True},
        }
        return {
            "quant_method": "compressed-tensors",
            "format": "float-quantized",
            "quantization_status": "compressed",
            "ignore": ["lm_head"],
            "config_groups": {"group_0": group},
        }
    return None


def make_tokenizer(vocabulary: int) -> Tokenizer:
    """Tokenizer of that size: printable characters, pairs of letters, words of four letters."""
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    characters = [byte_level.pre_tokenize_str(chr(code))[0][0] for code in range(32, 127)]
    count = vocabulary - len(characters) - 2
    letters = string.ascii_lowercase
    pairs = [(first, second) for first in letters for second in letters][:count]
    words = itertools.product(letters, repeat=4)
    texts = [*characters, *map("".join, pairs)]
    texts += map("".join, itertools.islice(words, count - len(pairs)))
    tokenizer = Tokenizer(models.BPE({text: index for index, text in enumerate(texts)}, pairs))
    tokenizer.pre_tokenizer = byte_level
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken("<s>"), AddedToken("</s>")])
    return tokenizer
