"""Where the packages of SGLang's CUDA build keep compiled code."""

from tests.gpu.sglang.conftest import PYTHON
from tests.support.cache_defaults import (
    B12X,
    CUDA,
    ONLY_WITH_VLLM,
    SGLANG,
    SHARED,
    TRITON,
    unknown_defaults,
    unsaved_folders,
)
from tests.support.environment import ROOT


def test_what_every_package_writes_is_saved(tmp_path, sglang_environment):
    """quack asks the driver for the architecture when it is imported, unless it is given."""
    paths = {**SHARED, **TRITON, **SGLANG, **B12X}
    paths |= {name: path for name, path in CUDA.items() if name not in ONLY_WITH_VLLM}
    environ = {"QUACK_ARCH": "90", "CUTE_DSL_ARCH": "sm_90a"}
    environ |= {"LD_LIBRARY_PATH": sglang_environment()["LD_LIBRARY_PATH"]}
    assert unsaved_folders(tmp_path, paths, PYTHON, **environ) == []


def test_no_installed_file_has_a_folder_that_is_not_known():
    site_packages = next((ROOT / ".venv-sglang-cuda/lib").glob("python*/site-packages"))
    assert unknown_defaults(site_packages) == []
