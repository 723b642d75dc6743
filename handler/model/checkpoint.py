"""A checkpoint's quantization and completeness, from its JSON files and its weights' names."""

import json
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from handler.errors import ModelUnavailable, is_lasting
from handler.model import mistral

CONFIG = "config.json"
WEIGHTS = ("*.safetensors", "*.bin", "*.pt", "*.gguf")  # what an engine's `auto` looks for
INDEX = "model.safetensors.index.json"


def quantization_of(folder: Path) -> str | None:
    """Return the quantization method in the checkpoint's configuration, None if unquantized.

    compressed-tensors and ModelOpt are containers; where all weights in them have one format it is
    appended: `compressed-tensors-fp8`, `compressed-tensors-int4`, `modelopt-fp8`.

    Raises:
        ModelUnavailable: there is no readable configuration.
    """
    quantization = _quantization_config(folder, model_config(folder))
    if not isinstance(quantization, dict):
        raise ModelUnavailable("quantization_config in config.json must be a JSON object")
    method = str(quantization.get("quant_method") or "").lower()
    algorithm = str(quantization.get("quant_algo") or "")
    if algorithm and not method:
        method = "modelopt"  # whose older checkpoints have only the algorithm
    if method == "compressed-tensors":
        number_format = _weight_format(quantization.get("config_groups"))
        return f"{method}-{number_format}" if number_format else method
    if method == "modelopt" and algorithm.startswith("FP8"):
        return "modelopt-fp8"
    return method or None


def has_fp8_cache(folder: Path) -> bool:
    """Whether the checkpoint declares an 8-bit KV cache, which the engines then use by default.

    Raises:
        ModelUnavailable: there is no readable configuration.
    """
    quantization = _quantization_config(folder, model_config(folder))
    if not isinstance(quantization, dict):
        return False
    algorithm = str(quantization.get("kv_cache_quant_algo") or "")
    return bool(quantization.get("kv_cache_scheme")) or algorithm.upper().startswith("FP8")


def has_weights(folder: Path) -> bool:
    """Whether the folder has weights in any format; LOAD_FORMAT=dummy needs none."""
    return any(path.is_file() for pattern in WEIGHTS for path in folder.glob(pattern))


def model_config(folder: Path) -> dict[str, Any]:
    """Return config.json, or without it Mistral's params.json with the names of config.json.

    Raises:
        ModelUnavailable: neither can be read.
    """
    if not (folder / CONFIG).is_file() and (folder / mistral.PARAMS).is_file():
        return mistral.hf_config(json_object(folder / mistral.PARAMS))
    return json_object(folder / CONFIG)


def has_config(folder: Path) -> bool:
    """Whether the folder has a model's configuration, config.json or Mistral's params.json."""
    return any((folder / name).is_file() for name in (CONFIG, mistral.PARAMS))


def is_complete(folder: Path, mistral_requested: bool = False) -> bool:
    """Whether the configuration and all weights in the index are there."""
    names = file_names(folder)
    if not has_config(folder) or not has_weights(folder):
        return False
    if mistral_requested and not mistral.is_used(names, requested=True):
        return False
    index = index_of_weights(names, mistral_requested)
    return index is None or all((folder / name).is_file() for name in shards(folder, index) or ())


def index_of_weights(names: Collection[str], mistral_requested: bool = False) -> str | None:
    """Return the index of the weights that an engine loads, None where there is none."""
    index = mistral.INDEX if mistral.is_used(names, mistral_requested) else INDEX
    return index if index in names else None


def file_names(folder: Path) -> set[str]:
    """Return the names of the files that lie directly in a folder."""
    return {path.name for path in folder.iterdir() if path.is_file()}


def shards(folder: Path, index: str = INDEX) -> set[str] | None:
    """Return the files in an index of weights, None without an index.

    Raises:
        ModelUnavailable: the index cannot be read.
    """
    path = folder / index
    if not path.is_file():
        return None
    names = json_object(path).get("weight_map")
    if not isinstance(names, dict):
        raise ModelUnavailable(f"{index} has no weight_map")
    return {str(name) for name in names.values()}


def json_object(path: Path) -> dict[str, Any]:
    """Read a JSON object from a checkpoint's file.

    Raises:
        ModelUnavailable: the file is missing or has no JSON object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelUnavailable(f"{path.name} cannot be read", lasting=is_lasting(error)) from error
    if not isinstance(content, dict):
        raise ModelUnavailable(f"{path.name} must be a JSON object")
    return content


@contextmanager
def model_named_in_errors(name: str) -> Iterator[None]:
    """Prefix errors about a checkpoint's files with the model's name."""
    try:
        yield
    except ModelUnavailable as error:
        raise ModelUnavailable(f"{name}: {error}.", lasting=error.lasting) from error


def _quantization_config(folder: Path, config: dict[str, Any]) -> Any:
    """Return the quantization config from any field or file that the tools write it to."""
    text = config.get("text_config")
    nested = text.get("quantization_config") if isinstance(text, dict) else None
    quantization = config.get("quantization_config") or nested or config.get("compression_config")
    own_file = folder / "hf_quant_config.json"  # ModelOpt's
    if not quantization and own_file.is_file():
        quantization = json_object(own_file).get("quantization")
    return quantization or {}


def _weight_format(groups: Any) -> str | None:
    """Return `fp8` or `int4` if all compressed-tensors groups have that format, else None."""
    if not isinstance(groups, dict) or not groups:
        return None
    formats = set()
    for group in groups.values():
        weights = group.get("weights") if isinstance(group, dict) else None
        if not isinstance(weights, dict):
            return None
        formats.add((weights.get("type"), weights.get("num_bits")))
    if formats == {("float", 8)}:
        return "fp8"
    return "int4" if formats == {("int", 4)} else None
