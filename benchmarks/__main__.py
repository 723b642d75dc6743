"""Run benchmark cases and write their results.

    python -m benchmarks [--device cpu|gpu|simulated] [CASE …]      "all" is every case

Exit codes: 0 every case was measured, 1 a case failed, 2 the device is missing.
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from benchmarks import machine, plot, report
from benchmarks.bench import Bench
from benchmarks.cases import CASES
from benchmarks.cases.direct import VARIANTS
from benchmarks.devices import DEVICES
from simulated_gpu.gpu import LIBRARIES, build_libraries


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the cases one after the other; one that fails does not stop the others."""
    options = _options(arguments)
    device = DEVICES[options.device].with_options(options.executor, dict(options.env))
    here = machine.describe()
    if device.name == "gpu" and "gpu" not in here:
        print("No CUDA device is visible; --device cpu runs without one.", file=sys.stderr)
        return 2
    if device.name == "simulated":
        build_libraries(LIBRARIES.expanduser())
    out = options.out or report.RESULTS / ("" if device.name == "cpu" else device.name)
    cases = options.cases or ["main"]
    names = [name for name in CASES if name in cases or "all" in cases]
    failed = []
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        for name in names:
            save = partial(report.save, out, name, device.name, here)
            print(f"{name}: {CASES[name].title}", file=sys.stderr, flush=True)
            try:
                save(CASES[name].measure(Bench(device, Path(folder), options, save)))
            except (RuntimeError, OSError, subprocess.SubprocessError) as error:
                failed.append(f"{name} failed: {error}")
    if "main" in names and not failed:
        plot.write(out / "main.json", out / "main.png")
    print(report.write_page(out, CASES))
    print("\n".join(failed), file=sys.stderr)
    return 1 if failed else 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    titles = [f"  {case.name:<14}{case.title}" for case in CASES.values()]
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Run benchmark cases and write their results.",
        epilog="\n".join(["cases:", *titles, "  all           every one of them"]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("cases", nargs="*", type=_case, metavar="CASE", help="cases to run (default: main)")
    add("--device", choices=list(DEVICES), default="cpu", help="device that runs the engine (cpu)")
    add("--executor", help="vLLM executor class in place of simulated_gpu's")
    add("--env", type=_variable, action="append", default=[], help="NAME=VALUE for the engine")
    add(
        "--concurrency",
        type=_levels,
        default=(),
        help="levels of main, pace, http, guidellm, engines and direct",
    )
    add("--rounds", type=int, default=2, help="requests per stream (2)")
    add(
        "--starts",
        type=int,
        default=2,
        help="starts per worker where contenders take turns (2)",
    )
    add("--jobs", type=int, default=20_000, help="jobs of the case memory (20000)")
    add("--prompt-tokens", type=_count, default=512, help="prompt length in direct (512)")
    add("--output-tokens", type=_count, default=128, help="output length in direct (128)")
    add("--variants", type=_variants, default=(), help=f"variants of direct: {','.join(VARIANTS)}")
    add("--timeout", type=float, default=240.0, help="seconds per process in direct (240)")
    add("--budget", type=float, default=570.0, help="seconds of all processes in direct (570)")
    add("--out", type=Path, help="results folder")
    options = parser.parse_args(arguments)
    if options.executor and options.device != "simulated":
        parser.error("--executor needs --device simulated")
    tokens = options.prompt_tokens + options.output_tokens
    limit = DEVICES[options.device].vllm_args["max_model_len"]
    if tokens > limit:
        parser.error(f"prompt and output have {tokens} tokens; the most is {limit}")
    return options


def _case(text: str) -> str:
    if text not in (*CASES, "all"):
        raise argparse.ArgumentTypeError(f"{text!r} must be one of {', '.join(CASES)}, all")
    return text


def _variable(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise argparse.ArgumentTypeError(f"{text!r} must be NAME=VALUE")
    return name, value


def _variants(text: str) -> tuple[str, ...]:
    for name in text.split(","):
        if name not in VARIANTS:
            raise argparse.ArgumentTypeError(f"{name!r} must be one of {', '.join(VARIANTS)}")
    return tuple(text.split(","))


def _levels(text: str) -> tuple[int, ...]:
    return tuple(_count(level, minimum=1) for level in text.split(","))


def _count(text: str, minimum: int = 2) -> int:
    if not text.isdigit() or int(text) < minimum:
        raise argparse.ArgumentTypeError(f"{text!r} must be a whole number, {minimum} or more")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
