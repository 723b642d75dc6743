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


def test_a_config_that_is_not_there_is_refused_in_one_line(capsys, tmp_path):
    missing = tmp_path / "config.json"
    assert main(["8.9", "--config", str(missing), "--out", str(tmp_path)]) == 2
    assert capsys.readouterr().err == (
        f"kernels: {missing} is not a model's config.json: "
        f"[Errno 2] No such file or directory: '{missing}'.\n"
    )


def test_the_package_names_its_modules_by_gpus(flashinfer, tmp_path):
    sampling, cascade = tmp_path / "sampling.so", tmp_path / "cascade.so"
    sampling.write_bytes(b"code")
    cascade.write_bytes(b"code of one GPU")
    write_package(tmp_path / "out", {("9.0a", "8.9"): [sampling], ("8.9",): [cascade]})
    package = tmp_path / "out/flashinfer_jit_cache"
    module = runpy.run_path(str(package / "__init__.py"))
    assert module["__version__"] == "0.7.0"
    both, one = module["get_jit_cache_providers"]()
    assert {both.version, one.version} == {"0.7.0"}
    assert {both.jit_cache_dir, one.jit_cache_dir} == {str(package / "modules")}
    assert (both.cuda_architectures, both.modules) == (("sm90a", "sm89"), ("sampling",))
    assert (one.cuda_architectures, one.modules) == (("sm89",), ("cascade",))
    assert both.provider_id != one.provider_id
    assert (package / "modules/sampling/sampling.so").read_bytes() == b"code"
    assert (package / "modules/cascade/cascade.so").read_bytes() == b"code of one GPU"
