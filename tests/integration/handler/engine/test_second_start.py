"""A start that runs out of GPU memory, and the one that follows it, with the stand-in engine."""

import asyncio
import logging
import os
import signal
import subprocess
import sys
from contextlib import asynccontextmanager
from dataclasses import replace

import psutil
import pytest

from handler.engine.failed_start.report import MEASURE, WEIGHTS, report
from handler.engine.failed_start.second_start import VARIABLE as SECOND_START
from handler.engine.failed_start.second_start import OutOfGpuMemory
from handler.engine.interface import AUTO, Configuration, LoweredSetting
from handler.errors import EngineStartFailed
from handler.metrics.cost import CostMeter
from handler.metrics.monitor import Monitor
from handler.startup.timings import StartupTimings
from tests.support.environment import ROOT, clean_environment
from tests.support.expositions import value
from tests.support.stand_in_engine import StandInEngine, runtime_of

CAUSE = (
    "CUDA out of memory. Tried to allocate 1.00 GiB. GPU 0 has a total capacity of 24.00 GiB of "
    "which 0 bytes is free."
)
START = Configuration(
    batched_tokens=8192,
    graph_sizes=(1, 2),
    sequences=8,
    model_tokens=1024,
    token_bytes=1 << 20,
    sequence_bytes=1,
    graph_bytes=0,
    kv_token_bytes=0,
    memory_fraction=1.0,
    min_batched_tokens=8,
    min_graphs=0,
    has_own_cache=False,
    fixed=frozenset({"model_tokens"}),
    settings={"batched_tokens": "MAX_NUM_BATCHED_TOKENS", "model_tokens": "MAX_MODEL_LEN"},
)

LOWERED = LoweredSetting("MAX_NUM_BATCHED_TOKENS", 8192, 5888)


class SmallGpu(StandInEngine):
    """A stand-in whose process runs out of memory and does not end by itself.

    Args:
        text: of the failure.
        step: of the start in which it fails.
    """

    def __init__(self, text: str, step: str) -> None:
        super().__init__()
        self._failure = (RuntimeError(text), step)
        self.process: psutil.Process | None = None

    def configuration(self):
        """Return what is tried; the second start's variables are like the user's own."""
        lowered = {"batched_tokens"} if SECOND_START in os.environ else set()
        return replace(START, fixed=START.fixed | lowered)

    @asynccontextmanager
    async def start(self, pacer):
        self.process = psutil.Process(os.posix_spawnp("sleep", ["sleep", "600"], os.environ))
        report(*self._failure)  # as a process of the engine does
        await asyncio.sleep(0)
        raise RuntimeError("Engine core initialization failed. See root cause above.")
        yield


def test_a_second_start_has_less_and_the_memory_of_the_first(caplog):
    engine = SmallGpu(CAUSE, MEASURE)
    with runtime_of(engine) as runtime, pytest.raises(OutOfGpuMemory) as caught:
        runtime.wait_until_up()
    assert caught.value.lowered == (LOWERED,)
    assert not engine.process.is_running()
    assert warnings(caplog) == [
        "out of GPU memory (compile and measure memory: 2.00 GiB missing): second start with "
        "MAX_NUM_BATCHED_TOKENS 8192 → 5888"
    ]


def test_the_second_start_says_what_was_lowered(caplog):
    with runtime_of(StandInEngine(), lowered=(LOWERED,)) as runtime:
        runtime.wait_until_up()
        assert runtime.lowered == {"MAX_NUM_BATCHED_TOKENS": 5888}
        monitor = Monitor(runtime, StartupTimings(0.0), 8, CostMeter(None, 0.0))
        exposition = monitor.with_worker_metrics("")
    series = 'llm_worker_lowered_setting{setting="MAX_NUM_BATCHED_TOKENS"}'
    assert value(exposition, series) == 5888
    assert warnings(caplog) == [
        "the second start has succeeded: set MAX_NUM_BATCHED_TOKENS=5888 to start once, or use a "
        "larger GPU, more GPUs (TENSOR_PARALLEL_SIZE), or a checkpoint with fewer bits (AWQ, FP8)",
    ]


def test_what_the_check_before_the_start_has_lowered_is_a_metric_too(caplog):
    """Its log line is the adapter's."""

    class Shortened(StandInEngine):
        @asynccontextmanager
        async def start(self, pacer):
            async with super().start(pacer) as running:
                yield replace(running, lowered=(LoweredSetting("MAX_MODEL_LEN", 8192, AUTO),))

    with runtime_of(Shortened()) as runtime:
        running = runtime.wait_until_up()
        assert runtime.lowered == {"MAX_MODEL_LEN": running.capacity.max_model_tokens}
    assert warnings(caplog) == []


