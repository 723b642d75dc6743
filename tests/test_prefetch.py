"""Weights are read ahead, if they fit."""

import ctypes
import mmap
import os
from pathlib import Path

import pytest

from handler import prefetch


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


def test_a_file_that_cannot_be_read_stops_nothing(checkpoint, caplog):
    """The others are read all the same."""
    (checkpoint / "model-0.safetensors").chmod(0)
    os.truncate(checkpoint / "model-1.safetensors", 0)
    for reader in prefetch.prefetch(checkpoint):
        reader.join()
    assert _resident(checkpoint / "model-2.safetensors") == 4 << 20


def test_a_containers_limit_counts(tmp_path, monkeypatch):
    """The machine's memory is not the container's."""
    monkeypatch.setattr(prefetch, "CGROUP", tmp_path)
    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.current").write_text("400\n")
    assert prefetch._free_bytes() == 600
    (tmp_path / "memory.max").write_text("max\n")
    assert prefetch._free_bytes() > 1000
