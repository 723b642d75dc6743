"""A model's config.json and the headers of its weights, from the hub or a folder.

No weights are downloaded: a range request reads the header of each safetensors file.
"""

import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from builder.errors import CheckpointRefused, InvalidArgument
from handler.errors import ModelUnavailable
from handler.model import hub
from handler.model.checkpoint import INDEX, has_fp8_cache, json_object, quantization_of, shards
from handler.model.hub_errors import hub_errors_explained, retry
from handler.model.reference import HubReference
from handler.model.safetensors import Tensor, loaded_files, tensors_in_folder

MAX_CONCURRENT_REQUESTS = 8
CONFIG_FILES = ("config.json", "hf_quant_config.json", INDEX)


@dataclass(frozen=True)
class ModelMetadata:
    """What is known of a model without its weights.

    Attributes:
        name: the repository or folder.
        revision: the commit, or that it is a local folder.
        config: the content of config.json.
        tensors: all weights.
        quantization: the checkpoint's method, None for an unquantized one.
        has_fp8_cache: whether the checkpoint asks for an FP8 KV cache.
        is_local: whether it is a folder.
    """

    name: str
    revision: str
    config: dict[str, Any]
    tensors: tuple[Tensor, ...]
    quantization: str | None
    has_fp8_cache: bool = False
    is_local: bool = False


def read_model_metadata(reference: HubReference) -> ModelMetadata:
    """Read the metadata of a folder or a repository on the hub.

    Raises:
        InvalidArgument: it is neither.
        CheckpointRefused: it has no safetensors weights.
        ModelUnavailable, InvalidSetting: the hub refuses it, or a file is broken.
    """
    folder = Path(reference.name)
    if reference.name.count("/") != 1 and not folder.is_dir():
        raise InvalidArgument(f"{reference.name} is neither a folder nor a repository (org/name).")
    is_local = (folder / "config.json").is_file()
    found = _from_folder(folder, tensors_in_folder(folder)) if is_local else _from_hub(reference)
    if not found.tensors:
        raise CheckpointRefused(
            f"{reference.name} has no safetensors weights, and only their headers can be read "
            "without a download: choose a repository that has them."
        )
    return found


def _from_folder(folder: Path, tensors: tuple[Tensor, ...]) -> ModelMetadata:
    return ModelMetadata(
        name=str(folder),
        revision="a local folder",
        config=json_object(folder / "config.json"),
        tensors=tensors,
        quantization=quantization_of(folder),
        has_fp8_cache=has_fp8_cache(folder),
        is_local=True,
    )


def _from_hub(reference: HubReference) -> ModelMetadata:
    listing = hub.list_repository(reference)
    files = {file.path: file for file in listing.files}
    if "config.json" not in files:
        raise ModelUnavailable(f"{reference.name} has no config.json.")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        configs = [files[name] for name in CONFIG_FILES if name in files]
        hub.download_files(reference, listing.commit, configs, folder=folder)
        weights = loaded_files(files, shards(folder))
        tensors = _remote_tensors(reference, listing.commit, weights)
        revision = f"commit {listing.commit[:12]}"
        found = _from_folder(folder, tensors)
        return replace(found, name=reference.name, revision=revision, is_local=False)


def _remote_tensors(
    reference: HubReference, commit: str, files: Iterable[str]
) -> tuple[Tensor, ...]:
    from huggingface_hub import HfApi

    api = HfApi(token=reference.plain_token())

    def read_header(name: str) -> list[Tensor]:
        header = retry(
            lambda: api.parse_safetensors_file_metadata(reference.name, name, revision=commit)
        )
        return [
            Tensor(name, str(info.dtype), tuple(info.shape), end - begin)
            for name, info in header.tensors.items()
            for begin, end in [info.data_offsets]
        ]

    with hub_errors_explained(reference), ThreadPoolExecutor(MAX_CONCURRENT_REQUESTS) as executor:
        return tuple(tensor for tensors in executor.map(read_header, files) for tensor in tensors)
