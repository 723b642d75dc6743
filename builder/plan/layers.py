"""The kind of each layer of a model, read from its config.json.

Model families describe their layers in different fields, and leave out what transformers fills in.
An unknown description is an error: counting it as full attention would give wrong figures.
"""

from collections.abc import Sequence
from typing import Any, Literal

from handler.errors import ModelUnavailable
from handler.model.attention import Config, text_config

LayerKind = Literal["full", "sliding", "chunked", "recurrent", "hybrid", "none"]
"""Attention to all tokens, to a window or to a chunk; a recurrent state; both at once; no cache."""

INDEXED = "indexed_attention"
RECURRENT = "linear_attention mamba mamba2 conv recurrent kda".split()
LAYER_TYPES: dict[str, LayerKind] = {
    **dict.fromkeys(("full_attention", "attention", INDEXED), "full"),
    **dict.fromkeys(("sliding_attention", "local_attention"), "sliding"),
    "chunked_attention": "chunked",
    **dict.fromkeys(RECURRENT, "recurrent"),
    "hybrid": "hybrid",  # Zamba 2
    **dict.fromkeys(("mlp", "moe"), "none"),
}
PATTERN_LETTERS: dict[str, LayerKind] = {"M": "recurrent", "*": "full", "-": "none", "E": "none"}
# Every n-th layer has full attention: transformers' defaults.
DEFAULT_PATTERNS = {"gemma2": 2, "gemma3_text": 6, "gemma3": 6, "cohere2": 4}
# Fields that published configurations leave out.
DEFAULTS: dict[str, dict[str, Any]] = {
    "gemma": {"head_dim": 256},
    "gemma2": {"head_dim": 256, "num_key_value_heads": 4},
    "gemma3_text": {
        "vocab_size": 262208,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "max_position_embeddings": 131072,
    },
}
# Models whose window is off unless use_sliding_window says otherwise.
WINDOW_OFF_BY_DEFAULT = ("qwen2", "qwen2_moe", "qwen3", "qwen3_moe")
NO_ROPE_INTERVAL = 4  # llama4's default
UNSUPPORTED_FIELDS = """
    compress_ratios block_configs hybrid_layer_pattern layer_group_size attn_config ffn_config
""".split()
UNSUPPORTED_MODELS = ("longcat_flash", "minicpm3")
RECURRENT_ONLY_MODELS = ("mamba", "mamba2", "falcon_mamba")


def text_config_with_defaults(config: Config) -> Config:
    """Return the language model's config, with the defaults that its family leaves out."""
    text = text_config(config)
    return DEFAULTS.get(str(text.get("model_type")), {}) | dict(text)


def int_field(config: Config, *names: str, default: int | None = None) -> int:
    """Return the first of some fields that is a number.

    Raises:
        ModelUnavailable: none is a number, and there is no default.
    """
    for name in names:
        value = config.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return int(value)
    if default is None:
        raise ModelUnavailable(f"config.json has no {' or '.join(names)}")
    return default


def layer_kinds(config: Config) -> list[LayerKind]:
    """Return the kind of each layer of a language model.

    Raises:
        ModelUnavailable: the description is missing or unknown.
    """
    if field := next((name for name in UNSUPPORTED_FIELDS if config.get(name)), None):
        raise ModelUnavailable(f"layers described by {field} in config.json are not supported")
    if config.get("model_type") in UNSUPPORTED_MODELS:
        raise ModelUnavailable(f"the KV cache of {config['model_type']} is not supported")
    kinds = _listed_kinds(config) or _derived_kinds(config)
    shared = int_field(config, "num_kv_shared_layers", default=0)
    return kinds[: len(kinds) - shared] + ["none"] * shared


def _listed_kinds(config: Config) -> list[LayerKind] | None:
    """Read a list of layer types, or Nemotron's pattern of letters."""
    types = config.get("layer_types") or config.get("layers_block_type")
    if isinstance(types, list) and types:
        if unknown := sorted({str(name) for name in types if name not in LAYER_TYPES}):
            raise ModelUnavailable(f"config.json has unknown layer types: {', '.join(unknown)}")
        if INDEXED in types and not config.get("kv_lora_rank"):
            raise ModelUnavailable(f"{INDEXED} without kv_lora_rank is not supported")
        return [LAYER_TYPES[name] for name in types]
    pattern = config.get("hybrid_override_pattern")
    if isinstance(pattern, str) and pattern:
        if unknown := sorted(set(pattern) - set(PATTERN_LETTERS)):
            raise ModelUnavailable(f"hybrid_override_pattern has unknown {', '.join(unknown)}")
        return [PATTERN_LETTERS[letter] for letter in pattern]
    return None


def _derived_kinds(config: Config) -> list[LayerKind]:
    count = int_field(config, "num_hidden_layers", "n_layer", "num_layers", "n_layers")
    return _recurrent_kinds(config, count) or _attention_kinds(config, count)


def _recurrent_kinds(config: Config, count: int) -> list[LayerKind] | None:
    """Read which layers are recurrent, None where the config names no such layer."""
    if config.get("model_type") in RECURRENT_ONLY_MODELS:
        return ["recurrent"] * count
    if config.get("model_type") == "falcon_h1":
        return ["hybrid"] * count
    if isinstance(types := config.get("attn_type_list"), list):
        return ["full" if each == 1 else "recurrent" for each in types]
    full: set[int] | None = None
    indices = config.get("attn_layer_indices") or config.get("full_attn_idxs")
    if isinstance(linear := config.get("linear_attn_config"), dict):
        full = {int(number) - 1 for number in linear.get("full_attn_layers") or ()}
    elif isinstance(indices, list):
        full = {int(index) for index in indices}
    elif config.get("attn_layer_period"):
        period = int_field(config, "attn_layer_period")
        offset = int_field(config, "attn_layer_offset")
        full = {n for n in range(count) if n % period == offset}
    elif config.get("full_attention_interval"):
        interval = int_field(config, "full_attention_interval")
        full = {n for n in range(count) if (n + 1) % interval == 0}
    return None if full is None else ["full" if n in full else "recurrent" for n in range(count)]


def _attention_kinds(config: Config, count: int) -> list[LayerKind]:
    """Read which attention layers are limited to a chunk or a window."""
    model_type = str(config.get("model_type"))
    if config.get("attention_chunk_size"):
        interval = int_field(config, "no_rope_layer_interval", default=NO_ROPE_INTERVAL)
        listed = config.get("no_rope_layers")
        has_rope: Sequence[int] = listed or [int((n + 1) % interval != 0) for n in range(count)]
        return ["chunked" if each else "full" for each in has_rope]
    is_on = config.get("use_sliding_window", model_type not in WINDOW_OFF_BY_DEFAULT)
    if not config.get("sliding_window") or not is_on:
        return ["full"] * count
    if isinstance(config.get("sliding_window_pattern"), str):
        raise ModelUnavailable("sliding_window_pattern in config.json must be a number")
    default = DEFAULT_PATTERNS.get(model_type, 0)
    if pattern := int_field(config, "sliding_window_pattern", default=default):
        return ["full" if (n + 1) % pattern == 0 else "sliding" for n in range(count)]
    first_window = int_field(config, "max_window_layers", default=0)
    return ["full" if n < first_window else "sliding" for n in range(count)]
