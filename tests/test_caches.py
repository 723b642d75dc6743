"""What the engines compile is kept below one folder, and on the network volume."""

import os
import time
from pathlib import Path

import pytest

from handler.environ import load
from handler.errors import InvalidSetting
from handler.startup.compile_cache import FOLDERS, CompileCache
from tests.support.environment import ROOT


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """What is set for the engines is not set for the next test; a busy machine copies slowly."""
    monkeypatch.setattr("handler.startup.compile_cache.LAST_COPY_SECONDS", 60.0)
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def volume(tmp_path):
    """A mounted network volume."""
    folder = tmp_path / "volume"
    folder.mkdir()
    return folder


def _caches(tmp_path, volume, environ=None, **settings):
    chosen = load({"CACHE_ROOT": str(tmp_path / "root"), "BASE_PATH": str(volume), **settings})
    endpoint = {**os.environ, "RUNPOD_ENDPOINT_ID": "e1", "PYTHONPATH": str(ROOT)}
    return CompileCache(chosen, endpoint if environ is None else environ)


def test_every_cache_is_below_one_root(tmp_path, volume):
    """One folder to keep, and a variable that is set stays as it is."""
    caches = _caches(tmp_path, volume, {"TRITON_CACHE_DIR": "/elsewhere"})
    assert caches.variables.keys() == FOLDERS.keys() - {"TRITON_CACHE_DIR"}
    assert caches.variables["VLLM_CACHE_ROOT"] == str(tmp_path / "root/vllm")
    root = tmp_path / "root"
    assert {path for path in map(Path, caches.variables.values()) if root not in path.parents} == (
        set()
    )
    with caches:
        assert os.environ["VLLM_CACHE_ROOT"] == str(tmp_path / "root/vllm")


def test_a_user_without_a_home_has_the_caches_among_temporary_files(tmp_path, volume, monkeypatch):
    """As in a container that runs as any user, with nothing writable but /tmp."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("HOME", str(tmp_path / "file"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    for _ in range(2):  # a second start finds it
        caches = CompileCache(load({"BASE_PATH": str(volume)}), {})
        root = tmp_path / f"llm-worker-{os.getuid()}"
        assert caches.variables["VLLM_CACHE_ROOT"] == str(root / "vllm")
        assert root.stat().st_mode & 0o777 == 0o700


def test_a_root_that_cannot_be_written_to_is_refused(tmp_path, volume):
    """Where it was asked for."""
    (tmp_path / "file").touch()
    with pytest.raises(InvalidSetting) as raised:
        _caches(tmp_path, volume, CACHE_ROOT=str(tmp_path / "file/root"))
    assert str(raised.value) == (
        f"CACHE_ROOT='{tmp_path}/file/root' cannot be written to (Not a directory)."
    )


def test_what_an_image_comes_with_is_found_there(tmp_path, volume, monkeypatch):
    """FlashInfer's cubins would be fetched again."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".cache/flashinfer").mkdir(parents=True)
    caches = _caches(tmp_path, volume)
    assert caches.variables["FLASHINFER_WORKSPACE_BASE"] == str(tmp_path)


def test_a_cache_survives_its_worker_on_the_volume(tmp_path, volume, caplog):
    """Another worker of the endpoint finds what the first has compiled, large and small."""
    root = tmp_path / "root"
    made = {
        "vllm/startup_plan/plan.json": b"{}",
        "triton/kernel.cubin": os.urandom(300_000),
        "triton/later.cubin": b"compiled while it served",
    }
    of_this_machine = root / "vllm/gpu_p2p_access_cache_for_0,1.json"

    def compile_(name):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(made[name])

    with _caches(tmp_path, volume) as first:
        first.restored()
        for name in list(made)[:2]:
            compile_(name)
        of_this_machine.write_text("{}")
        first.begin_save()
        compile_("triton/later.cubin")
        first.finish()
    for path in [*(root / name for name in made), of_this_machine]:
        path.unlink()
    caplog.set_level("INFO")
    with _caches(tmp_path, volume) as second:
        second.restored()
    assert [record.message for record in caplog.records] == ["caches: 3 files from the volume"]
    assert {name: (root / name).read_bytes() for name in made} == made
    assert not of_this_machine.exists()


def test_what_was_cut_off_goes_with_the_next_copy(tmp_path, volume):
    """And what another worker is just copying stays."""
    old, new = (volume / f".cache/e1/big/{name}.rpvc.tmp" for name in ("old", "new"))
    old.parent.mkdir(parents=True)
    for path in (old, new):
        path.touch()
    os.utime(old, (time.time() - 7200,) * 2)
    with _caches(tmp_path, volume) as caches:
        caches.restored()
        caches.finish()
    assert (old.exists(), new.exists()) == (False, True)


def test_a_worker_that_ends_early_leaves_no_copy_running(tmp_path, volume):
    """Such as one that is stopped while it starts."""
    with _caches(tmp_path, volume) as caches:
        copying = caches._copying
        assert copying.poll() is None
    assert copying.poll() is not None


@pytest.mark.parametrize(
    "without",
    [
        {"VOLUME_CACHE": "false"},
        {"BASE_PATH": "/no/such/mount"},
        {"environ": {}},
        {"CACHE_ROOT": "volume/cache"},
    ],
    ids=["setting", "no volume", "no endpoint", "root on the volume"],
)
def test_without_a_volume_nothing_is_copied(tmp_path, volume, without, monkeypatch):
    """And nothing fails."""
    monkeypatch.chdir(tmp_path)
    with _caches(tmp_path, volume, **without) as caches:
        assert not caches.on_volume
        caches.restored()
        caches.begin_save()
        caches.finish()
    assert [path for path in volume.rglob("*") if path.is_file()] == []
