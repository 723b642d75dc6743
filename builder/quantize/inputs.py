"""Inputs of a quantization: the unquantized checkpoint, and text files from disk or the hub."""

import hashlib
import logging
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pydantic import SecretStr

from builder.errors import CheckpointRefused, DamagedFile, InvalidArgument
from builder.fetch.output_folder import file_checksums
from builder.fetch.request import FetchRequest
from builder.fetch.verified_download import fetch_repository
from builder.quantize.documents import TEXT_SUFFIXES, TextFile
from builder.quantize.recipe import MULTIMODAL_CONFIGS
from handler.errors import ModelUnavailable
from handler.model import hub_files, mistral
from handler.model.checkpoint import file_names, is_complete, json_object, quantization_of
from handler.model.hub_errors import hub_errors_explained, retry
from handler.model.manifest import read_manifest
from handler.model.reference import HubReference

log = logging.getLogger("quantize")

REPOSITORY_NAME = re.compile(r"[\w.-]+/[\w.-]+")
PATH_PREFIXES = ("/", "./", "../", "~")
DEFAULT_HELD_OUT = Path(__file__).with_name("held_out.txt")
NOT_DATA = re.compile(r"(README|LICEN[CS]E|NOTICE|requirements)", re.IGNORECASE)


@dataclass(frozen=True)
class BaseCheckpoint:
    """An unquantized checkpoint on disk.

    Attributes:
        repository: its name on the hub, or the folder's name.
        revision: the branch, tag or commit that was requested.
        commit: the commit on the hub; a checksum of all files if it is not from a hub.
        licence: the identifier on its model card, None without one.
    """

    folder: Path
    repository: str
    revision: str
    commit: str
    licence: str | None

    @property
    def is_from_hub(self) -> bool:
        return REPOSITORY_NAME.fullmatch(self.repository) is not None


def find_base(
    model: str, revision: str | None, token: SecretStr | None, cache: Path
) -> BaseCheckpoint:
    """Return the checkpoint of a folder or org/name, which is fetched into the folder `cache`.

    Raises:
        CheckpointRefused: it is not an unquantized language model with safetensors.
        ModelUnavailable, InvalidSetting: the hub refuses.
    """
    folder = Path(model).expanduser()
    if folder.is_dir():
        if revision:
            raise InvalidArgument(f"{model} is a folder: --revision is for a hub repository.")
    elif model.startswith(PATH_PREFIXES) or not REPOSITORY_NAME.fullmatch(model):
        raise InvalidArgument(f"{model} is neither a folder nor a hub repository (org/name).")
    else:
        request = FetchRequest(model, revision or "main", quantization="none", token=token)
        folder = fetch_repository(request, cache / model.rpartition("/")[2].lower())
    check_base(folder, model)
    made = None
    with suppress(ModelUnavailable):
        made = read_manifest(folder)
    if made:
        made.check(folder)
        return BaseCheckpoint(folder, made.repository, made.revision, made.commit, made.licence)
    log.info("%s has no manifest.json, computing the checksum of its files", folder)
    name = folder.resolve().name
    return BaseCheckpoint(folder, name, "local", _folder_checksum(folder), _licence(folder))


def check_base(folder: Path, name: str) -> None:
    """Check from the JSON files alone that a checkpoint can be quantized.

    Raises:
        CheckpointRefused: it cannot.
    """
    if mistral.is_used(file_names(folder)):
        raise CheckpointRefused(
            f"{name} is in Mistral's own format, which llm-compressor does not read: choose a "
            "repository with config.json and model.safetensors."
        )
    try:
        quantization = quantization_of(folder)
        config = json_object(folder / "config.json")
        complete = is_complete(folder)
    except ModelUnavailable as error:
        raise CheckpointRefused(f"{name} is not a model: {error}.") from error
    if quantization:
        raise CheckpointRefused(
            f"{name} is already quantized, as {quantization!r}: choose the unquantized model that "
            "it was made from."
        )
    if multimodal := [key for key in MULTIMODAL_CONFIGS if config.get(key)]:
        raise CheckpointRefused(
            f"{name} is multimodal ({multimodal[0]} in config.json): only language models can be "
            "quantized here."
        )
    names = [path.name for path in folder.iterdir()]
    if not any(file.endswith(".safetensors") for file in names):
        raise CheckpointRefused(f"{hub_files.no_weights_reason(name, names)}.")
    if not complete:
        raise CheckpointRefused(f"{name} lacks weights that its index lists: fetch it again.")


