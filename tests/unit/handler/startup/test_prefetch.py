"""Weights are read into the page cache if they fit."""

import ctypes
import errno
import mmap
import os
from pathlib import Path

import pytest

from handler.startup import prefetch
from handler.startup.prefetch import prefetch_weights, reads_around_page_cache

FILE_BYTES = 4 << 20
KEPT_SHARE = 0.9  # a kernel that reclaims memory may have taken some pages again


def _resident_bytes(path: Path) -> int:
    """Return how many bytes of a file are in the page cache, according to the kernel."""
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
            file.write(os.urandom(FILE_BYTES))
            file.flush()
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return tmp_path


def test_all_weights_are_in_the_page_cache_afterwards(checkpoint):
    files = sorted(checkpoint.iterdir())
    assert sum(_resident_bytes(file) for file in files) == 0
    for reader in prefetch_weights(checkpoint):
        reader.join()
    resident = [_resident_bytes(file) for file in files]
    assert min(resident) > KEPT_SHARE * FILE_BYTES


def test_weights_that_do_not_fit_are_not_read(checkpoint):
    assert prefetch_weights(checkpoint, available_bytes=12 << 20) == []


def test_a_folder_without_safetensors_is_no_error(tmp_path):
    assert prefetch_weights(tmp_path) == []


def test_a_reader_goes_on_after_a_file_that_cannot_be_read(checkpoint, monkeypatch, caplog):
    opened = Path.open

    def fail(path, *arguments, **named):
        if path.name == "model-0.safetensors":
            raise OSError(errno.EIO, "Input/output error")  # no test can make a disk fail
        return opened(path, *arguments, **named)

    monkeypatch.setattr(Path, "open", fail)
    for reader in prefetch_weights(checkpoint, max_readers=1):
        reader.join()
    monkeypatch.undo()
    resident = [_resident_bytes(file) for file in sorted(checkpoint.iterdir())]
    assert (resident[0], min(resident[1:]) > KEPT_SHARE * FILE_BYTES) == (0, True)
    assert [record.message for record in caplog.records] == [
        "prefetch of model-0.safetensors failed: Input/output error"
    ]


@pytest.mark.parametrize(
    ("load_format", "environ", "around"),
    [
        ("", {}, False),
        ("auto", {}, False),
        ("instanttensor", {}, True),
        ("instanttensor", {"INSTANTTENSOR_BACKEND": "URING_BUFFERED"}, False),
        ("fastsafetensors", {}, True),
        ("fastsafetensors", {"FASTSAFETENSORS_ODIRECT": "0"}, False),
        ("runai_streamer", {}, False),
        ("runai_streamer_sharded", {"RUNAI_STREAMER_DIRECTIO": "1"}, True),
        ("runai_streamer", {"RUNAI_STREAMER_FS_STRATEGY": "io_uring_direct"}, True),
        ("runai_streamer", {"RUNAI_STREAMER_FS_STRATEGY": "io_uring_buffered"}, False),
    ],
)
def test_weights_are_not_prefetched_for_a_loader_that_reads_with_direct_io(
    monkeypatch, tmp_path, load_format, environ, around
):
    monkeypatch.setattr(prefetch, "_file_system", lambda folder: "overlay")
    assert reads_around_page_cache(load_format, tmp_path, environ) is around


def test_fastsafetensors_reads_a_network_file_system_through_the_page_cache(monkeypatch, tmp_path):
    monkeypatch.setattr(prefetch, "_file_system", lambda folder: "nfs4")
    assert not reads_around_page_cache("fastsafetensors", tmp_path, {})
    forced = {"FASTSAFETENSORS_ODIRECT": "1"}
    assert reads_around_page_cache("fastsafetensors", tmp_path, forced)


def test_the_file_system_is_that_of_the_innermost_mount():
    assert prefetch._file_system(Path("/proc/self")) == "proc"
