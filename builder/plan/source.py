"""What a model says of itself, on the hub or in a folder: config.json and the weights' headers.

No weights are downloaded: of each safetensors file only its header is read, by a range request.
"""

import json
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from builder.errors import CheckpointRefused
from handler.errors import ModelUnavailable
from handler.model import hub
from handler.model.checkpoint import INDEX, has_fp8_cache, json_object, quantization_of, shards
from handler.model.hub_errors import hub_errors_explained, retry
from handler.model.reference import HubReference
from handler.model.safetensors import Tensor, in_folder

AT_ONCE = 8
CONFIGURATION = ("config.json", "hf_quant_config.json", INDEX)


@dataclass(frozen=True)
class Source:
    """A model, as far as its memory depends on it.

    Attributes:
        name: the repository or folder.
        where: the commit, or that it is a folder.
        config: of config.json.
        tensors: of all weights.
        quantization: the method that the checkpoint names, None for an unquantized one.
        has_fp8_cache: whether it declares a KV cache of 8 bits.
        is_local: whether it is a folder.
    """

    name: str
    where: str
    config: dict[str, Any]
    tensors: tuple[Tensor, ...]
    quantization: str | None
    has_fp8_cache: bool = False
    is_local: bool = False


def read(reference: HubReference) -> Source:
    """Read a model's description.

    Raises:
        CheckpointRefused: it has no safetensors weights.
        ModelUnavailable, InvalidSetting: the hub's refusal, or what is broken, in one sentence.
    """
    folder = Path(reference.name)
    if reference.name.count("/") != 1 and not folder.is_dir():
        raise CheckpointRefused(
            f"{reference.name} is neither a folder nor a repository (org/name)."
        )
    source = _local(folder) if (folder / "config.json").is_file() else _remote(reference)
    if not source.tensors:
        raise CheckpointRefused(
            f"{reference.name} has no safetensors weights, whose headers could be read: choose a "
            "repository that has."
        )
    return source


def _local(folder: Path) -> Source:
    config = json_object(folder / "config.json")
    tensors = in_folder(folder)
    found = quantization_of(folder), has_fp8_cache(folder)
    return Source(str(folder), "a local folder", config, tensors, *found, is_local=True)


def _remote(reference: HubReference) -> Source:
    listing = hub.list_repository(reference)
    there = {file.path: file for file in listing.files}
    wanted = [there[name] for name in CONFIGURATION if name in there]
    if "config.json" not in there:
        raise ModelUnavailable(f"{reference.name} has no config.json.")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        hub.download_files(reference, listing.commit, wanted, folder=folder)
        named = shards(folder) or {
            path for path in there if path.endswith(".safetensors") and "/" not in path
        }
        usual = {name for name in named if not name.startswith("consolidated")} or named
        tensors = _headers(reference, listing.commit, sorted(usual & set(there)))
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        found = quantization_of(folder), has_fp8_cache(folder)
    return Source(reference.name, f"commit {listing.commit[:12]}", config, tensors, *found)


def _headers(reference: HubReference, commit: str, files: Iterable[str]) -> tuple[Tensor, ...]:
    from huggingface_hub import HfApi

    api = HfApi(token=reference.plain_token())

    def header(name: str) -> list[Tensor]:
        found = retry(
            lambda: api.parse_safetensors_file_metadata(reference.name, name, revision=commit)
        )
        return [
            Tensor(
                key, str(each.dtype), tuple(each.shape), each.data_offsets[1] - each.data_offsets[0]
            )
            for key, each in found.tensors.items()
        ]

    with hub_errors_explained(reference), ThreadPoolExecutor(AT_ONCE) as pool:
        return tuple(tensor for part in pool.map(header, files) for tensor in part)


def _tensor(name: str, info: Any) -> Tensor:
    begin, end = info.data_offsets
    return Tensor(name, str(info.dtype), tuple(info.shape), end - begin)
