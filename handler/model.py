"""Where the weights are: baked into the image, in a local folder, or on the hub.

Baked weights lie outside every path that a volume can be mounted over, so that a network volume
does not hide them. This module reads a checkpoint's own configuration and nothing else of it.
"""

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from handler.errors import BadSetting, ModelUnavailable
from handler.settings import Settings

log = logging.getLogger(__name__)

BAKED = Path("/opt/model")  # not below /runpod-volume or /workspace, where volumes are mounted
VOLUME_CACHE = Path("huggingface-cache/hub")  # below BASE_PATH: where Runpod keeps cached models
MAX_NAME_CHARACTERS = 1000

# What an engine loads; not the same weights again in another format.
PATTERNS = ["*.safetensors", "*.json", "*.jinja", "*.model", "*.txt", "*.tiktoken", "*.py"]
WEIGHTS = ("*.safetensors", "*.bin", "*.pt", "*.gguf")  # what an engine's `auto` looks for
LEFT_OUT = ["original/*", "onnx/*", "openvino/*", "*.msgpack", "*.h5"]

# What QUANTIZATION may call the methods that checkpoints name in their config.json.
FAMILIES = {
    "awq": {"awq", "awq_marlin"},
    "gptq": {"gptq", "gptq_marlin"},
    "fp8": {"fp8", "compressed-tensors-fp8", "modelopt-fp8", "fbgemm_fp8"},
}


@dataclass(frozen=True)
class Model:
    """A checkpoint on disk.

    Attributes:
        path: the folder with config.json.
        name: the repository's name, or the folder's.
        quantization: the method in the checkpoint's own config, None for an unquantized one.
        source: where it was found, for the log.
        is_local: whether it was found without asking the hub.
    """

    path: Path
    name: str
    quantization: str | None
    source: str
    is_local: bool = True

    def has_weights(self) -> bool:
        """Say whether a file of weights lies in the folder."""
        return any(next(self.path.glob(pattern), None) for pattern in WEIGHTS)


def locate(settings: Settings, baked: Path = BAKED) -> Model:
    """Find the weights that the settings name, fetching them from the hub if need be.

    Raises:
        BadSetting: MODEL_NAME is missing, or QUANTIZATION contradicts the checkpoint.
        ModelUnavailable: they are nowhere, with the hub's reason in one sentence.
    """
    model = _baked(settings, baked) or _local(settings) or _from_hub(settings)
    _compare(settings.quantization, model)
    return model


def _baked(settings: Settings, folder: Path) -> Model | None:
    manifest = folder / "manifest.json"
    if not manifest.is_file():
        return None
    name = _json_object(manifest).get("repository")
    if not isinstance(name, str):
        raise ModelUnavailable(f"{manifest} names no repository.")
    if settings.model_name not in (None, name):
        log.warning("MODEL_NAME=%s is not the baked %s", settings.model_name, name)
        return None
    return Model(folder, name, quantization_of(folder), "baked into the image")


def _local(settings: Settings) -> Model | None:
    if settings.model_name is None:
        raise BadSetting(
            "MODEL_NAME is not set: give a hub repository such as Qwen/Qwen2.5-7B-Instruct-AWQ "
            "or a local folder."
        )
    folder = Path(settings.model_name)
    if len(settings.model_name) > MAX_NAME_CHARACTERS:
        raise BadSetting(f"MODEL_NAME has {len(settings.model_name)} characters: that is no name.")
    if (folder / "config.json").is_file():
        folder = folder.resolve()
        return Model(folder, folder.name, quantization_of(folder), "a local folder")
    if folder.is_dir() or settings.model_name.startswith(("/", "./", "../", "~")):
        raise ModelUnavailable(
            f"MODEL_NAME={settings.model_name!r} looks like a local folder, "
            "but there is no config.json in it."
        )
    return None


def _from_hub(settings: Settings) -> Model:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    name, revision = str(settings.model_name), settings.model_revision
    cache = settings.base_path / VOLUME_CACHE if settings.base_path.is_dir() else None
    token = settings.hf_token.get_secret_value() if settings.hf_token else None
    try:
        folder = snapshot_download(
            name,
            revision=revision,
            cache_dir=cache,
            token=token,
            allow_patterns=PATTERNS,
            ignore_patterns=LEFT_OUT,
        )
    except GatedRepoError as error:
        reason = "it is gated: accept its licence on the hub and set HF_TOKEN"
        raise ModelUnavailable(f"{name}: {reason}.") from error
    except RevisionNotFoundError as error:
        raise ModelUnavailable(f"{name} has no revision {revision!r} (MODEL_REVISION).") from error
    except RepositoryNotFoundError as error:
        reason = "no such repository on the hub, or it is private and HF_TOKEN does not open it"
        raise ModelUnavailable(f"{name}: {reason}.") from error
    except HFValidationError as error:
        raise BadSetting(
            f"MODEL_NAME={name!r} is neither a folder here nor a repository's name (org/name)."
        ) from error
    except LocalEntryNotFoundError as error:
        reason = "the hub cannot be reached and the model is not in the cache"
        raise ModelUnavailable(f"{name}: {reason}.") from error
    except (HfHubHTTPError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ModelUnavailable(f"{name} could not be fetched: {reason}") from error
    path = Path(folder)
    return Model(path, name, quantization_of(path), "the hub", is_local=False)


def quantization_of(folder: Path) -> str | None:
    """Return the quantization method that the checkpoint's own config.json names, or None.

    compressed-tensors and ModelOpt name a container; with 8-bit float weights in it the answer is
    `compressed-tensors-fp8` or `modelopt-fp8`.

    Raises:
        ModelUnavailable: there is no readable config.json.
    """
    config = _json_object(folder / "config.json")
    quantization = config.get("quantization_config") or config.get("compression_config") or {}
    if not isinstance(quantization, dict):
        raise ModelUnavailable(f"{folder.name}/config.json: quantization_config is no object.")
    method = quantization.get("quant_method")
    if method == "compressed-tensors" and _is_float8(quantization):
        return "compressed-tensors-fp8"
    if method == "modelopt" and "FP8" in str(quantization.get("quant_algo")):
        return "modelopt-fp8"
    return str(method) if method else None


def _is_float8(quantization: dict[str, Any]) -> bool:
    groups = quantization.get("config_groups")
    if not isinstance(groups, dict) or not groups:
        return False
    weights = [group.get("weights") or {} for group in groups.values()]
    return all(w.get("type") == "float" and w.get("num_bits") == 8 for w in weights)


def _json_object(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ModelUnavailable(f"{path.parent.name}/{path.name} cannot be read.") from error
    if not isinstance(content, dict):
        raise ModelUnavailable(f"{path.parent.name}/{path.name} is no JSON object.")
    return content


def _compare(wanted: str, model: Model) -> None:
    found, wanted = model.quantization, wanted.lower()
    if wanted == "auto" or (found is None and wanted == "none"):
        return
    if found is None or wanted in (found, found.split("-fp8")[0]):
        return
    if found in FAMILIES.get(wanted, ()):
        return
    raise BadSetting(
        f"QUANTIZATION={wanted!r} contradicts the checkpoint: {model.name} is quantized as "
        f"{found!r}. Leave QUANTIZATION unset, or choose another model."
    )
