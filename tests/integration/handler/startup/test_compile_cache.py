"""Compile caches on a network volume, archived by child processes."""

import contextlib
import os
import signal
import subprocess
import sys

import pytest

from handler.startup.cache_archive import list_files, pack, restore
from handler.startup.cache_folders import USE, note_use
from handler.startup.compile_cache import CompileCache
from tests.support.conditions import wait_until
from tests.support.environment import ROOT

LARGE = str(10**10)


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """A home of the test's own, without an image's kernels."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


@pytest.fixture
def volume(tmp_path):
    """A mounted network volume."""
    folder = tmp_path / "volume"
    folder.mkdir()
    return folder


def compile_cache(tmp_path, volume, key="key", *, max_bytes=10**10, **more):
    return CompileCache(
        tmp_path / "root",
        root_is_required=True,
        key=key,
        volume=volume,
        environ={**os.environ, "RUNPOD_ENDPOINT_ID": "e1", "PYTHONPATH": str(ROOT)},
        max_bytes=max_bytes,
        last_save_timeout_seconds=60.0,
        **more,
    )


def start_save(folder, archives):
    """Start a process that saves a folder."""
    command = [sys.executable, "-m", "handler.startup.cache_archive", "save"]
    return subprocess.Popen([*command, folder, archives, LARGE], cwd=ROOT)


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def test_the_next_worker_finds_the_caches_on_the_volume(tmp_path, volume, caplog):
    root = tmp_path / "root/key"
    files = {
        "vllm/startup_plan/plan.json": b"{}",
        "triton/kernel.cubin": os.urandom(300_000),
        "triton/later.cubin": b"compiled during a request",
    }
    of_this_machine = root / "vllm/gpu_p2p_access_cache_for_0,1.json"
    with compile_cache(tmp_path, volume) as first:
        first.wait_until_restored()
        for name in list(files)[:2]:
            write(root / name, files[name])
        write(of_this_machine, b"{}")
        first.start_save()
        write(root / "triton/later.cubin", files["triton/later.cubin"])
        first.finish_save()
    for path in [*(root / name for name in files), of_this_machine]:
        path.unlink()
    caplog.set_level("INFO")
    with compile_cache(tmp_path, volume) as second:
        second.wait_until_restored()
    assert [record.message for record in caplog.records] == [
        "compile cache: restored 3 files from the volume"
    ]
    assert {name: (root / name).read_bytes() for name in files} == files
    assert not of_this_machine.exists()


def test_a_machine_of_another_key_finds_and_changes_nothing(tmp_path, volume, caplog):
    caplog.set_level("INFO")
    for key in ("one", "another"):
        with compile_cache(tmp_path, volume, key) as caches:
            caches.wait_until_restored()
            write(tmp_path / f"root/{key}/triton/kernel", key.encode())
            caches.finish_save()
    assert [record.message for record in caplog.records] == [
        "compile cache: restored 0 files from the volume"
    ] * 2
    for key in ("one", "another"):
        restore(tmp_path / f"new-{key}", volume / f".cache/e1/compiled/{key}")
        assert (tmp_path / f"new-{key}/triton/kernel").read_text() == key


def test_an_archive_in_the_image_comes_before_the_one_on_the_volume(tmp_path, caplog):
    """Here without a volume: the log says where the files came from."""
    write(tmp_path / "made/triton/kernel", b"code")
    baked = tmp_path / "baked"
    baked.mkdir()
    pack(baked / "key.tar", tmp_path / "made", list_files(tmp_path / "made"))
    caplog.set_level("INFO")
    with compile_cache(tmp_path, None, baked=baked) as caches:
        caches.wait_until_restored()
    assert [record.message for record in caplog.records] == [
        "compile cache: restored 1 files from the image"
    ]
    assert (tmp_path / "root/key/triton/kernel").read_bytes() == b"code"


def test_workers_that_remove_folders_at_once_leave_those_in_use(tmp_path):
    """The root is on the volume, and each worker has another key."""
    for number in range(8):
        folder = tmp_path / f"root/unused-{number}"
        for name in range(50):
            write(folder / f"triton/{name}", b"code")
        note_use(folder)
        os.utime(folder / USE, (number, number))
    with contextlib.ExitStack() as stack:
        workers = [
            stack.enter_context(compile_cache(tmp_path, None, key, max_bytes=1)) for key in "abc"
        ]
        for worker in workers:
            worker.bound_folders()
        wait_until(lambda: {path.name for path in (tmp_path / "root").iterdir()} == {*"abc"})


def test_workers_that_save_at_once_leave_the_files_of_all(tmp_path, volume):
    archives = volume / "key"
    workers = [tmp_path / name for name in "abc"]
    for worker in workers:
        write(worker / f"triton/{worker.name}", os.urandom(20_000_000))
    savers = [start_save(worker, archives) for worker in workers]
    assert [saver.wait() for saver in savers] == [0, 0, 0]
    assert restore(tmp_path / "new", archives) == 3
    for worker in workers:
        name = f"triton/{worker.name}"
        assert (tmp_path / "new" / name).read_bytes() == (worker / name).read_bytes()
    assert [path.suffix for path in archives.iterdir()] == [".tar"] * 3


def test_a_save_that_is_killed_leaves_what_was_there(tmp_path, volume):
    archives = volume / "key"
    write(tmp_path / "first/triton/kernel", b"code")
    assert start_save(tmp_path / "first", archives).wait() == 0
    before = list(archives.iterdir())
    write(tmp_path / "second/inductor/large", bytes(2 * 10**6))
    (tmp_path / "second/triton").mkdir()
    os.mkfifo(tmp_path / "second/triton/endless")  # the saver waits for its end
    saver = start_save(tmp_path / "second", archives)
    wait_until(lambda: any(path.stat().st_size > 10**6 for path in archives.glob("*.partial")))
    saver.send_signal(signal.SIGKILL)
    assert saver.wait() == -signal.SIGKILL
    assert list(archives.glob("*.tar")) == before
    assert restore(tmp_path / "new", archives) == 1


def test_a_worker_that_ends_early_leaves_no_copy_running(tmp_path, volume):
    """The archive of the image is one that never ends."""
    baked = tmp_path / "baked"
    baked.mkdir()
    os.mkfifo(baked / "key.tar")
    with compile_cache(tmp_path, volume, baked=baked) as caches:
        child = caches._child
        assert child.poll() is None
    assert child.poll() is not None
