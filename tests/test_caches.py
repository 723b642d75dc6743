"""What the engines compile is kept below one folder, and on the network volume."""

import os

import pytest

from handler.caches import FOLDERS, CompileCaches
from handler.settings import load


@pytest.fixture
def volume(tmp_path):
    """A mounted network volume."""
    folder = tmp_path / "volume"
    folder.mkdir()
    return folder


def _caches(tmp_path, volume, environ=None, **settings):
    chosen = load({"CACHE_ROOT": str(tmp_path / "root"), "BASE_PATH": str(volume), **settings})
    return CompileCaches(chosen, {"RUNPOD_ENDPOINT_ID": "e1"} if environ is None else environ)


def test_every_cache_is_below_one_root(tmp_path, volume):
    """One folder to keep, and a variable that is set stays as it is."""
    caches = _caches(tmp_path, volume, {"TRITON_CACHE_DIR": "/elsewhere"})
    assert caches.variables.keys() <= FOLDERS.keys() - {"TRITON_CACHE_DIR"}
    assert {os.path.dirname(path) for path in caches.variables.values()} == {str(tmp_path / "root")}
    assert caches.variables["VLLM_CACHE_ROOT"] == str(tmp_path / "root/vllm")


def test_what_an_image_comes_with_stays_where_it_is(tmp_path, volume, monkeypatch):
    """FlashInfer's cubins would be fetched again."""
    monkeypatch.setenv("HOME", str(tmp_path))
    assert "FLASHINFER_WORKSPACE_BASE" in _caches(tmp_path, volume).variables
    (tmp_path / ".cache/flashinfer").mkdir(parents=True)
    assert "FLASHINFER_WORKSPACE_BASE" not in _caches(tmp_path, volume).variables


def test_a_cache_survives_its_worker_on_the_volume(tmp_path, volume, monkeypatch):
    """Another worker of the endpoint finds what the first has compiled, large and small."""
    monkeypatch.setenv("RUNPOD_ENDPOINT_ID", "e1")
    made = {"vllm/plan.json": b"{}", "triton/kernel.cubin": os.urandom(300_000)}
    for name, content in made.items():
        path = tmp_path / "root" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    first = _caches(tmp_path, volume)
    assert first.on_volume
    first.save()
    later = tmp_path / "root/triton/later.cubin"
    later.write_bytes(b"compiled while it served")
    first.finish()
    for path in [*(tmp_path / "root" / name for name in made), later]:
        path.unlink()
    _caches(tmp_path, volume).restore()
    assert {name: (tmp_path / "root" / name).read_bytes() for name in made} == made
    assert later.read_bytes() == b"compiled while it served"


@pytest.mark.parametrize(
    "without",
    [{"VOLUME_CACHE": "false"}, {"BASE_PATH": "/no/such/mount"}, {"environ": {}}],
    ids=["setting", "no volume", "no endpoint"],
)
def test_without_a_volume_nothing_is_copied(tmp_path, volume, without):
    """And nothing fails."""
    caches = _caches(tmp_path, volume, **without)
    assert not caches.on_volume
    caches.restore()
    caches.save()
    caches.finish()
    assert list(volume.iterdir()) == []
