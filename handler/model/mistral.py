"""Mistral's own format: params.json, consolidated*.safetensors, tekken.json or tokenizer.model.v3.

Mistral publishes it alone, or beside config.json and its weights. Both engines load it. If a
repository has both formats, the settings decide which one is fetched; the default is config.json's.
"""

import shlex
from collections.abc import Collection, Mapping
from typing import Any

from handler.settings.variables import clean_value

PARAMS = "params.json"
INDEX = "consolidated.safetensors.index.json"
FORMAT_SETTINGS = ("LOAD_FORMAT", "CONFIG_FORMAT", "MODEL_CONFIG_PARSER")  # the engines' flags
CONFIG_NAMES = {  # Mistral's name → the name in config.json
    "dim": "hidden_size",
    "n_layers": "num_hidden_layers",
    "n_heads": "num_attention_heads",
    "n_kv_heads": "num_key_value_heads",
    "hidden_dim": "intermediate_size",
    "norm_eps": "rms_norm_eps",
    "tied_embeddings": "tie_word_embeddings",
    "max_seq_len": "max_position_embeddings",
}

EXPERT_NAMES = {
    "num_experts": "n_routed_experts",
    "num_shared_experts": "n_shared_experts",
    "expert_hidden_dim": "moe_intermediate_size",
}


def is_requested(environ: Mapping[str, str], engine_args: str = "") -> bool:
    """Whether the engine's flags ask for Mistral's weights; LOAD_FORMAT decides before the others.

    TOKENIZER_MODE=mistral alone does not: Mistral's tokenizer works with other weights too.
    """
    values = [flag_value(name, environ, engine_args) for name in FORMAT_SETTINGS]
    load_format, *config_formats = values
    if load_format not in ("", "auto"):
        return load_format == "mistral"
    return "mistral" in config_formats


def is_weight(name: str) -> bool:
    """Whether a file is one of Mistral's weight files."""
    return name.startswith("consolidated") and name.endswith(".safetensors")


def is_only_format(names: Collection[str]) -> bool:
    """Whether Mistral's format is the only one in a repository that can be loaded."""
    weights = [name for name in names if name.endswith(".safetensors") and "/" not in name]
    usual = "config.json" in names and any(not is_weight(name) for name in weights)
    return PARAMS in names and any(map(is_weight, weights)) and not usual


def is_used(names: Collection[str], requested: bool = False) -> bool:
    """Whether Mistral's weights are fetched and loaded, not those of config.json.

    Args:
        names: every file of a repository or folder.
        requested: whether the settings ask for them.
    """
    if is_only_format(names):
        return True
    return requested and PARAMS in names and any(map(is_weight, names))


def hf_config(params: Mapping[str, Any]) -> dict[str, Any]:
    """Return params.json with the names of config.json, as far as the worker's checks need them."""
    config = {
        usual: value
        for name, value in params.items()
        if (usual := CONFIG_NAMES.get(name, name)) == name or usual not in params
    }
    config.setdefault("model_type", "mistral")
    if "moe" in config:
        config.update(_experts(config.pop("moe")))
    quantization = config.pop("quantization", None)
    if isinstance(quantization, Mapping):
        config["quantization_config"] = _quantization(quantization)
    return config


def _experts(moe: Any) -> dict[str, Any]:
    fields: Mapping[str, Any] = moe if isinstance(moe, Mapping) else {}
    return {EXPERT_NAMES.get(name, name): value for name, value in fields.items()}


def _quantization(quantization: Mapping[str, Any]) -> dict[str, Any]:
    if quantization.get("qformat_weight") == "fp8_e4m3":
        return {"quant_method": "fp8"}
    method = str(quantization.get("quant_method") or quantization.get("qformat_weight") or "")
    return {**quantization, "quant_method": method.lower().replace("_", "-")}


def flag_value(name: str, environ: Mapping[str, str], engine_args: str) -> str:
    """Return a flag's value in ENGINE_ARGS, else in the environment, in lower case."""
    flag = "--" + name.lower().replace("_", "-")
    try:
        arguments = shlex.split(engine_args)
    except ValueError:  # the engine's flags are checked later, with a better message
        arguments = []
    value = environ.get(name, "")
    for index, argument in enumerate(arguments):
        given, separator, text = argument.partition("=")
        if given.replace("_", "-") == flag:
            value = text if separator else "".join(arguments[index + 1 : index + 2])
    return clean_value(value).lower()
