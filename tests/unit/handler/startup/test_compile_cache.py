"""The folders of the compile caches, and when they are copied."""

import os
from pathlib import Path

import pytest

from handler.errors import InvalidSetting
from handler.startup.compile_cache import CACHE_FOLDERS, CompileCache


@pytest.fixture
def volume(tmp_path):
    """A mounted network volume."""
    folder = tmp_path / "volume"
    folder.mkdir()
    return folder


def compile_cache(root, volume=None, environ=None):
    return CompileCache(root, root_is_required=True, volume=volume, environ=environ or {})


def test_every_cache_is_below_one_root_unless_its_variable_is_set(tmp_path):
    root = tmp_path / "root"
    environ = compile_cache(root, environ={"TRITON_CACHE_DIR": "/elsewhere"}).environ
    assert environ.keys() == CACHE_FOLDERS.keys() - {"TRITON_CACHE_DIR"}
    assert environ["VLLM_CACHE_ROOT"] == str(root / "vllm")
    assert all(root in Path(path).parents for path in environ.values())


def test_a_user_without_a_home_has_the_caches_in_a_private_temporary_folder(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    for _ in range(2):  # a second start finds it
        caches = CompileCache(
            tmp_path / "file/root", root_is_required=False, volume=None, environ={}
        )
        root = tmp_path / f"llm-worker-{os.getuid()}"
        assert caches.environ["VLLM_CACHE_ROOT"] == str(root / "vllm")
        assert root.stat().st_mode & 0o777 == 0o700


def test_a_required_root_that_is_not_writable_is_an_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InvalidSetting) as caught:
        compile_cache(tmp_path / "file/root")
    assert (
        str(caught.value) == f"CACHE_ROOT='{tmp_path}/file/root' is not writable (Not a directory)."
    )


def test_flashinfers_kernels_in_an_image_are_used_from_there(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".cache/flashinfer").mkdir(parents=True)
    environ = compile_cache(tmp_path / "root").environ
    assert environ["FLASHINFER_WORKSPACE_BASE"] == str(tmp_path)


@pytest.mark.parametrize(
    ("root", "mount", "environ"),
    [
        ("root", None, {"RUNPOD_ENDPOINT_ID": "e1"}),
        ("root", "no/such/mount", {"RUNPOD_ENDPOINT_ID": "e1"}),
        ("root", "volume", {}),
        ("volume/cache", "volume", {"RUNPOD_ENDPOINT_ID": "e1"}),
    ],
    ids=["no setting", "no volume", "no endpoint", "root on the volume"],
)
def test_without_an_endpoint_and_its_volume_nothing_is_copied(
    tmp_path, volume, root, mount, environ
):
    with compile_cache(tmp_path / root, mount and tmp_path / mount, environ) as caches:
        assert not caches.on_volume
        caches.wait_until_restored()
        caches.start_save()
        caches.finish_save()
    assert [path for path in volume.rglob("*") if path.is_file()] == []
