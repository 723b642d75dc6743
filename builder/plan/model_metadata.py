"""A model's config.json and the headers of its weights, from the hub or a folder.

No weights are downloaded: a range request reads the header of each safetensors file.
"""

import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from builder.errors import CheckpointRefused, InvalidArgument
from handler.errors import ModelUnavailable
from handler.model import hub, mistral
from handler.model.checkpoint import (
    CONFIG,
    INDEX,
    has_config,
    has_fp8_cache,
    index_of_weights,
    model_config,
    quantization_of,
    shards,
)
from handler.model.hub_errors import hub_errors_explained, retry
from handler.model.reference import HubReference
from handler.model.safetensors import Tensor, loaded_files, tensors_in_folder

MAX_CONCURRENT_REQUESTS = 8
CONFIG_FILES = (CONFIG, mistral.PARAMS, "hf_quant_config.json", INDEX, mistral.INDEX)


@dataclass(frozen=True)
class ModelMetadata:
    """A model's configuration and tensors, without the values of its weights.

    Attributes:
        name: the repository or folder.
        commit: on the hub, None for a folder.
        config: the content of config.json, or of Mistral's params.json with the usual names.
        quantization: the checkpoint's method, None for an unquantized one.
        has_fp8_cache: whether the checkpoint asks for an FP8 KV cache.
    """

    name: str
    commit: str | None
    config: dict[str, Any]
    tensors: tuple[Tensor, ...]
    quantization: str | None
    has_fp8_cache: bool = False

    @property
    def revision(self) -> str:
        return "a local folder" if self.commit is None else f"commit {self.commit[:12]}"


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
    if has_config(folder):
        found = _parse_folder(folder, str(folder), None, tensors_in_folder(folder))
    else:
        found = _read_from_hub(reference)
    if not found.tensors:
        raise CheckpointRefused(
            f"{reference.name} has no safetensors weights, and only their headers can be read "
            "without a download: choose a repository that has them."
        )
    return found


def _parse_folder(
    folder: Path, name: str, commit: str | None, tensors: tuple[Tensor, ...]
) -> ModelMetadata:
    return ModelMetadata(
        name=name,
        commit=commit,
        config=model_config(folder),
        tensors=tensors,
        quantization=quantization_of(folder),
        has_fp8_cache=has_fp8_cache(folder),
    )


def _read_from_hub(reference: HubReference) -> ModelMetadata:
    listing = hub.list_repository(reference)
    files = {file.path: file for file in listing.files}
    if not files.keys() & {CONFIG, mistral.PARAMS}:
        raise ModelUnavailable(f"{reference.name} has no {CONFIG}.")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        configs = [files[name] for name in CONFIG_FILES if name in files]
        hub.download_files(reference, listing.commit, configs, folder=folder)
        index = index_of_weights(files)
        weights = loaded_files(files, shards(folder, index) if index else None)
        tensors = _remote_tensors(reference, listing.commit, weights)
        return _parse_folder(folder, reference.name, listing.commit, tensors)


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
            Tensor(
                name,
                str(info.dtype),
                tuple(info.shape),
                bytes=info.data_offsets[1] - info.data_offsets[0],
            )
            for name, info in header.tensors.items()
        ]

    with hub_errors_explained(reference), ThreadPoolExecutor(MAX_CONCURRENT_REQUESTS) as executor:
        return tuple(tensor for tensors in executor.map(read_header, files) for tensor in tensors)
