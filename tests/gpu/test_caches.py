"""Every folder for compiled code of vLLM's CUDA build is below CACHE_ROOT."""

from tests.gpu.conftest import PYTHON
from tests.support.cache_defaults import (
    CUDA,
    SHARED,
    TRITON,
    VLLM,
    paths_outside,
    unknown_defaults,
)
from tests.support.environment import ROOT


def test_every_package_writes_below_cache_root(tmp_path, libraries):
    """quack asks the driver for the architecture when it is imported, unless it is given."""
    paths = {**SHARED, **TRITON, **VLLM, **CUDA}
    environ = {"QUACK_ARCH": "90", "CUTE_DSL_ARCH": "sm_90a", "LD_LIBRARY_PATH": str(libraries)}
    assert paths_outside(tmp_path, paths, PYTHON, **environ) == []


def test_no_installed_file_has_a_folder_that_is_not_known():
    assert unknown_defaults(next((ROOT / ".venv-cuda/lib").glob("python*/site-packages"))) == []
