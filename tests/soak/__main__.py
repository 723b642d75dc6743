"""`python -m tests.soak --minutes 3 --seed 7 --engine vllm`: a worker under load and faults.

Exit codes: 0 if every invariant held, 1 if one did not, 3 if one could not be judged.
"""

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

from runpod_local import running_platform
from tests.soak.faults import FaultInjector
from tests.soak.invariants import Invariant, exit_code
from tests.soak.load import TEXTS, Load
from tests.soak.outcomes import judge
from tests.soak.report import markdown
from tests.soak.schedule import Event, schedule
from tests.soak.workers import WORKER_KEY, Workers, engine_environment, tokens, worker_command
from tests.support.conditions import wait_until
from tests.support.environment import START_SECONDS

QUIET_SECONDS = 600.0  # until all jobs have ended
IDLE_SECONDS = 120.0  # until the engine has no request
POLL_SECONDS = 2.0


def main(arguments: list[str]) -> int:
    options = parser().parse_args(arguments)
    if options.mode == "http":
        from tests.soak import http

        figures = http.run(options)
    else:
        figures = run(options)
    text = markdown(figures)
    if options.report:
        options.report.write_text(json.dumps(figures, indent=1))
        options.report.with_suffix(".md").write_text(text)
    print(text, flush=True)
    return exit_code(figures)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    made.add_argument("--minutes", type=float, default=60.0)
    made.add_argument("--seed", type=int, default=7)
    made.add_argument("--engine", choices=["vllm", "sglang"], default="vllm")
    made.add_argument("--device", choices=["cpu", "simulated"], default="cpu")
    made.add_argument("--mode", choices=["queue", "http"], default="queue")
    made.add_argument("--rate", type=float, default=1.0, help="jobs a second (default: 1)")
    made.add_argument("--connections", type=int, default=200, help="of --mode http (default: 200)")
    made.add_argument("--folder", type=Path, help="for logs; by default a new one")
    made.add_argument("--report", type=Path, help="file for the figures; Markdown is beside it")
    return made


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Run the queue's soak and return its figures."""
    plan = schedule(options.seed, options.minutes, options.rate)
    folder = options.folder or Path(tempfile.mkdtemp(prefix="soak-"))
    folder.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    with (
        running_platform(
            ping_interval_seconds=1, poll_seconds=POLL_SECONDS, worker_key=WORKER_KEY
        ) as platform,
        Workers(
            platform,
            worker_command(options.engine, options.device),
            engine_environment(options.engine, options.device, tokens(TEXTS[0])),
            folder,
        ) as workers,
    ):
        load = Load(platform, options.engine, options.device)
        faults = FaultInjector(workers, load, options.engine)
        soak = Soak(workers, load, faults)
        workers.wait_until_ready(START_SECONDS)
        soak.run(plan.events)
    seconds = time.monotonic() - began
    used = workers.cpu_seconds + time.process_time()
    outcomes = judge(load.sent, faults.windows, workers.ends, workers.logs())
    skipped = Invariant("faults that could not be applied", list(faults.skipped))
    invariants = [*outcomes.invariants, soak.idle, *workers.sampler.invariants(), skipped]
    return {
        "mode": "queue",
        "engine": options.engine,
        "device": options.device,
        "seed": options.seed,
        "minutes": options.minutes,
        "digest": plan.digest,
        "seconds": round(seconds, 1),
        "cores": round(used / seconds, 2),
        "jobs": outcomes.jobs,
        "chunks_checked": outcomes.chunks_checked,
        "chunks_repeated": outcomes.chunks_repeated,
        "faults": Counter(window.kind for window in faults.windows),
        "volumes": faults.volumes,
        "restarts": [asdict(end) for end in workers.ends],
        "lives": workers.sampler.figures(),
        "invariants": [each.figures() for each in invariants],
        "logs": str(folder),
    }


class Soak:
    """Goes through a schedule."""

    def __init__(self, workers: Workers, load: Load, faults: FaultInjector) -> None:
        self.idle = Invariant(
            "quiet points at which the engine still had a request", is_judged=False
        )
        self._workers, self._load, self._faults = workers, load, faults
        self._platform = workers.platform

    def run(self, events: tuple[Event, ...]) -> None:
        began = time.monotonic()
        for event in events:
            time.sleep(max(0.0, began + event.at - time.monotonic()))
            self._faults.end_windows()
            self._workers.count_cpu()
            if event.what == "job":
                self._load.send(event)
            elif event.what == "fault":
                self._faults.apply(event)
            else:
                stopped = time.monotonic()
                self._quiet_point(event)
                began += time.monotonic() - stopped

    def _quiet_point(self, event: Event) -> None:
        """Wait for all jobs and faults; then nothing may be left of them."""
        self._faults.join()
        try:
            wait_until(lambda: all(sent.job.finished for sent in self._load.sent), QUIET_SECONDS)
        except TimeoutError:
            left = [sent.job.id for sent in self._load.sent if not sent.job.finished]
            print(json.dumps({"at": event.at, "unfinished": left}), flush=True)
        try:  # the engine counts when it steps
            job_id = self._platform.submit({"prompt": "Hi", "max_tokens": 1})
            self._platform.wait(job_id, IDLE_SECONDS)
            wait_until(lambda: self._workers.running_requests() == 0, IDLE_SECONDS)
        except TimeoutError as error:
            self.idle.violations.append(f"{event.at:g} s, {self._workers.id}: {error}")
        self.idle.is_judged = True
        self._workers.sampler.quiet_point()
        print(json.dumps({"at": event.at, "jobs": len(self._load.sent)}), flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
