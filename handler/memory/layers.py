"""Which layers a model has, and of what kind each is: read from its config.json.

Each family of models says it in words of its own, and some only in their code; what transformers
fills in by itself where a configuration is silent stands here as well. What is not understood is
refused: a dense model's memory would be a wrong answer for it.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from handler.errors import ModelUnavailable

Kind = Literal["full", "sliding", "chunked", "state", "both", "none"]
"""Attention to all, to a window, to a chunk; a state of fixed size; a state beside attention."""

Config = Mapping[str, Any]

INDEXED = "indexed_attention"
NAMES: dict[str, Kind] = {
    **dict.fromkeys(("full_attention", "attention", INDEXED), "full"),
    "hybrid": "both",  # Zamba 2's
    **dict.fromkeys(("sliding_attention", "local_attention"), "sliding"),
    "chunked_attention": "chunked",
    **dict.fromkeys(("linear_attention", "mamba", "mamba2", "conv", "recurrent", "kda"), "state"),
    **dict.fromkeys(("mlp", "moe"), "none"),
}
LETTERS: dict[str, Kind] = {"M": "state", "*": "full", "-": "none", "E": "none"}
# transformers' own defaults: every n-th layer sees everything.
PATTERNS = {"gemma2": 2, "gemma3_text": 6, "gemma3": 6, "cohere2": 4}
# What published configurations leave out.
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
WITH_SWITCH = ("qwen2", "qwen2_moe", "qwen3", "qwen3_moe")  # use_sliding_window, off by default
NO_ROPE_INTERVAL = 4  # llama4's
# Ways of saying that layers differ which are not read here, and models whose cache is another.
NOT_READ = (
    *("compress_ratios", "block_configs", "hybrid_layer_pattern", "layer_group_size"),
    *("attn_config", "ffn_config"),
)
NOT_READ_MODELS = ("longcat_flash", "minicpm3")
ONLY_STATES = ("mamba", "mamba2", "falcon_mamba")


def text_config(config: Config) -> Config:
    """Return what a multimodal model says of its language model; else the configuration itself."""
    for name in ("text_config", "llm_config", "language_config", "thinker_config"):
        nested = config.get(name)
        if isinstance(nested, dict):
            return text_config(nested)
    return DEFAULTS.get(str(config.get("model_type")), {}) | dict(config)


def kinds(config: Config) -> list[Kind]:
    """Return the kind of each layer.

    Args:
        config: of the language model.

    Raises:
        ModelUnavailable: it cannot be told.
    """
    if not_read := next((name for name in NOT_READ if config.get(name)), None):
        raise ModelUnavailable(f"config.json has {not_read}, which is not counted here")
    if config.get("model_type") in NOT_READ_MODELS:
        raise ModelUnavailable(f"the cache of {config['model_type']} is not counted here")
    found = _named(config) or _counted(config)
    shared = number(config, "num_kv_shared_layers", default=0)
    return found[: len(found) - shared] + ["none"] * shared


def _counted(config: Config) -> list[Kind]:
    count = number(config, "num_hidden_layers", "n_layer", "num_layers", "n_layers")
    return _hybrid(config, count) or _windowed(config, count)


def number(config: Config, *names: str, default: int | None = None) -> int:
    """Return the first of some fields that is a number.

    Raises:
        ModelUnavailable: none is, and there is no default.
    """
    for name in names:
        value = config.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return int(value)
    if default is None:
        raise ModelUnavailable(f"config.json has no {' or '.join(names)}")
    return default


def _named(config: Config) -> list[Kind] | None:
    """Read a list of names, or a text of letters."""
    names = config.get("layer_types") or config.get("layers_block_type")
    if isinstance(names, list) and names:
        unknown = sorted({str(name) for name in names if name not in NAMES})
        if unknown:
            raise ModelUnavailable(f"its layers of type {', '.join(unknown)} are not known here")
        if INDEXED in names and not config.get("kv_lora_rank"):
            raise ModelUnavailable("the index of its attention is not counted here")
        return [NAMES[name] for name in names]
    letters = config.get("hybrid_override_pattern")
    if isinstance(letters, str) and letters:
        if unknown := sorted(set(letters) - set(LETTERS)):
            raise ModelUnavailable(f"hybrid_override_pattern has {', '.join(unknown)}")
        return [LETTERS[letter] for letter in letters]
    return None


def _hybrid(config: Config, count: int) -> list[Kind] | None:
    """Read where the attention layers are among others, None where there are no others."""
    if config.get("model_type") in ONLY_STATES:
        return ["state"] * count
    if config.get("model_type") == "falcon_h1":
        return ["both"] * count
    which = config.get("attn_type_list")
    if isinstance(which, list):
        return ["full" if each == 1 else "state" for each in which]
    linear = config.get("linear_attn_config")
    if isinstance(linear, dict):
        full = {int(each) - 1 for each in linear.get("full_attn_layers") or ()}
        return _full_at(full, count)
    indices = config.get("attn_layer_indices") or config.get("full_attn_idxs")
    if isinstance(indices, list):
        return _full_at({int(each) for each in indices}, count)
    if config.get("attn_layer_period"):
        period, offset = number(config, "attn_layer_period"), number(config, "attn_layer_offset")
        return _full_at({n for n in range(count) if n % period == offset}, count)
    if config.get("full_attention_interval"):
        interval = number(config, "full_attention_interval")
        return _full_at({n for n in range(count) if (n + 1) % interval == 0}, count)
    return None


def _full_at(full: set[int], count: int) -> list[Kind]:
    return ["full" if each in full else "state" for each in range(count)]


def _windowed(config: Config, count: int) -> list[Kind]:
    """Read which layers see only what is near."""
    model_type = str(config.get("model_type"))
    if config.get("attention_chunk_size"):
        interval = number(config, "no_rope_layer_interval", default=NO_ROPE_INTERVAL)
        given = config.get("no_rope_layers")
        ropes: Sequence[int] = given or [int((n + 1) % interval != 0) for n in range(count)]
        return ["chunked" if each else "full" for each in ropes]
    on = config.get("use_sliding_window", model_type not in WITH_SWITCH)
    if not config.get("sliding_window") or not on:
        return ["full"] * count
    if isinstance(config.get("sliding_window_pattern"), str):
        raise ModelUnavailable("sliding_window_pattern is no number")
    pattern = number(config, "sliding_window_pattern", default=PATTERNS.get(model_type, 0))
    if pattern:
        return ["full" if (n + 1) % pattern == 0 else "sliding" for n in range(count)]
    first = number(config, "max_window_layers", default=0)
    return ["full" if n < first else "sliding" for n in range(count)]
