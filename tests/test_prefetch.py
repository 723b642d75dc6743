"""Weights are read ahead, if they fit."""

import ctypes
import errno
import mmap
import os
from pathlib import Path

import pytest

from handler.startup import prefetch


def _resident(path: Path) -> int:
    """Return how many bytes of a file are in the page cache, by the kernel's own word."""
    size = path.stat().st_size
    with path.open("r+b") as file, mmap.mmap(file.fileno(), size) as mapped:
        pages = (ctypes.c_ubyte * (size // mmap.PAGESIZE))()
        libc = ctypes.CDLL(None, use_errno=True)
        address = ctypes.c_char.from_buffer(mapped)
        code = libc.mincore(
            ctypes.c_void_p(ctypes.addressof(address)), ctypes.c_size_t(size), pages
        )
        del address
        assert code == 0, os.strerror(ctypes.get_errno())
    return sum(page & 1 for page in pages) * mmap.PAGESIZE


@pytest.fixture
def checkpoint(tmp_path):
    """Three files of weights that are on the disk and not in memory."""
    for number in range(3):
        with (tmp_path / f"model-{number}.safetensors").open("wb") as file:
            file.write(os.urandom(4 << 20))
            file.flush()
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return tmp_path


def test_all_weights_are_in_the_page_cache_afterwards(checkpoint):
    """Every file, whole."""
    files = sorted(checkpoint.iterdir())
    assert sum(_resident(file) for file in files) == 0
    for reader in prefetch.prefetch(checkpoint):
        reader.join()
    assert [_resident(file) for file in files] == [4 << 20] * 3


def test_weights_that_do_not_fit_are_left_alone(checkpoint, monkeypatch):
    """Reading them would push out what was read before."""
    monkeypatch.setattr(prefetch, "_free_bytes", lambda: 12 << 20)
    assert prefetch.prefetch(checkpoint) == []


def test_a_folder_without_safetensors_is_no_error(tmp_path):
    """The engine says what is missing."""
    assert prefetch.prefetch(tmp_path) == []


def test_a_file_that_cannot_be_read_stops_nothing(checkpoint, monkeypatch, caplog):
    """The others are read all the same, by the same reader."""
    monkeypatch.setattr(prefetch, "READERS", 1)
    opened = Path.open

    def fail(path, *arguments, **named):
        if path.name == "model-0.safetensors":
            raise OSError(errno.EIO, "Input/output error")
        return opened(path, *arguments, **named)

    monkeypatch.setattr(Path, "open", fail)
    for reader in prefetch.prefetch(checkpoint):
        reader.join()
    monkeypatch.undo()
    assert [_resident(file) for file in sorted(checkpoint.iterdir())] == [0, 4 << 20, 4 << 20]
    assert [record.message for record in caplog.records] == [
        "model-0.safetensors cannot be read ahead: Input/output error"
    ]


def test_a_containers_limit_counts(tmp_path, monkeypatch):
    """The machine's memory is not the container's."""
    monkeypatch.setattr(prefetch, "CGROUP", tmp_path)
    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.current").write_text("400\n")
    (tmp_path / "memory.stat").write_text("anon 100\ninactive_file 250\n")
    assert prefetch._free_bytes() == 850  # pages of files are given back
    (tmp_path / "memory.max").write_text("max\n")
    assert prefetch._free_bytes() > 1000
