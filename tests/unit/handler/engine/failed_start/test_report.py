"""The cause of a failed start comes from the process of the engine that failed first."""

import multiprocessing
import os
import subprocess
import sys

import pytest
from pydantic import BaseModel, ValidationError, model_validator

from handler.engine.failed_start.error import start_error
from handler.engine.failed_start.report import (
    VARIABLE,
    Failure,
    FailureReport,
    report,
    report_figures,
    reported,
)
from tests.support.environment import ROOT


def fail():
    """Fail as a process of an engine does: with a cause, and a text of several lines."""
    try:
        raise KeyError("model.layers.0")
    except KeyError as error:
        raise RuntimeError("the weights\n  do not match") from error


ERRORS = ("RuntimeError: the weights do not match", "KeyError: 'model.layers.0'")


@pytest.fixture
def failure_report():
    """The report of a start."""
    with FailureReport() as each:
        yield each


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_what_ends_a_fork_is_reported(failure_report, capfd):
    process = multiprocessing.get_context("fork").Process(target=fail)
    process.start()
    process.join()
    assert failure_report.read() == Failure(ERRORS)
    assert failure_report.read().cause == "KeyError: 'model.layers.0'"


def test_what_ends_a_spawned_process_of_the_worker_is_reported(failure_report):
    """It imports `handler.__main__` before it does anything."""
    code = (
        "import multiprocessing, sys; from handler import __main__ as main\n"
        "sys.modules['__main__'] = main; main.__spec__ = None\n"
        "process = multiprocessing.get_context('spawn').Process(target=int, args=['x'])\n"
        "process.start(); process.join()"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=os.environ, check=True)
    assert failure_report.read() == Failure(
        ("ValueError: invalid literal for int() with base 10: 'x'",)
    )


def test_the_first_failure_is_the_cause(failure_report):
    report(RuntimeError("out of memory"), "graphs")
    report(ConnectionError("a rank has closed its connection"))
    assert failure_report.read() == Failure(("RuntimeError: out of memory",), "graphs")


def test_a_step_that_fails_is_named_and_fails(failure_report):
    with pytest.raises(RuntimeError), reported("weights"):
        fail()
    assert failure_report.read() == Failure(ERRORS, "weights")


def test_of_several_ranks_the_smallest_figure_counts(failure_report):
    report_figures(available_bytes=5, graph_bytes=1)
    report_figures(available_bytes=-3, graph_bytes=2)
    assert failure_report.read() is None
    report(ValueError())
    assert failure_report.read() == Failure(
        ("ValueError",), figures={"available_bytes": -3, "graph_bytes": 1}
    )


def test_after_the_start_nothing_is_written(tmp_path, monkeypatch):
    with FailureReport():
        path = os.environ[VARIABLE]
    assert VARIABLE not in os.environ
    monkeypatch.setenv(VARIABLE, path)
    report(RuntimeError("later"))
    assert not os.path.exists(path)


@pytest.mark.parametrize(
    ("cause", "is_lasting"),
    [
        ("ValueError: Model architectures ['Nosuch'] are not supported for now.", True),
        ("NotImplementedError: no kernel for this quantization", True),
        ("OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.", False),
        ("KeyError: 'model.layers.0'", True),
        ("AcceleratorError: CUDA error: an illegal memory access was encountered", False),
        ("DistBackendError: NCCL error: unhandled system error", False),
        ("RuntimeError: Found no NVIDIA driver on your system.", False),
        ("OSError: [Errno 98] Address already in use", False),
        (
            "ValueError: Free memory on device cuda:0 (12.0/79.1 GiB) on startup is less than "
            "desired GPU memory utilization (0.9, 71.2 GiB).",
            False,
        ),
        ("ImportError: libcuda.so.1: cannot open shared object file", False),
        ("AssertionError: Torch not compiled with CUDA enabled", False),
        ("ValueError: the connection to rank 1 timed out", False),
        ("RuntimeError: what nobody knows", False),
    ],
)
def test_only_what_the_configuration_decides_lasts(cause, is_lasting):
    """Another host can cure the rest."""
    assert Failure(("RuntimeError: outer", cause)).is_lasting is is_lasting


class Refused(BaseModel):
    """A configuration that is refused as the engine's is."""

    reason: str

    @model_validator(mode="after")
    def refuse(self) -> "Refused":
        raise ValueError(self.reason)


@pytest.mark.parametrize(
    ("reason", "is_lasting"),
    [
        ("Failed to infer device type, please set VLLM_LOGGING_LEVEL=DEBUG", False),
        ("Device string must not be empty", False),
        ("No CUDA GPUs are available", False),
        ("libnvidia-ml.so.1: cannot open shared object file", False),
        ("Adaptive verification requires full CUDA graphs.", True),
        ("FlashInfer GDN backend requires CUDA", True),
    ],
)
def test_a_refusal_is_judged_alike_whichever_process_reports_it(reason, is_lasting):
    with pytest.raises(ValidationError) as refusal:
        Refused(reason=reason)
    assert start_error(refusal.value).lasting is is_lasting
    assert Failure((f"ValueError: {reason}",)).is_lasting is is_lasting
