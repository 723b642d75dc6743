"""What a checkpoint on disk says of itself: its quantization, and whether all weights are there.

It reads the checkpoint's own JSON files and nothing else of it. Where the folder comes from it
does not know: who calls says in an error which model it is.
"""

import json
from pathlib import Path
from typing import Any

from handler.errors import InvalidSetting, ModelUnavailable

WEIGHTS = ("*.safetensors", "*.bin", "*.pt", "*.gguf")  # what an engine's `auto` looks for
INDEX = "model.safetensors.index.json"

# What QUANTIZATION may call the methods that checkpoints name. llm-compressor writes AWQ and GPTQ
# in the same form, 4-bit integers in compressed-tensors, and does not say which it was.
FAMILIES = {
    "awq": {"awq", "awq_marlin", "compressed-tensors-int4"},
    "gptq": {"gptq", "gptq_marlin", "compressed-tensors-int4"},
    "fp8": {"fp8", "compressed-tensors-fp8", "modelopt-fp8", "fbgemm_fp8"},
}
CONTAINERS = ("compressed-tensors", "modelopt")


def quantization_of(folder: Path) -> str | None:
    """Return the quantization method that the checkpoint's own configuration names, or None.

    compressed-tensors and ModelOpt name a container; what is in it is added where all of it is of
    one kind: `compressed-tensors-fp8`, `compressed-tensors-int4`, `modelopt-fp8`.

    Raises:
        ModelUnavailable: there is no readable config.json.
    """
    config = json_object(folder / "config.json")
    quantization = _quantization_config(folder, config)
    if not isinstance(quantization, dict):
        raise ModelUnavailable("quantization_config in config.json is no object")
    method = str(quantization.get("quant_method") or "").lower()
    algorithm = str(quantization.get("quant_algo") or "")
    if algorithm and not method:
        method = "modelopt"  # its older checkpoints name only the algorithm
    if method == "compressed-tensors":
        kind = _kind_of_groups(quantization.get("config_groups"))
        return f"{method}-{kind}" if kind else method
    if method == "modelopt" and algorithm.startswith("FP8"):
        return "modelopt-fp8"
    return method or None


def has_fp8_cache(folder: Path) -> bool:
    """Whether the checkpoint declares a KV cache of 8 bits, which engines then take by themselves.

    Raises:
        ModelUnavailable: there is no readable config.json.
    """
    quantization = _quantization_config(folder, json_object(folder / "config.json"))
    if not isinstance(quantization, dict):
        return False
    algorithm = str(quantization.get("kv_cache_quant_algo") or "")
    return bool(quantization.get("kv_cache_scheme")) or algorithm.upper().startswith("FP8")


def is_of(wanted: str, found: str) -> bool:
    """Say whether QUANTIZATION=wanted is a name for the method `found`."""
    return (
        wanted == found
        or found in FAMILIES.get(wanted, ())
        or (wanted in CONTAINERS and found.startswith(wanted))
    )


def check_quantization(wanted: str, found: str | None, name: str) -> None:
    """Compare QUANTIZATION with the checkpoint; an unquantized one may be quantized while loading.

    Raises:
        InvalidSetting: they contradict each other.
    """
    if wanted == "auto" or found is None or is_of(wanted, found):
        return
    raise InvalidSetting(
        f"QUANTIZATION={wanted!r} contradicts the checkpoint: {name} is quantized as "
        f"{found!r}. Leave QUANTIZATION unset, or choose another model."
    )


def has_weights(folder: Path) -> bool:
    """Say whether a file of weights lies in the folder."""
    return any(next(folder.glob(pattern), None) for pattern in WEIGHTS)


def is_complete(folder: Path) -> bool:
    """Say whether the configuration and every file of weights that the index names are there."""
    if not (folder / "config.json").is_file() or not has_weights(folder):
        return False
    return all((folder / name).is_file() for name in shards(folder) or ())


def shards(folder: Path, index: str = INDEX) -> set[str] | None:
    """Return the files that an index of weights names, None where there is no index.

    Raises:
        ModelUnavailable: it is no such index.
    """
    path = folder / index
    if not path.is_file():
        return None
    names = json_object(path).get("weight_map")
    if not isinstance(names, dict):
        raise ModelUnavailable(f"{index} has no weight_map")
    return {str(name) for name in names.values()}


def json_object(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        ModelUnavailable: there is none.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelUnavailable(f"{path.name} cannot be read") from error
    if not isinstance(content, dict):
        raise ModelUnavailable(f"{path.name} is no JSON object")
    return content


def _quantization_config(folder: Path, config: dict[str, Any]) -> Any:
    """Find the object in the places where the tools that quantize leave it."""
    text = config.get("text_config")
    nested = text.get("quantization_config") if isinstance(text, dict) else None
    found = config.get("quantization_config") or nested or config.get("compression_config")
    own_file = folder / "hf_quant_config.json"  # ModelOpt's
    if not found and own_file.is_file():
        found = json_object(own_file).get("quantization")
    return found or {}


def _kind_of_groups(groups: Any) -> str | None:
    """Return what the weights of all compressed-tensors groups are: `fp8`, `int4`, else None."""
    if not isinstance(groups, dict) or not groups:
        return None
    kinds = set()
    for group in groups.values():
        weights = group.get("weights") if isinstance(group, dict) else None
        if not isinstance(weights, dict):
            return None
        kinds.add((weights.get("type"), weights.get("num_bits")))
    if kinds == {("float", 8)}:
        return "fp8"
    return "int4" if kinds == {("int", 4)} else None
