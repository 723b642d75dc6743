"""The cases' processes: one after the other, each with a bound, none left behind."""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.cuda import model as gpu_model
from benchmarks.cuda import report as gpu_report
from benchmarks.cuda.case import Specification
from benchmarks.cuda.model import Case

ROOT = Path(__file__).resolve().parents[2]
LEAST_SECONDS = 20.0  # with less left no case is begun
END_SECONDS = 10.0
LOG_LINES = 15
ERROR = re.compile(r"(?:^|[\s\]])((?:\w+\.)*\w*(?:Error|Exception)\b: .*)")


class Run:
    """Runs cases, one process after the other, until the time is up.

    Args:
        folder: for models, caches, logs and results.
        options: of the command line.
        environ: what the processes get, beside what `environment` says.
        on_cpu: whether there is no CUDA device.
    """

    def __init__(
        self, folder: Path, options: argparse.Namespace, environ: Mapping[str, str], on_cpu: bool
    ) -> None:
        self._folder = folder
        self._options = options
        self._environ = environ
        self._on_cpu = on_cpu
        self._deadline = time.monotonic() + options.budget

    def measure(self, case: Case) -> dict[str, Any]:
        """Start a case as often as it says, and measure at the last start."""
        record: dict[str, Any] = {"starts": {}}
        starts = ("cold", "warm") if case.cold else ("shared",)
        for start in starts:
            seconds = min(self._deadline - time.monotonic(), self._options.timeout)
            if seconds < LEAST_SECONDS:
                return record | {"error": f"not run: {start}, the time of --budget is used up"}
            print(f"{case.name}, {start} …", file=sys.stderr, flush=True)
            made = self._child(case, start == starts[-1], seconds)
            record["starts"][start] = made.pop("stages", {})
            record |= made
            if "error" in made:
                print(f"{case.name}: {made['error']}", file=sys.stderr, flush=True)
                break
        return record

    def _child(self, case: Case, loaded: bool, seconds: float) -> dict[str, Any]:
        """Run a process to its end and return what it found, with an `error` if it failed."""
        result, log = self._folder / "result.json", self._folder / "log"
        result.unlink(missing_ok=True)
        given = json.dumps(asdict(self._specification(case, loaded)))
        with log.open("wb") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", case.module, given, str(result)],
                cwd=ROOT,
                env=environment(self._environ, self._folder, case, self._on_cpu),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                code: int | None = process.wait(seconds)
            except subprocess.TimeoutExpired:
                code = None
            finally:
                _end(process)
        text = log.read_text(errors="replace")
        made: dict[str, Any] = json.loads(result.read_text()) if result.exists() else {}
        made["stages"] = made.get("stages", {}) | gpu_report.read_log(text, gpu_report.STAGES)
        made |= gpu_report.read_log(text, gpu_report.FACTS)
        if code != 0:
            lines = self._without_folders(text).splitlines()
            ended = f"no end within {seconds:.0f} s" if code is None else f"ended with {code}"
            made |= {"error": f"{ended}: {cause(lines)}", "log": lines[-LOG_LINES:]}
        return made

    def _specification(self, case: Case, loaded: bool) -> Specification:
        options = self._options
        shapes = gpu_model.SHAPES[options.model]
        model = gpu_model.write(self._folder / case.quantization, shapes, case.quantization)
        flags = {**gpu_model.FLAGS, **case.flags}
        if self._on_cpu:
            flags["distributed_executor_backend"] = "uni"
        repetitive = [n for n in gpu_model.REPETITIVE_STREAMS if n <= max(options.streams)]
        return Specification(
            model=str(model),
            vocabulary=shapes.vocabulary,
            flags=flags,
            started_at=time.time(),
            prompt_tokens=options.prompt_tokens,
            answer_tokens=options.answer_tokens,
            streams=options.streams if loaded and case.load else (),
            repetitive=repetitive if loaded and case.repetitive else (),
        )

    def _without_folders(self, log: str) -> str:
        """Return a log without the folders of this machine."""
        for folder in (str(self._folder), sys.prefix, str(ROOT)):
            log = log.replace(f"{folder}/", "")
        return log


def cause(lines: Sequence[str]) -> str:
    """Return the first error that a log names, for what follows it is what that led to.

    Its last line where none is named.
    """
    errors = (match[1] for line in lines if (match := ERROR.search(line)))
    return next(errors, lines[-1] if lines else "it wrote nothing")


def environment(
    environ: Mapping[str, str], folder: Path, case: Case, on_cpu: bool
) -> dict[str, str]:
    """Return a case's environment: its model's own caches, no network, a log with the stages in it.

    Args:
        environ: what it begins with.
        folder: for the caches.
        case: which one.
        on_cpu: whether there is no CUDA device; the settings are then those of the tests.
    """
    cache = folder / f"cache-{case.quantization}"
    made = {
        **environ,
        "VLLM_CACHE_ROOT": str(cache / "vllm"),
        "TORCHINDUCTOR_CACHE_DIR": str(cache / "inductor"),
        "TRITON_CACHE_DIR": str(cache / "triton"),
        "CUDA_CACHE_PATH": str(cache / "cuda"),
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": "INFO",
    }
    if on_cpu:
        made |= {
            "OMP_NUM_THREADS": "1",
            "TORCH_COMPILE_DISABLE": "1",
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        }
    elif case.module == gpu_model.WORKER:
        made = {"VLLM_WORKER_MULTIPROC_METHOD": "spawn", **made}  # the worker's own default
    return made


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill what is left of a process and its children: the device's memory must be free again."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    until = time.monotonic() + END_SECONDS
    with suppress(ProcessLookupError):
        while time.monotonic() < until:
            os.killpg(process.pid, 0)
            time.sleep(0.1)
