"""Archives of compiled code: what is saved, restored and removed."""

import os
import tarfile
import time
from pathlib import Path

import pytest

from handler.startup import cache_archive
from handler.startup.cache_archive import (
    MAX_ARCHIVES,
    ChangedWhileRead,
    TooLarge,
    list_files,
    main,
    pack_all,
    record_image_files,
    restore,
    save,
)

LARGE = 10**9
TIME_NS = 1_700_000_000_123_456_789  # not a number that a float can have


@pytest.fixture
def archives(tmp_path):
    """The folder of a key on a volume."""
    return tmp_path / "volume/endpoint/key"


@pytest.fixture
def folder(tmp_path):
    """Make the folder of a worker's key with some files."""

    def folder(worker, **files):
        root = tmp_path / worker
        for name, content in files.items():
            write(root / "triton" / name, content)
        return root

    return folder


def write(path, content, time_ns=TIME_NS):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    os.utime(path, ns=(time_ns, time_ns))


def contents(archives):
    """Return the sorted names of the files in each archive, in the order of the saves."""
    found = []
    for path in sorted(archives.iterdir()):
        with tarfile.open(path) as tar:
            found.append(sorted(Path(name).name for name in tar.getnames()))
    return found


def restored(archives, folder):
    """Return the files that a new worker finds, by their names below triton."""
    root = folder(f"new-{time.time_ns()}")
    restore(root, archives)
    return {path.name: path.read_bytes() for path in (root / "triton").iterdir()}


def test_the_next_worker_has_the_files_with_their_exact_times(archives, folder):
    """ninja compiles again what is newer than its own record of it, be it by a nanosecond."""
    program = folder("first", kernel=b"code") / "triton/program"
    write(program, b"#!/bin/sh")
    program.chmod(0o755)
    assert save(folder("first"), archives, LARGE) == 2
    new = folder("second")
    assert restore(new, archives) == 2
    assert list_files(new) == {
        "triton/kernel": (TIME_NS, 4),
        "triton/program": (TIME_NS, 9),
    }
    assert os.access(new / "triton/program", os.X_OK)


def test_only_what_is_valid_elsewhere_is_saved(archives, folder):
    first = folder("first", kernel=b"code")
    write(first / "vllm/gpu_p2p_access_cache_for_0,1.json", b"{}")
    write(first / "xdg/torch/hub/model.pt", b"a model")
    write(first / "triton/kernel.lock", b"")
    write(first / "triton/flashinfer_jit.log", b"")  # new at every start
    (first / "triton/link").symlink_to("kernel")
    save(first, archives, LARGE)
    assert restored(archives, folder) == {"kernel": b"code"}


def test_nothing_is_written_if_nothing_is_new(archives, folder):
    first = folder("first", kernel=b"code")
    assert save(first, archives, LARGE) == 1
    second = folder("second")
    restore(second, archives)
    before = list(archives.iterdir())
    assert save(first, archives, LARGE) == 0
    assert save(second, archives, LARGE) == 0
    assert list(archives.iterdir()) == before
    write(second / "triton/another", b"new")
    assert save(second, archives, LARGE) == 1
    [added] = set(archives.iterdir()) - set(before)
    with tarfile.open(added) as tar:
        assert tar.getnames() == ["triton/another"]


def test_a_file_that_is_there_and_not_older_stays(archives, folder):
    save(folder("first", kernel=b"old"), archives, LARGE)
    second = folder("second", kernel=b"new")
    os.utime(second / "triton/kernel", ns=(TIME_NS + 1, TIME_NS + 1))
    assert restore(second, archives) == 0
    assert (second / "triton/kernel").read_bytes() == b"new"


def test_what_another_worker_has_saved_stays(archives, folder):
    first, second = folder("first", common=b"1", a=b"a"), folder("second", common=b"2", b=b"b")
    save(first, archives, LARGE)
    save(second, archives, LARGE)
    assert restored(archives, folder) == {"common": b"1", "a": b"a", "b": b"b"}
    write(second / "triton/c", b"c")
    save(second, archives, LARGE)
    assert restored(archives, folder) == {"common": b"1", "a": b"a", "b": b"b", "c": b"c"}


def test_the_newer_file_of_two_archives_counts_and_is_not_saved_again(archives, folder):
    """Workers that start at once compile the same, and do not save in the order of compiling."""
    first, second = folder("first"), folder("second")
    write(first / "triton/kernel", b"newer", TIME_NS + 1)
    write(second / "triton/kernel", b"older")
    for worker in (first, second):
        assert save(worker, archives, LARGE) == 1
    third = folder("third")
    restore(third, archives)
    assert (third / "triton/kernel").read_bytes() == b"newer"
    assert save(third, archives, LARGE) == 0


def test_a_worker_with_many_archives_puts_all_files_into_one(archives, folder):
    """Each of many workers that start at once beside an empty volume saves the same."""
    workers = [folder(name, kernel=b"code", **{name: b""}) for name in "abcdefghi"]
    for worker in workers[:MAX_ARCHIVES]:
        save(worker, archives, LARGE)
    eighth, ninth = folder("eighth"), folder("ninth")
    restore(eighth, archives)
    assert save(eighth, archives, LARGE) == 0
    save(workers[MAX_ARCHIVES], archives, LARGE)
    restore(ninth, archives)
    save(folder("meanwhile", other=b"code"), archives, LARGE)
    assert save(ninth, archives, LARGE) == 0
    assert contents(archives) == [["other"], [*"abcdefghi", "kernel"]]
    assert save(ninth, archives, LARGE) == 0
    assert len(contents(archives)) == 2


