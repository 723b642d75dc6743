"""The package in which FlashInfer finds compiled modules; compiling is a test of the image."""

import runpy
import sys
from types import ModuleType

import pytest

from builder.kernels import main, parse_architectures, write_package


@pytest.fixture
def flashinfer(monkeypatch):
    """FlashInfer's version; the package itself is not in this environment."""
    for name in ("flashinfer", "flashinfer.version"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    sys.modules["flashinfer.version"].__version__ = "0.7.0"


def test_architectures_are_separated_by_commas_or_spaces():
    assert parse_architectures("9.0a,8.9 12.0f") == ["9.0a", "8.9", "12.0f"]


@pytest.mark.parametrize("text", ["sm90", "9", "9.0b", ""])
def test_anything_else_is_refused_in_one_line(capsys, tmp_path, text):
    assert main([text, "--out", str(tmp_path)]) == 2
    output, error = capsys.readouterr()
    assert (output, error.count("\n")) == ("", 1)
    assert error.startswith("kernels: ")
    assert "9.0a,8.9" in error


def test_the_package_names_its_modules_and_gpus(flashinfer, tmp_path):
    library = tmp_path / "sampling.so"
    library.write_bytes(b"code")
    write_package(tmp_path / "out", ["9.0a", "8.9"], {"sampling": library})
    package = tmp_path / "out/flashinfer_jit_cache"
    module = runpy.run_path(str(package / "__init__.py"))
    assert module["__version__"] == "0.7.0"
    [provider] = module["get_jit_cache_providers"]()
    assert provider.version == "0.7.0"
    assert provider.cuda_architectures == ("sm90a", "sm89")
    assert provider.modules == ("sampling",)
    assert provider.jit_cache_dir == str(package / "modules")
    assert (package / "modules/sampling/sampling.so").read_bytes() == b"code"
