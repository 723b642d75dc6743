"""The folders of the compile caches, and when they are copied."""

import os
from pathlib import Path

import pytest

from handler.errors import InvalidSetting
from handler.startup.cache_archive import restore, save
from handler.startup.cache_folders import USE
from handler.startup.compile_cache import CACHE_FOLDERS, CompileCache
from tests.support.conditions import wait_until


@pytest.fixture
def volume(tmp_path):
    """A mounted network volume."""
    folder = tmp_path / "volume"
    folder.mkdir()
    return folder


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """The user's home, which has no image's kernels."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def compile_cache(root, volume=None, environ=None, **more):
    return CompileCache(
        root,
        root_is_required=True,
        key="key",
        volume=volume,
        environ=environ or {},
        max_bytes=10**9,
        **more,
    )


def test_every_cache_is_below_the_keys_folder_unless_its_variable_is_set(tmp_path, home):
    root = tmp_path / "root"
    environ = compile_cache(root, environ={"TRITON_CACHE_DIR": "/elsewhere"}).environ
    assert environ.pop("HF_HOME") == f"{home}/.cache/huggingface"
    assert environ.keys() == CACHE_FOLDERS.keys() - {"TRITON_CACHE_DIR"}
    assert environ["VLLM_CACHE_ROOT"] == str(root / "key/vllm")
    assert all(root / "key" in Path(path).parents for path in environ.values())


def test_models_stay_where_the_users_cache_folder_has_them(tmp_path, home):
    environ = compile_cache(tmp_path / "root", environ={"XDG_CACHE_HOME": "/elsewhere"}).environ
    assert {"XDG_CACHE_HOME", "HF_HOME"}.isdisjoint(environ)


def test_a_user_without_a_home_has_the_caches_in_a_private_temporary_folder(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    for _ in range(2):  # a second start finds it
        caches = CompileCache(
            tmp_path / "file/root",
            root_is_required=False,
            key="key",
            volume=None,
            environ={},
            max_bytes=0,
        )
        root = tmp_path / f"llm-worker-{os.getuid()}"
        assert caches.environ["VLLM_CACHE_ROOT"] == str(root / "key/vllm")
        assert root.stat().st_mode & 0o777 == 0o700


def test_a_required_root_that_is_not_writable_is_an_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InvalidSetting) as caught:
        compile_cache(tmp_path / "file/root")
    assert (
        str(caught.value) == f"CACHE_ROOT='{tmp_path}/file/root' is not writable (Not a directory)."
    )


def test_flashinfers_kernels_in_an_image_are_used_from_there_and_what_is_new_is_kept(
    tmp_path, home
):
    shipped = home / ".cache/flashinfer/0.7/sampling.so"
    shipped.parent.mkdir(parents=True)
    shipped.write_bytes(b"shipped")
    for _ in range(2):  # a second start in the container
        environ = compile_cache(tmp_path / "root").environ
        assert environ["FLASHINFER_WORKSPACE_BASE"] == str(home)
    folder = tmp_path / "root/key"
    compiled = shipped.with_name("decode.so")
    compiled.write_bytes(b"compiled")
    assert save(folder, tmp_path / "key", 10**9) == 1
    compiled.unlink()
    assert restore(folder, tmp_path / "key") == 1
    assert compiled.read_bytes() == b"compiled"


def test_a_flashinfer_folder_without_kernels_is_not_an_images(tmp_path, home):
    (home / ".cache/flashinfer/0.7").mkdir(parents=True)
    (home / ".cache/flashinfer/0.7/flashinfer_jit.log").touch()
    environ = compile_cache(tmp_path / "root").environ
    assert environ["FLASHINFER_WORKSPACE_BASE"] == str(tmp_path / "root/key/flashinfer")


def test_a_flashinfer_folder_that_an_earlier_image_has_left_stays(tmp_path, home):
    earlier = tmp_path / "root/key/flashinfer/.cache/flashinfer/decode.so"
    earlier.parent.mkdir(parents=True)
    earlier.touch()
    (home / ".cache/flashinfer").mkdir(parents=True)
    (home / ".cache/flashinfer/shipped.so").touch()
    environ = compile_cache(tmp_path / "root").environ
    assert environ["FLASHINFER_WORKSPACE_BASE"] == str(home)
    assert earlier.exists()


def test_an_image_without_an_archive_of_this_key_says_so(tmp_path, caplog):
    (tmp_path / "baked").mkdir()
    for name in ("NVIDIA-L4", "NVIDIA-A100"):
        (tmp_path / f"baked/{name}.tar").touch()
    caplog.set_level("INFO")
    caches = compile_cache(tmp_path / "root", baked=tmp_path / "baked")
    assert not caches.restores
    assert [record.message for record in caplog.records] == [
        "compile cache: the image's archives are for NVIDIA-A100, NVIDIA-L4; this machine is key"
    ]


def test_an_image_whose_archive_is_of_another_driver_is_used(tmp_path, caplog):
    (tmp_path / "baked").mkdir()
    (tmp_path / "baked/NVIDIA-L4-sm89-driver580.1-vllm0.32.0-a.tar").touch()
    (tmp_path / "baked/NVIDIA-L4-sm89-driver580.1-vllm0.33.0-b.tar").touch()
    caplog.set_level("INFO")
    caches = CompileCache(
        tmp_path / "root",
        root_is_required=True,
        key="NVIDIA-L4-sm89-driver575.2.3-vllm0.32.0-a",
        volume=None,
        environ={},
        max_bytes=0,
        baked=tmp_path / "baked",
    )
    assert caches.restores
    assert [record.message for record in caplog.records] == [
        "compile cache: the image's archive is of another driver: "
        "NVIDIA-L4-sm89-driver580.1-vllm0.32.0-a"
    ]


def test_a_home_that_cannot_be_written_to_has_no_models(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "no/such/home"))
    environ = compile_cache(tmp_path / "root").environ
    assert environ["HF_HOME"] == f"{tmp_path}/root/.cache/huggingface"


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
    assert [path.name for path in volume.rglob("*") if path.is_file()] in ([], [USE])


def test_a_start_notes_the_use_of_its_folder_and_a_worker_repeats_it(tmp_path):
    """A worker may run for weeks."""
    use = tmp_path / "root/key" / USE
    with compile_cache(tmp_path / "root", use_interval_seconds=0.01) as caches:
        assert use.read_text() == "key"
        caches.bound_folders()
        os.utime(use, (0, 0))
        wait_until(lambda: use.stat().st_mtime > 0)


def test_a_key_whose_folder_cannot_be_made_is_a_warning(tmp_path, caplog):
    (tmp_path / "root").mkdir()
    (tmp_path / "root/key").touch()
    compile_cache(tmp_path / "root")
    assert [record.message for record in caplog.records] == [
        f"compile cache: {tmp_path}/root/key: File exists"
    ]