def test_many_archives_stay_while_their_files_are_written_to(archives, folder, monkeypatch):
    worker = folder("worker")
    for number in range(MAX_ARCHIVES + 1):
        write(worker / f"triton/{number}", b"code")
        save(worker, archives, LARGE)
    before = contents(archives)
    pack = cache_archive.pack

    def changing(archive, folder, files):
        write(worker / "triton/0", b"more code")
        pack(archive, folder, files)

    monkeypatch.setattr(cache_archive, "pack", changing)
    with pytest.raises(ChangedWhileRead):
        save(worker, archives, LARGE)
    assert contents(archives) == before


def test_a_root_that_outlives_its_volume_is_saved_on_the_next_one(archives, folder, capsys):
    first = folder("first", kernel=b"code")
    save(first, archives, LARGE)
    other = archives.with_name("other")
    assert main(["restore", str(first), str(other)]) == 0
    assert capsys.readouterr().out == f'{{"{other}": 0}}\n'
    assert save(first, other, LARGE) == 1


def test_a_damaged_archive_restores_nothing_and_the_others_are_restored(archives, folder, capsys):
    first = folder("first", kernel=os.urandom(100_000))
    save(first, archives, LARGE)
    [damaged] = archives.iterdir()
    os.truncate(damaged, 50_000)
    second = folder("second")
    assert restore(second, archives) == 0
    assert capsys.readouterr().err.startswith(f"compile cache: {damaged} cannot be read: ")
    assert [path for path in second.rglob("*") if path.is_file()] == []
    write(second / "triton/other", b"code")
    save(second, archives, LARGE)
    assert restored(archives, folder) == {"other": b"code"}


@pytest.mark.parametrize("change", ["grows", "is removed"])
def test_a_file_that_changes_meanwhile_is_not_saved(archives, folder, monkeypatch, change):
    save(folder("first", kernel=b"code"), archives, LARGE)
    before = list(archives.iterdir())
    second = folder("second", kernel=b"newer", other=b"code")
    pack = cache_archive.pack

    def changing(archive, folder, files):
        path = second / "triton/other"
        path.write_bytes(b"more code") if change == "grows" else path.unlink()
        pack(archive, folder, files)

    monkeypatch.setattr(cache_archive, "pack", changing)
    with pytest.raises(ChangedWhileRead):
        save(second, archives, LARGE)
    assert list(archives.iterdir()) == before


def test_the_archives_that_were_used_longest_ago_go_first(archives, folder):
    keys = {name: archives.with_name(name) for name in ("a", "b", "c")}
    for name, key in keys.items():
        save(folder(name, kernel=os.urandom(30_000)), key, LARGE)
        [archive] = key.iterdir()
        os.utime(archive, ns=(TIME_NS, TIME_NS))
    restore(folder("new"), keys["a"])  # used again
    [archive] = keys["b"].iterdir()
    os.utime(archive, ns=(TIME_NS + 1, TIME_NS))
    save(folder("d", kernel=os.urandom(30_000)), archives, 130_000)
    left = [path.parent.name for path in archives.parent.glob("*/*")]
    assert sorted(left) == ["a", "b", "key"]


def test_more_than_all_archives_may_have_is_not_saved(archives, folder):
    save(folder("first", kernel=b"code"), archives, LARGE)
    with pytest.raises(TooLarge):
        save(folder("second", kernel=bytes(1001)), archives, 1000)
    assert restored(archives, folder) == {"kernel": b"code"}


def test_what_a_save_that_was_cut_off_has_left_is_removed_after_an_hour(archives, folder):
    archives.mkdir(parents=True)
    old, new = (archives / f"{name}.tar.partial" for name in ("old", "new"))
    for path in (old, new):
        path.touch()
    os.utime(old, (time.time() - 7200,) * 2)
    save(folder("first", kernel=b"code"), archives, LARGE)
    assert list(archives.glob("*.partial")) == [new]


def test_files_of_the_image_are_not_saved_until_they_change(archives, folder):
    first = folder("first", shipped=b"shipped")
    record_image_files(first)
    assert save(first, archives, LARGE) == 0
    write(first / "triton/compiled", b"compiled")
    assert save(first, archives, LARGE) == 1
    assert restored(archives, folder) == {"compiled": b"compiled"}


def test_each_key_below_a_root_is_packed(tmp_path, folder):
    folder("root/key-1", kernel=b"1")
    folder("root/key-2", kernel=b"2")
    (tmp_path / "root/hub").mkdir()
    record_image_files(folder("root/key-3", shipped=b"3"))
    target = tmp_path / "out"
    target.mkdir()
    packed = list(pack_all(tmp_path / "root", target))
    assert packed == [target / "key-1.tar", target / "key-2.tar"]
    assert restored(packed[1], folder) == {"kernel": b"2"}
