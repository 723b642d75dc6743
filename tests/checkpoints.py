"""Checkpoints that a test makes: small enough to start in no time, with weights at random."""

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file

TOKENIZER = Path(__file__).parent.parent / "models/smollm2-135m-instruct-bf16"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "torch_dtype": "bfloat16",
    "hidden_act": "silu",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,  # the least that vLLM's attention on a CPU takes
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "vocab_size": 49152,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def tiny_llama(folder: Path, **config: object) -> Path:
    """Write a Llama of a few layers with the demo model's tokenizer; the same for the same config.

    Args:
        folder: where to, made if need be.
        config: fields of config.json, over those of `LLAMA`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    merged = LLAMA | config
    (folder / "config.json").write_text(json.dumps(merged))
    for name in TOKENIZER_FILES:
        if (TOKENIZER / name).is_file():
            shutil.copyfile(TOKENIZER / name, folder / name)
    save_file(_llama_weights(merged), folder / "model.safetensors", {"format": "pt"})
    return folder


def _llama_weights(config: dict) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    queries = config["num_attention_heads"] * config["head_dim"]
    keys = config["num_key_value_heads"] * config["head_dim"]

    def matrix(rows, columns):
        # Large enough that the likeliest token stands out: sums over ranks round differently.
        values = torch.randn(rows, columns, generator=generator) * (2 / columns**0.5)
        return values.to(torch.bfloat16)

    def ones():
        return torch.ones(hidden, dtype=torch.bfloat16)

    weights = {
        "model.embed_tokens.weight": matrix(config["vocab_size"], hidden),
        "lm_head.weight": matrix(config["vocab_size"], hidden),
        "model.norm.weight": ones(),
    }
    for index in range(config["num_hidden_layers"]):
        layer = f"model.layers.{index}"
        weights |= {
            f"{layer}.self_attn.q_proj.weight": matrix(queries, hidden),
            f"{layer}.self_attn.k_proj.weight": matrix(keys, hidden),
            f"{layer}.self_attn.v_proj.weight": matrix(keys, hidden),
            f"{layer}.self_attn.o_proj.weight": matrix(hidden, queries),
            f"{layer}.mlp.gate_proj.weight": matrix(inner, hidden),
            f"{layer}.mlp.up_proj.weight": matrix(inner, hidden),
            f"{layer}.mlp.down_proj.weight": matrix(hidden, inner),
            f"{layer}.input_layernorm.weight": ones(),
            f"{layer}.post_attention_layernorm.weight": ones(),
        }
    return weights
