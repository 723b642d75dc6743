"""The room that a download needs."""

import os
import shutil
from collections import namedtuple

import pytest

from handler.errors import ModelUnavailable
from handler.model.hub import RemoteFile, _check_free_space, disk_usage_bytes

Usage = namedtuple("Usage", "total used free")


@pytest.mark.parametrize(
    ("total", "lasting"), [(39, True), (100, False)], ids=["a small disk", "a full disk"]
)
def test_a_disk_that_is_too_small_is_lasting_and_one_that_is_full_is_not(
    tmp_path, monkeypatch, total, lasting
):
    usage = Usage(total * 10**9, 0, 38 * 10**9)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(ModelUnavailable) as caught:
        _check_free_space("org/m", tmp_path, [RemoteFile("w", 40 * 10**9, "0" * 64, None)])
    assert str(caught.value) == (
        f"org/m needs 40.0 GB more on the disk of {tmp_path}: 2.0 GB too few are free."
    )
    assert caught.value.lasting is lasting


def test_a_folder_that_goes_while_its_size_is_read_is_no_error(tmp_path, monkeypatch):
    """Else the size for the log would end the download."""
    (tmp_path / "gone").mkdir()
    (tmp_path / "file").write_bytes(b"x")
    size, scandir = disk_usage_bytes(tmp_path), os.scandir
    scanned = []

    def scan(folder):
        scanned.append(os.path.basename(folder))
        if scanned[-1] == "gone":
            raise FileNotFoundError(folder)
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", scan)
    assert disk_usage_bytes(tmp_path) <= size
    assert "gone" in scanned
