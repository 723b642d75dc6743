"""The worker beside the baseline and the engine alone: one run, ratios.

    make bench

Absolute numbers are this machine's at this moment. What holds the ratios that miss their target
stands in `benchmarks/README.md`.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks import cold, load, report
from benchmarks.checkpoint import checkpoint
from benchmarks.workers import BASELINE, OURS, Contender, environment, running
from tests.platform import running_platform

TOKENS = 128
STREAMS = (1, 16, 64, 192)


def main() -> int:
    """Measure, and write results/load.json and results/load.md."""
    options = _options()
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        model = checkpoint(Path(folder) / "model")
        shared = environment(model, VLLM_CACHE_ROOT=f"{folder}/cache")
        measured: dict[str, Any] = {
            contender.name: _measure(contender, shared, Path(folder), options)
            for contender in (BASELINE, OURS)
        }
        measured["engine"] = _direct(shared, options)
    (options.out / "load.json").write_text(json.dumps(measured, indent=1) + "\n")
    table = report.table(measured)
    (options.out / "load.md").write_text(table)
    print(table)
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--delay", type=float, default=0.05, help="seconds of each POST")
    parser.add_argument("--rounds", type=int, default=6, help="jobs per stream")
    parser.add_argument("--starts", type=int, default=3, help="cold starts of each worker")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    return parser.parse_args()


def _measure(
    contender: Contender, shared: Mapping[str, str], folder: Path, options: argparse.Namespace
) -> dict[str, Any]:
    log = folder / f"{contender.name}.log"
    seconds = cold.median(contender, shared, log, options.delay, options.starts)
    loads = {}
    with (
        running_platform(post_delay_seconds=options.delay) as platform,
        running(contender, platform, shared, log) as worker,
    ):
        for streams in STREAMS:
            jobs = max(streams, 2) * options.rounds
            made = load.measure(platform, worker.pid, streams, jobs, TOKENS)
            loads[str(streams)] = asdict(made)
    return {"first_token_seconds": seconds, "load": loads}


def _direct(shared: Mapping[str, str], options: argparse.Namespace) -> dict[str, float]:
    streams = max(STREAMS)
    command = [sys.executable, "-m", "benchmarks.direct"]
    command += [str(streams), str(streams * options.rounds), str(TOKENS)]
    done = subprocess.run(command, env=shared, capture_output=True, text=True, check=True)
    made: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return made


if __name__ == "__main__":
    sys.exit(main())
