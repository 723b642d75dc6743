"""`python -m simulated_gpu`: the environment of its command, and its exit codes."""

import os

import pytest

from simulated_gpu import __main__ as command_line
from simulated_gpu.gpu import EXECUTOR


@pytest.fixture(autouse=True)
def libraries(tmp_path, monkeypatch):
    """The folder of the libraries, which are not compiled."""
    monkeypatch.setattr(command_line, "LIBRARIES", tmp_path)
    monkeypatch.setattr(command_line, "build_libraries", lambda folder: None)
    return tmp_path


@pytest.fixture
def started(monkeypatch):
    """What replaced the process: its file, arguments and environment."""
    calls = []
    monkeypatch.setattr(os, "execvpe", lambda *call: calls.append(call))
    return calls


def test_the_command_gets_gpus_and_the_simulated_engine(started, libraries, monkeypatch):
    """What the user has set wins, and a search path is extended."""
    monkeypatch.setenv("LD_LIBRARY_PATH", "/own")
    monkeypatch.setenv("SIMULATED_GPU_DRIVER", "570.1")
    command_line.main(["--gpu", "l4", "--count", "2", "--", "python", "-m", "handler"])
    [(file, arguments, environ)] = started
    assert (file, arguments) == ("python", ["python", "-m", "handler"])
    assert environ["SIMULATED_GPUS"] == "2"
    assert environ["SIMULATED_GPU_NAME"] == "NVIDIA L4"
    assert environ["DISTRIBUTED_EXECUTOR_BACKEND"] == EXECUTOR
    assert environ["LD_LIBRARY_PATH"] == f"{libraries}{os.pathsep}/own"
    assert environ["SIMULATED_GPU_DRIVER"] == "570.1"


def test_no_engine_leaves_vllm_its_executor(started, monkeypatch):
    monkeypatch.delenv("DISTRIBUTED_EXECUTOR_BACKEND", raising=False)
    command_line.main(["--no-engine", "--", "true"])
    [(_, _, environ)] = started
    assert "DISTRIBUTED_EXECUTOR_BACKEND" not in environ


def test_a_command_that_cannot_be_started_ends_with_code_127(tmp_path, capsys):
    assert command_line.main(["--", str(tmp_path / "nosuch")]) == 127
    assert capsys.readouterr().err == f"{tmp_path / 'nosuch'}: No such file or directory\n"


def test_without_a_c_compiler_it_ends_with_code_1(monkeypatch, capsys):
    def fails(folder):
        raise FileNotFoundError(2, "No such file or directory", "cc")

    monkeypatch.setattr(command_line, "build_libraries", fails)
    assert command_line.main(["--", "true"]) == 1
    assert capsys.readouterr().err == (
        "a C compiler (cc) is needed: [Errno 2] No such file or directory: 'cc'\n"
    )