def _folder_checksum(folder: Path) -> str:
    total = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        line = f"{file_checksums(path)[1]}  {path.relative_to(folder).as_posix()}\n"
        total.update(line.encode())
    return total.hexdigest()


def _licence(folder: Path) -> str | None:
    from huggingface_hub.repocard import metadata_load

    card = folder / "README.md"
    try:
        metadata = metadata_load(card) if card.is_file() else None
    except ValueError as error:
        raise CheckpointRefused(f"{card} has invalid metadata at its beginning.") from error
    licence = metadata.get("license") if isinstance(metadata, dict) else None
    return str(licence) if licence else None


def local_text(path: Path) -> TextFile:
    path = path.expanduser()
    if not path.is_file():
        raise InvalidArgument(f"{path} is not a file: give a .jsonl, .txt or .parquet file.")
    return TextFile(path, path.name, file_checksums(path)[1])


def find_text(dataset: str, revision: str, file: str | None, token: SecretStr | None) -> TextFile:
    """Return the calibration text: a file on disk, or one of a data set, which is downloaded."""
    path = Path(dataset).expanduser()
    if path.is_file() or path.suffix in TEXT_SUFFIXES or dataset.startswith(PATH_PREFIXES):
        return local_text(path)
    if not REPOSITORY_NAME.fullmatch(dataset):
        raise InvalidArgument(
            f"--dataset {dataset} is neither a file nor a data set on the hub (org/name)."
        )
    return _download_text(HubReference(dataset, revision, "DATASET_NAME", token), file)


def select_data_file(dataset: str, names: list[str], asked: str | None = None) -> str:
    """Return the data set's file to use: `asked`, else the first with `train` in its path."""
    files = sorted(
        name
        for name in names
        if name.endswith(TEXT_SUFFIXES) and not NOT_DATA.match(PurePosixPath(name).name)
    )
    if asked is None:
        if not files:
            raise InvalidArgument(f"{dataset} has no .jsonl, .txt or .parquet file.")
        return next((name for name in files if "train" in name), files[0])
    if asked not in files:
        shown = ", ".join(files[:5]) or "no such files"
        raise InvalidArgument(
            f"{dataset} has no {asked} that is a .jsonl, .txt or .parquet file; it has {shown}."
        )
    return asked


def _download_text(reference: HubReference, asked: str | None) -> TextFile:
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]

    disable_progress_bars()
    name, token = reference.name, reference.plain_token()
    api = HfApi(token=token)
    with hub_errors_explained(reference):
        info = retry(
            lambda: api.dataset_info(name, revision=reference.revision, files_metadata=True)
        )
    files = {file.rfilename: file for file in info.siblings or ()}
    file = files[select_data_file(name, list(files), asked)]
    commit = str(info.sha)
    log.info("%s of %s at commit %s", file.rfilename, name, commit)
    with hub_errors_explained(reference):
        path = retry(
            lambda: hf_hub_download(
                name, file.rfilename, repo_type="dataset", revision=commit, token=token
            )
        )
    sha256 = file_checksums(Path(path))[1]
    if file.lfs and file.lfs.sha256 != sha256:
        raise DamagedFile(
            f"{name}/{file.rfilename} is damaged: the hub has checksum {file.lfs.sha256}, got "
            f"{sha256}. Remove {path} and try again."
        )
    return TextFile(Path(path), f"{name}@{commit}/{file.rfilename}", sha256)
