"""The folders of keys below CACHE_ROOT: which of them are removed when they are too large."""

import os
import time
from pathlib import Path

import pytest

from handler.startup import cache_folders
from handler.startup.cache_folders import USE, main, note_use, remove_unused_folders

DAY = 24 * 3600.0


@pytest.fixture
def root(tmp_path):
    """CACHE_ROOT."""
    return tmp_path / "root"


@pytest.fixture
def folder(root):
    """Make the folder of a key with 1000 bytes of code; return its path."""

    def folder(key, unused_days):
        made = root / key
        (made / "triton").mkdir(parents=True)
        (made / "triton/kernel").write_bytes(bytes(1000 - len(key)))
        note_use(made)
        used = time.time() - unused_days * DAY
        os.utime(made / USE, (used, used))
        return made

    return folder


def left(root):
    return sorted(path.name for path in root.iterdir())


def test_the_folders_that_were_used_longest_ago_go_first(root, folder):
    folder("older", 3)
    folder("oldest", 4)
    folder("old", 2)
    own = folder("own", 0)
    assert remove_unused_folders(own, 2500) == 2000
    assert left(root) == ["old", "own"]


def test_folders_that_fit_stay(root, folder):
    folder("old", 2)
    assert remove_unused_folders(folder("own", 0), 2000) == 2000
    assert left(root) == ["old", "own"]


def test_the_workers_own_folder_and_those_used_within_a_day_stay(root, folder, capsys):
    own = folder("own", 5)
    folder("recent", 0.9)
    folder("unused", 1.1)
    assert main([str(own), "1500"]) == 0
    assert left(root) == ["own", "recent"]
    assert capsys.readouterr().err == (
        f"compile cache: 0.0 GB below {root}, CACHE_MAX_GB=1.5e-06: all of it was used within the "
        "last day\n"
    )


def test_nothing_is_said_of_folders_that_fit_in_the_end(folder, capsys):
    own = folder("own", 0)
    folder("unused", 2)
    assert main([str(own), "1500"]) == 0
    assert capsys.readouterr() == ("", "")


def test_what_is_not_the_folder_of_a_key_stays(root, folder, tmp_path):
    """CACHE_ROOT may be a folder with models, and a person may have copied a key's folder."""
    own = folder("own", 0)
    (root / "models").mkdir()
    (root / "models/weights").write_bytes(bytes(5000))
    folder("key", 9).rename(root / "copy-of-key")
    (root / "link").symlink_to(folder("link", 9).rename(tmp_path / "link"))
    (root / "file").touch()
    assert remove_unused_folders(own, 0) == 1000
    assert left(root) == ["copy-of-key", "file", "link", "models", "own"]
    assert (tmp_path / "link/triton/kernel").exists()


def test_what_a_link_in_a_folder_leads_to_stays(folder, tmp_path):
    """FlashInfer's folder leads to the image's kernels."""
    (tmp_path / "home").mkdir()
    (tmp_path / "home/shipped.so").write_bytes(bytes(5000))
    (folder("unused", 2) / "flashinfer").symlink_to(tmp_path / "home")
    own = folder("own", 0)
    assert remove_unused_folders(own, 2100) == 2000
    assert remove_unused_folders(own, 1500) == 1000
    assert (tmp_path / "home/shipped.so").exists()


def at_rename(monkeypatch, action):
    """Have another worker do something immediately before a folder is renamed."""
    rename = Path.rename

    def late(path, target):
        monkeypatch.undo()
        action(path)
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", late)


def test_a_folder_that_a_worker_begins_to_use_meanwhile_comes_back(root, folder, monkeypatch):
    unused, own = folder("unused", 2), folder("own", 0)
    at_rename(monkeypatch, note_use)
    assert remove_unused_folders(own, 1500) == 2000
    assert left(root) == ["own", "unused"]
    assert (unused / "triton/kernel").exists()


def test_another_worker_that_is_faster_is_no_error(root, folder, monkeypatch):
    folder("unused", 2)
    own = folder("own", 0)
    at_rename(monkeypatch, lambda path: remove_unused_folders(own, 1500))
    assert remove_unused_folders(own, 1500) == 1000
    assert left(root) == ["own"]


def test_a_removal_that_was_killed_is_finished_by_the_next_one(root, folder, monkeypatch):
    folder("unused", 2)
    own = folder("own", 0)
    with monkeypatch.context() as killed:
        killed.setattr(cache_folders.shutil, "rmtree", lambda *_, **__: None)
        remove_unused_folders(own, 1500)
    [_, removed] = sorted(root.iterdir(), reverse=True)
    assert removed.name.startswith(cache_folders.REMOVED)
    assert remove_unused_folders(own, 1500) == 1000
    assert left(root) == ["own"]


def test_a_folder_whose_use_is_being_noted_stays(root, folder, monkeypatch):
    """The file is empty for a moment."""
    unused, own = folder("unused", 2), folder("own", 0)
    at_rename(monkeypatch, lambda path: (path / USE).write_text(""))
    assert remove_unused_folders(own, 1500) == 2000
    assert left(root) == ["own", "unused"]
    assert unused.is_dir()
