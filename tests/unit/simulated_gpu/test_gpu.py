"""The environment of a host with simulated GPUs, and the libraries that describe them."""

import pytest

from simulated_gpu.gpu import EXECUTOR, FOLDER, GPUS, SOURCES, build_libraries, host_environment

MIG = "SIMULATED_GPU_MIG_MIB"


def test_the_variables_of_a_host(tmp_path):
    assert host_environment(tmp_path, GPUS["l4"], 2) == {
        "SIMULATED_GPUS": "2",
        "SIMULATED_GPU_NAME": "NVIDIA L4",
        "SIMULATED_GPU_CAPABILITY": "8.9",
        "SIMULATED_GPU_MIB": "23034",
        "SIMULATED_GPU_USED_MIB": "0",
        "SIMULATED_GPU_DRIVER": "580.95.05",
        "LD_LIBRARY_PATH": str(tmp_path),
        "PYTHONPATH": str(FOLDER.parent),
        "DISTRIBUTED_EXECUTOR_BACKEND": EXECUTOR,
    }


def test_without_the_simulated_engine_vllm_keeps_its_own_executor(tmp_path):
    assert "DISTRIBUTED_EXECUTOR_BACKEND" not in host_environment(tmp_path, executor=False)


@pytest.mark.parametrize("name", GPUS)
def test_only_a_gpu_in_mig_mode_has_a_slice(name):
    assert GPUS[name].environment().get(MIG) == ("24320" if name == "h100-mig" else None)


def test_every_variable_of_nvml_is_documented_in_it():
    """The variables that the Python side sets are those that the C side reads."""
    source = (FOLDER / "nvml.c").read_text()
    for variable in (*GPUS["h100"].environment(), MIG):
        assert f'"{variable}"' in source
        assert f" *   {variable} " in source


def test_libraries_are_compiled_once(tmp_path):
    """They stay as long as their sources are the same, however old; no partial file is left."""
    build_libraries(tmp_path)
    first = {path: path.stat().st_ino for path in tmp_path.iterdir()}
    build_libraries(tmp_path)
    assert {path.name for path in first} == {*SOURCES, *SOURCES.values()}
    assert {path: path.stat().st_ino for path in tmp_path.iterdir()} == first
    [(library, source), *_] = SOURCES.items()
    (tmp_path / source).write_text("another version's")
    build_libraries(tmp_path)
    assert (tmp_path / library).stat().st_ino != first[tmp_path / library]
