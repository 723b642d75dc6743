"""Attention of a model, from its config.json: how its heads split over GPUs, and its KV cache.

The KV cache is calculated only for plain decoders, whose layers all have the same attention.
`builder/plan` calculates that of every kind of model.
"""

import re
from collections.abc import Mapping
from typing import Any

Config = Mapping[str, Any]

LANGUAGE_MODEL_KEYS = ("text_config", "llm_config", "language_config", "thinker_config")
# Fields of models with layers whose cache is not one key and value per KV head and token.
NOT_PLAIN = re.compile(
    r"layer_types|layers_block|block_(type|config)|window|chunk|lora_rank|v_head_dim|index_|mamba"
    r"|ssm|state|conv|recurrent|linear_|hybrid|compress|full_att|attn_(type|layer|config)|kv_shared"
    r"|layer_group|per_layer|cla_|global|multi_query|attention_groups|cross_att|encoder|bidirec"
)
CONTEXT_FIELD = re.compile(
    r"max_(position_embedding|target_position)s|n_positions|(max_)?seq(uence)?_len(gth)?"
    r"|model_max_length"
)
ROPE_TYPES = (None, "default", "llama3", "yarn")  # whose scaling max_position_embeddings includes


def text_config(config: Config) -> Config:
    """Return the language model's part of a multimodal config, any other config unchanged."""
    for key in LANGUAGE_MODEL_KEYS:
        if isinstance(nested := config.get(key), dict):
            return text_config(nested)
    return config


def attention_heads(config: Config) -> tuple[int | None, int | None]:
    """Return the numbers of attention heads and of KV heads, each None where it is not given."""
    text = text_config(config)
    heads, kv_heads = (
        number if isinstance(number := text.get(key), int) and number > 0 else None
        for key in ("num_attention_heads", "num_key_value_heads")
    )
    return heads, kv_heads


def heads_split_evenly(gpus: int, heads: int, kv_heads: int) -> bool:
    """Whether every GPU gets the same number of heads; KV heads may be copied to several GPUs."""
    few, many = sorted((kv_heads, gpus))
    return heads % gpus == 0 and many % few == 0


def kv_bytes_per_token(config: Config, element_bytes: int, gpus: int) -> int | None:
    """Return a token's KV cache on each GPU for a plain decoder, None for other models."""
    text = text_config(config)
    heads, kv_heads = attention_heads(text)
    layers, hidden_size = text.get("num_hidden_layers"), text.get("hidden_size")
    head_dim = text.get("head_dim")
    if head_dim is None and heads and isinstance(hidden_size, int):
        head_dim = hidden_size // heads
    if not isinstance(layers, int) or not isinstance(head_dim, int) or not kv_heads:
        return None
    other_fields = {name for name, value in text.items() if value and NOT_PLAIN.search(name)}
    if text.get("use_sliding_window") is False:
        other_fields -= {"sliding_window", "max_window_layers"}
    if text.get("layer_types") == ["full_attention"] * layers:
        other_fields.discard("layer_types")
    if other_fields or text.get("is_causal") is False:  # not causal: no KV cache at all
        return None
    return layers * -(-kv_heads // gpus) * head_dim * 2 * element_bytes


def default_context_tokens(config: Config) -> int | None:
    """Return the engines' default context length, None if it is not clear."""
    text = text_config(config)
    lengths = {
        value
        for name, value in text.items()
        if isinstance(value, int) and CONTEXT_FIELD.fullmatch(name)
    }
    rope = text.get("rope_parameters") or text.get("rope_scaling") or {}
    rope_type = rope.get("rope_type") or rope.get("type") if isinstance(rope, dict) else "unknown"
    return lengths.pop() if len(lengths) == 1 and rope_type in ROPE_TYPES else None
