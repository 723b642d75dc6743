"""manifest.json beside fetched weights: repository, commit, and the checksum of every file.

`builder fetch` writes it after it has verified the files. The worker only compares their sizes at
start, which takes milliseconds.
"""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from handler.errors import ModelUnavailable, is_lasting

MANIFEST_NAME = "manifest.json"


class ManifestFile(BaseModel):
    """One file: its path in the folder, size and checksum."""

    model_config = ConfigDict(frozen=True)

    path: str
    bytes: int
    sha256: str


class Manifest(BaseModel):
    """A fetched repository.

    Attributes:
        repository: the name on the hub, by which requests choose the model.
        revision: the requested branch, tag or commit.
        commit: the commit of the revision at the time of the fetch.
        kind: model, draft, tokenizer or lora.
        patterns: ALLOW_PATTERNS of the fetch; empty for the default selection of files.
        mistral_requested: whether LOAD_FORMAT asked for Mistral's own format.
        quantization: the method in the checkpoint's configuration, None if unquantized.
        licence: the identifier on the model card, None without one.
        files: all of them except the manifest.
        total_bytes: their sum.
        fetched: the time in UTC, ISO 8601.
    """

    model_config = ConfigDict(frozen=True)

    repository: str
    revision: str
    commit: str
    kind: str = "model"
    patterns: tuple[str, ...] = ()
    mistral_requested: bool = False
    quantization: str | None
    licence: str | None
    files: tuple[ManifestFile, ...]
    total_bytes: int
    fetched: str

    def write(self, folder: Path) -> None:
        (folder / MANIFEST_NAME).write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")

    def check(self, folder: Path) -> None:
        """Compare the size of every file.

        Raises:
            ModelUnavailable: a file is missing or has another size.
        """
        for file in self.files:
            try:
                size = (folder / file.path).stat().st_size
            except OSError:
                size = None
            if size != file.bytes:
                state = "is missing" if size is None else f"has {size} bytes"
                raise ModelUnavailable(
                    f"{self.repository} in {folder} is damaged: {file.path} {state}, "
                    f"expected {file.bytes} bytes. Build the image again."
                )


def read_manifest(folder: Path) -> Manifest | None:
    """Read a folder's manifest, None without one.

    Raises:
        ModelUnavailable: it cannot be read.
    """
    path = folder / MANIFEST_NAME
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        reason = f"{path} is not a manifest of `builder fetch`."
        raise ModelUnavailable(reason, lasting=is_lasting(error)) from error
