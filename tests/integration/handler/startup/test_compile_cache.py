"""Compile caches on a network volume, copied by the Runpod SDK in a child process."""

import os
import time

import pytest

from handler.startup.compile_cache import CompileCache
from tests.support.environment import ROOT


@pytest.fixture
def volume(tmp_path):
    """A mounted network volume."""
    folder = tmp_path / "volume"
    folder.mkdir()
    return folder


def compile_cache(tmp_path, volume):
    return CompileCache(
        tmp_path / "root",
        root_is_required=True,
        volume=volume,
        environ={**os.environ, "RUNPOD_ENDPOINT_ID": "e1", "PYTHONPATH": str(ROOT)},
        last_save_timeout_seconds=60.0,
    )


def test_the_next_worker_finds_the_caches_on_the_volume(tmp_path, volume, caplog):
    root = tmp_path / "root"
    files = {
        "vllm/startup_plan/plan.json": b"{}",
        "triton/kernel.cubin": os.urandom(300_000),
        "triton/later.cubin": b"compiled during a request",
    }
    of_this_machine = root / "vllm/gpu_p2p_access_cache_for_0,1.json"

    def write(name):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(files[name])

    with compile_cache(tmp_path, volume) as first:
        first.wait_until_restored()
        for name in list(files)[:2]:
            write(name)
        of_this_machine.write_text("{}")
        first.start_save()
        write("triton/later.cubin")
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


def test_partial_files_of_an_interrupted_copy_are_removed_with_the_next_one(tmp_path, volume):
    old, new = (volume / f".cache/e1/big/{name}.rpvc.tmp" for name in ("old", "new"))
    old.parent.mkdir(parents=True)
    for path in (old, new):
        path.touch()
    os.utime(old, (time.time() - 7200,) * 2)
    with compile_cache(tmp_path, volume) as caches:
        caches.wait_until_restored()
        caches.finish_save()
    assert (old.exists(), new.exists()) == (False, True)


def test_a_worker_that_ends_early_leaves_no_copy_running(tmp_path, volume):
    with compile_cache(tmp_path, volume) as caches:
        copy = caches._copy
        assert copy.poll() is None
    assert copy.poll() is not None
