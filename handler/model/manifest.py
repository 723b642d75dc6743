"""The manifest that lies beside fetched weights: what they are, and that they are still there.

`builder/fetch` writes it after it has verified every file; the worker compares presence and
sizes with it when it starts, which takes milliseconds. It does not read the weights.
"""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from handler.errors import ModelUnavailable

NAME = "manifest.json"


class ManifestFile(BaseModel):
    """One file: its path in the folder, its size, and the checksum of its content."""

    model_config = ConfigDict(frozen=True)

    path: str
    bytes: int
    sha256: str


class Manifest(BaseModel):
    """What was fetched.

    Attributes:
        repository: the name on the hub, which callers use.
        revision: the branch, tag or commit that was asked for.
        commit: the commit that it was then.
        kind: model, draft, tokenizer or lora.
        patterns: of the files, where not those were taken that an engine is known to load.
        quantization: the method that the checkpoint names, None for an unquantized one.
        licence: the identifier on the model's card, None where it has none.
        files: all of them but the manifest.
        total_bytes: their sum.
        fetched: when, in UTC, ISO 8601.
    """

    model_config = ConfigDict(frozen=True)

    repository: str
    revision: str
    commit: str
    kind: str = "model"
    patterns: tuple[str, ...] = ()
    quantization: str | None
    licence: str | None
    files: tuple[ManifestFile, ...]
    total_bytes: int
    fetched: str

    def write(self, folder: Path) -> None:
        """Write it into the folder that it describes."""
        (folder / NAME).write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")

    def check(self, folder: Path) -> None:
        """Compare presence and size of every file.

        Raises:
            ModelUnavailable: names the first file that differs.
        """
        for file in self.files:
            try:
                found = (folder / file.path).stat().st_size
            except OSError:
                found = None
            if found != file.bytes:
                state = "is missing" if found is None else f"has {found} bytes"
                raise ModelUnavailable(
                    f"{self.repository} in {folder} is damaged: {file.path} {state}, the manifest "
                    f"says {file.bytes} bytes. Build the image again."
                )


def read(folder: Path) -> Manifest | None:
    """Read a folder's manifest; None where there is none.

    Raises:
        ModelUnavailable: there is one that cannot be read.
    """
    path = folder / NAME
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        raise ModelUnavailable(f"{path} is no manifest of a model.") from error
