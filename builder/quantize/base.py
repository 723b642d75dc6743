"""The model that is quantized: a local folder, or a repository that is fetched beside the result.

It does not load it: what it says of the model stands in the checkpoint's own JSON files.
"""

import hashlib
import logging
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pydantic import SecretStr

from builder.checksums import checksums
from builder.errors import CheckpointRefused
from builder.fetch import fetch
from builder.order import Order
from handler.errors import ModelUnavailable
from handler.model import hub_files
from handler.model.checkpoint import is_complete, json_object, quantization_of
from handler.model.manifest import read_manifest

log = logging.getLogger("quantize")

REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")
LOCAL = ("/", "./", "../", "~")
OTHER_SENSES = ("vision_config", "audio_config")


@dataclass(frozen=True)
class Base:
    """An unquantized checkpoint on disk.

    Attributes:
        folder: where it lies.
        repository: its name on the hub, or the folder's.
        revision: the branch, tag or commit that was asked for.
        commit: the commit that it was then; of files from no hub, their checksum.
        licence: the identifier on its card, None where it has none.
    """

    folder: Path
    repository: str
    revision: str
    commit: str
    licence: str | None

    @property
    def is_of_the_hub(self) -> bool:
        """Whether it is a repository's, and not a folder of somebody's own."""
        return REPOSITORY.fullmatch(self.repository) is not None


def find(model: str, revision: str | None, token: SecretStr | None, place: Path) -> Base:
    """Return the model, fetched now if it is a repository's name and not there yet.

    Args:
        model: a folder, or org/name.
        revision: of a repository: a branch, tag or commit.
        token: for gated and private repositories.
        place: the folder that fetched models are kept in.

    Raises:
        CheckpointRefused: it is neither, or no unquantized language model with safetensors.
        ModelUnavailable, BadSetting: the hub's refusal, in one sentence.
    """
    folder = Path(model).expanduser()
    if folder.is_dir():
        if revision:
            raise CheckpointRefused(
                f"{model} is a folder: --revision is for a repository on the hub."
            )
        check(folder, model)
        return _local(folder)
    if model.startswith(LOCAL) or not REPOSITORY.fullmatch(model):
        raise CheckpointRefused(
            f"{model} is neither a folder nor a repository on the hub (org/name)."
        )
    order = Order(model, revision or "main", quantization="none", token=token)
    folder = fetch(order, place / model.rpartition("/")[2].lower())
    check(folder, model)
    return _local(folder)


def check(folder: Path, name: str) -> None:
    """Refuse what cannot be quantized, before anything is loaded.

    Raises:
        CheckpointRefused: with what would be right.
    """
    try:
        found = quantization_of(folder)
        config = json_object(folder / "config.json")
        is_whole = is_complete(folder)
    except ModelUnavailable as error:
        raise CheckpointRefused(f"{name} is no model: {error}.") from error
    if found:
        raise CheckpointRefused(
            f"{name} is quantized already, as {found!r}: choose the unquantized model that it was "
            "made from."
        )
    if senses := [sense for sense in OTHER_SENSES if config.get(sense)]:
        raise CheckpointRefused(
            f"{name} reads more than text ({senses[0]} in config.json): only language models "
            "are quantized here."
        )
    names = [path.name for path in folder.iterdir()]
    if not any(file.endswith(".safetensors") for file in names):
        raise CheckpointRefused(f"{hub_files.no_weights_reason(name, names)}.")
    if not is_whole:
        raise CheckpointRefused(f"{name} lacks weights that its index names: fetch it again.")


def _local(folder: Path) -> Base:
    """Take what the folder's manifest says; without one the files themselves are the commit."""
    there = None
    with suppress(ModelUnavailable):
        there = read_manifest(folder)
    if there:
        there.check(folder)
        return Base(folder, there.repository, there.revision, there.commit, there.licence)
    log.info("%s has no manifest.json: its files are summed up", folder)
    name = folder.resolve().name
    return Base(folder, name, "local", _sum(folder), _licence(folder))


def _sum(folder: Path) -> str:
    total = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        line = f"{checksums(path)[1]}  {path.relative_to(folder).as_posix()}\n"
        total.update(line.encode())
    return total.hexdigest()


def _licence(folder: Path) -> str | None:
    """Read the identifier on the model's card."""
    from huggingface_hub.repocard import metadata_load

    card = folder / "README.md"
    try:
        data = metadata_load(card) if card.is_file() else None
    except ValueError as error:
        raise CheckpointRefused(f"{card} begins with no readable metadata.") from error
    found = data.get("license") if isinstance(data, dict) else None
    return str(found) if found else None