def test_there_is_one_second_start_only(monkeypatch):
    """Its failure says what the user can change, beside what the first one has lowered."""
    monkeypatch.setenv(SECOND_START, "")
    engine = SmallGpu(CAUSE, MEASURE)
    with (
        runtime_of(engine, lowered=(LOWERED,)) as runtime,
        pytest.raises(EngineStartFailed) as caught,
    ):
        runtime.wait_until_up()
    assert not isinstance(caught.value, OutOfGpuMemory)
    assert str(caught.value) == (
        f"The engine did not start: RuntimeError: {CAUSE} The second start had "
        "MAX_NUM_BATCHED_TOKENS 8192 → 5888. To start it, lower MAX_MODEL_LEN, or use a larger "
        "GPU, more GPUs (TENSOR_PARALLEL_SIZE), or a checkpoint with fewer bits (AWQ, FP8)."
    )


PROGRAM = """
import os, signal, sys, time
from handler.engine.interface import LoweredSetting
from handler.engine.failed_start.second_start import SecondStart, begin
from handler.startup.timings import process_start_time

if not (second := SecondStart.of(os.environ)):
    os.dup2(1, 100)  # as a library leaves it
    os.environ["ADDED"] = "by the first start"
    print(os.getpid(), process_start_time() < time.time(), flush=True)
    begin((LoweredSetting("MAX_NUM_SEQS", 64, 8),), dict(os.environ) | {"ADDED": ""})
print(os.getpid(), time.time() > second.began > process_start_time(), flush=True)
print(sys.argv[1:], os.environ["MAX_NUM_SEQS"], second.lowered, os.environ["ADDED"] == "")
print(os.path.exists("/proc/self/fd/100"))
os.kill(os.getpid(), signal.SIGTERM)
print("blocked", signal.sigpending() == {signal.SIGTERM})
"""


def test_the_second_start_is_the_same_process_with_a_new_program(tmp_path):
    """Its arguments are the same; open files are closed, and signals wait for their handlers."""
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    done = subprocess.run(
        [sys.executable, str(program), "--test_input", "{}"],
        env=clean_environment(PYTHONPATH=str(ROOT)),
        capture_output=True,
        text=True,
    )
    first, second, *lines = done.stdout.splitlines()
    assert (first, done.stderr) == (second, "")
    assert lines == [
        "['--test_input', '{}'] 8 (LoweredSetting(name='MAX_NUM_SEQS', before=64, after=8),) True",
        "False",
        "blocked True",
    ]


def test_a_signal_that_came_before_the_handlers_ends_the_worker():
    """exec keeps it; as the first process of a container, the worker would lose it otherwise."""

    def blocked_signal():
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        os.kill(os.getpid(), signal.SIGTERM)

    done = subprocess.run(
        [sys.executable, "-m", "handler"],
        env=clean_environment(MODEL_NAME="nobody/nothing"),
        cwd=ROOT,
        capture_output=True,
        preexec_fn=blocked_signal,
    )
    assert (done.returncode, done.stdout, done.stderr) == (128 + signal.SIGTERM, b"", b"")


def warnings(caplog):
    return [line.message for line in caplog.records if line.levelno == logging.WARNING]


def test_where_nothing_can_be_lowered_the_cause_and_what_helps_is_said():
    engine = SmallGpu(CAUSE, WEIGHTS)
    with runtime_of(engine) as runtime, pytest.raises(EngineStartFailed) as caught:
        runtime.wait_until_up()
    assert caught.value.lasting
    assert str(caught.value) == (
        f"The engine did not start: RuntimeError: {CAUSE} To start it, use a larger GPU, more GPUs "
        "(TENSOR_PARALLEL_SIZE), or a checkpoint with fewer bits (AWQ, FP8)."
    )


def test_another_failure_is_not_tried_again():
    engine = SmallGpu("no kernel image is available", WEIGHTS)
    with runtime_of(engine) as runtime, pytest.raises(EngineStartFailed) as caught:
        runtime.wait_until_up()
    assert str(caught.value) == (
        "The engine did not start: RuntimeError: no kernel image is available"
    )
    assert not caught.value.lasting


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (
            "Engine core initialization failed. See root cause above. Failed core proc(s): "
            "{'EngineCore': -9}",
            "SIGKILL",
        ),
        (
            "Rank 0 scheduler died during initialization (exit code: -9). If exit code is -9",
            "SIGKILL",
        ),
        ("Failed core proc(s): {'EngineCore': -40}", "signal 40"),
    ],
    ids=["vllm", "sglang", "without a name"],
)
def test_a_process_that_a_signal_has_ended_is_said_to_be_so(text, name):
    """It could report nothing."""

    class Killed(StandInEngine):
        def start(self, pacer):
            raise RuntimeError(text)

    with runtime_of(Killed()) as runtime, pytest.raises(EngineStartFailed) as caught:
        runtime.wait_until_up()
    assert str(caught.value) == (
        f"The engine did not start: a process of the engine was ended by {name}. After SIGKILL the "
        "container's memory may be too small: it must hold what the engine loads and compiles."
    )
    assert not caught.value.lasting
