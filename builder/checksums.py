"""What a file's content is known by: its size, its sha256, and git's own checksum."""

import hashlib
from pathlib import Path

CHUNK_BYTES = 1 << 20


def checksums(path: Path, with_git: bool = False) -> tuple[int, str, str]:
    """Return a file's size, its sha256 and, for a file that git keeps, git's checksum."""
    size = path.stat().st_size
    sha256, git = hashlib.sha256(), hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            sha256.update(chunk)
            if with_git:
                git.update(chunk)
    return size, sha256.hexdigest(), git.hexdigest()
