"""Compiled code of vLLM's CUDA build: its folders, its keys, and ninja after a restore."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from handler.startup.cache_archive import restore, save
from simulated_gpu.gpu import GPUS, host_environment
from tests.gpu.conftest import PYTHON
from tests.support.cache_defaults import (
    CUDA,
    SHARED,
    TRITON,
    VLLM,
    unknown_defaults,
    unsaved_folders,
)
from tests.support.environment import ROOT


def test_what_every_package_writes_is_saved(tmp_path, libraries):
    """quack asks the driver for the architecture when it is imported, unless it is given."""
    paths = {**SHARED, **TRITON, **VLLM, **CUDA}
    environ = {"QUACK_ARCH": "90", "CUTE_DSL_ARCH": "sm_90a", "LD_LIBRARY_PATH": str(libraries)}
    assert unsaved_folders(tmp_path, paths, PYTHON, **environ) == []


def test_no_installed_file_has_a_folder_that_is_not_known():
    assert unknown_defaults(next((ROOT / ".venv-cuda/lib").glob("python*/site-packages"))) == []


@pytest.mark.parametrize(
    ("gpu", "name"),
    [
        ("l4", "NVIDIA-L4-sm89"),
        ("h100", "NVIDIA-H100-80GB-HBM3-sm90"),
        ("b200", "NVIDIA-B200-sm100"),
    ],
)
def test_each_kind_of_gpu_has_a_key_of_its_own(libraries, gpu, name):
    """The GPUs are those of NVML."""
    code = "import os, handler.startup.cache_key as m; print(m.cache_key('vllm', os.environ))"
    done = subprocess.run(
        [PYTHON, "-c", code],
        env={**os.environ, **host_environment(libraries, GPUS[gpu], count=2, executor=False)},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    assert done.stdout.rpartition("-")[0] == f"{name}-driver580.95.05-vllm0.32.0"


BUILD = """
rule compile
  command = cc -MMD -MF $out.d -c $in -o $out
  depfile = $out.d
  deps = gcc
rule link
  command = cc -shared $in -o $out
build {folder}/kernel.o: compile {folder}/kernel.c
build {folder}/kernel.so: link {folder}/kernel.o
"""


def test_ninja_compiles_nothing_again_after_a_restore(tmp_path):
    """FlashInfer asks ninja at every start, and ninja compares times of files and of its record."""
    root = tmp_path / "key"
    folder = root / "flashinfer/.cache/flashinfer/0.7/90a/cached_ops/kernel"
    folder.mkdir(parents=True)
    (folder / "kernel.c").write_text("int kernel(void) { return 1; }")
    (folder / "build.ninja").write_text(BUILD.format(folder=folder))

    def ninja():
        command = [str(Path(PYTHON).with_name("ninja")), "-C", folder, "-f", "build.ninja"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return done.stdout.splitlines()[-1]

    assert ninja().startswith("[2/2]")
    save(root, tmp_path / "volume/key", 10**9)
    shutil.rmtree(root)
    restore(root, tmp_path / "volume/key")
    assert ninja() == "ninja: no work to do."
