"""The soak of the HTTP front end: up to a thousand connections, faults, and what must hold.

`run(options)` is called by `python -m tests.soak --mode http`.
"""

import argparse
import asyncio
import contextlib
import functools
import json
import os
import signal
import statistics
import subprocess
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil

from tests.soak.faults import CORES
from tests.soak.http_clients import ANSWER_MARK, Clients, constrained, timed_get, verdict
from tests.soak.http_schedule import Fault, Schedule, schedule
from tests.soak.invariants import Invariant
from tests.soak.load import MARKER
from tests.soak.outcomes import judge_logs
from tests.soak.resources import Life, Sampler, described, family, marker_environment, new_marker
from tests.soak.windows import Window
from tests.soak.workers import SECRETS, End, engine_environment, tokens, worker_command
from tests.support.environment import ROOT, SIMULATED_ANSWER, START_SECONDS
from tests.support.expositions import value
from tests.support.http_worker import free_port
from tests.support.processes import arguments, frozen

PING_INTERVAL_SECONDS, METRICS_INTERVAL_SECONDS = 0.5, 2.0
STOP_SECONDS = 90.0
QUIET_SECONDS = 150.0  # until all calls have ended
IDLE_SECONDS = 30.0  # until the engine has no request, and the server no connection
GAUGES = ("requests_active", "streams_active", "engine_running_requests")
LINGER_SECONDS = 1.0  # an answer that was under way at the end of a window arrives in this time
EXIT_CODES = {"kill_core": 5, "terminate": 0, "end": 0}


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Run the soak and return its figures."""
    folder = options.folder or Path(tempfile.mkdtemp(prefix="soak-"))
    folder.mkdir(parents=True, exist_ok=True)
    plan = schedule(options.seed, options.minutes, options.connections)
    began, cpu = time.monotonic(), os.times()
    with Sampler() as sampler:
        soak = HttpSoak(options.engine, options.device, options.connections, folder, sampler)
        asyncio.run(soak.run(plan))
    seconds = time.monotonic() - began
    used = sum(os.times()[:4]) - sum(cpu[:4])
    return {
        "mode": "http",
        **{name: getattr(options, name) for name in ("engine", "device", "seed", "minutes")},
        "connections": options.connections,
        "digest": plan.digest,
        "seconds": round(seconds, 1),
        "cores": round(used / seconds, 2),
        **soak.figures(),
        "logs": str(folder),
    }


class HttpSoak:
    """Goes through a schedule with one worker after the other on one port.

    All times are seconds since the first worker was ready.
    """

    def __init__(
        self, engine: str, device: str, connections: int, folder: Path, sampler: Sampler
    ) -> None:
        self._engine, self._connections, self._folder = engine, connections, folder
        self._sampler = sampler
        self._port, self._key = free_port(), SECRETS["API_KEY"]
        self._command = worker_command(engine, device)
        text = SIMULATED_ANSWER
        self._environment = engine_environment(engine, device, tokens(text)) | {
            "PORT": str(self._port),
            "SERVE_MODE": "http",
            "HTTP_HOST": "127.0.0.1",
            "MAX_QUEUE": "4000",
            "CACHE_ROOT": str(folder / "cache"),
        }
        self._zero = time.monotonic()
        self._paused = 0.0  # seconds of quiet points, which the schedule does not count
        self._windows: list[Window] = []
        self._lives: list[Life] = []
        self._ends: list[End] = []
        self._running = asyncio.Event()  # not at a quiet point
        self._pings: list[tuple[float, int, float]] = []
        self._scrapes: list[tuple[float, int, float]] = []
        self._applied: Counter[str] = Counter()
        has_grammars = engine == "vllm" or device == "cpu"
        self._clients = Clients(
            self._port,
            self._key,
            MARKER,
            self._now,
            constrained=functools.partial(constrained, engine),
            only_text="" if has_grammars else text,
        )
        self.idle = Invariant(
            "quiet points with a request, a stream or a connection left", is_judged=False
        )
        self.open = Invariant("calls that did not end")
        self.orphans = Invariant("processes left after their worker")

    def _now(self) -> float:
        return time.monotonic() - self._zero

    async def run(self, plan: Schedule) -> None:
        """Start a worker, go through the schedule, and stop the last worker."""
        tasks: set[asyncio.Task[None]] = set()
        if this := asyncio.current_task():  # else the worker would outlive a soak that is stopped
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, this.cancel)
        try:
            await self._start()
            self._zero, self._windows = time.monotonic(), []
            self._running.set()
            for each in (self._ping(), self._scrape()):
                tasks.add(asyncio.create_task(each))
            calls = asyncio.create_task(self._call(plan))
            for fault in plan.faults:
                await self._wait_for(fault.at)
                await self._apply(fault)
            await calls
            await self._quiet_point()
            await self._end("end")
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    # ---- the load ----

    async def _wait_for(self, at: float) -> None:
        while (left := at + self._paused - self._now()) > 0 or not self._running.is_set():
            await self._running.wait()
            await asyncio.sleep(min(max(left, 0), 0.5))

    async def _call(self, plan: Schedule) -> None:
        tasks: set[asyncio.Task[None]] = set()
        for call in plan.calls:
            await self._wait_for(call.at)
            while self._clients.open >= self._connections:
                await asyncio.sleep(0.02)
                await self._running.wait()
            task = asyncio.create_task(self._clients.run(call))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        await asyncio.gather(*tasks)

    async def _ping(self) -> None:
        while True:
            await self._running.wait()
            status, _, seconds = await timed_get(f"http://127.0.0.1:{self._port}/ping", {})
            self._pings.append((self._now() - seconds, status, seconds))
            await asyncio.sleep(PING_INTERVAL_SECONDS)

    async def _scrape(self) -> None:
        while True:
            await self._running.wait()
            status, _, seconds = await self._metrics()
            self._scrapes.append((self._now() - seconds, status, seconds))
            await asyncio.sleep(METRICS_INTERVAL_SECONDS)

    async def _metrics(self) -> tuple[int, str, float]:
        headers = {"Authorization": f"Bearer {self._key}"}
        return await timed_get(f"http://127.0.0.1:{self._port}/metrics", headers)

    # ---- the worker ----

    async def _start(self) -> None:
        """Start a worker and wait until it is ready."""
        marker, name = new_marker(), f"worker-{len(self._lives) + 1}"
        began = self._now()
        with (self._folder / f"{name}.log").open("wb") as log:
            self._process = subprocess.Popen(
                self._command,
                env=self._environment | marker_environment(marker),
                cwd=ROOT,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._lives.append(self._sampler.follow(self._process.pid, marker, name))
        if not self._windows:
            self._windows.append(Window("away", began))
        self._windows.append(Window("start", began))
        url, is_away = f"http://127.0.0.1:{self._port}/ping", True
        deadline = time.monotonic() + START_SECONDS
        while (status := (await timed_get(url, {}))[0]) != 200:
            if status and is_away:
                is_away = False
                self._close_window("away")
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{name} is not ready: exit code {self._process.poll()}")
            await asyncio.sleep(0.1)
        if is_away:
            self._close_window("away")
        self._lives[-1].begin_series()
        self._close_window("start")

    def _close_window(self, kind: str) -> None:
        """End the last window of a kind."""
        last = [window for window in self._windows if window.kind == kind][-1]
        last.ended = self._now() + LINGER_SECONDS

    async def _end(self, kind: str) -> None:
        """Kill the core or send SIGTERM, wait for the worker's end, and look for its processes."""
        life, at = self._lives[-1], self._now()
        life.end_series()
        # A call that arrives with the signal may be either before it or after it.
        excuses_from = float("-inf") if kind == "kill_core" else at - 0.5
        window = "core" if kind == "kill_core" else "drain"
        self._windows.append(Window(window, at, excuses_from=excuses_from))
        if kind == "kill_core":
            for each in family(life.process):
                if CORES[self._engine] in arguments(each):
                    each.kill()
        else:
            self._process.terminate()
        try:
            code = await asyncio.to_thread(self._process.wait, STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        self._close_window(window)
        self._windows.append(
            Window("away", self._now() - LINGER_SECONDS, excuses_from=excuses_from)
        )
        end = End(life.name, code, (EXIT_CODES[kind],), kind, self._now() - at)
        self._ends.append(end)
        end.orphans = await asyncio.to_thread(life.orphans)
        self.orphans.violations += [f"{life.name}: {each}" for each in end.orphans]

    # ---- faults and quiet points ----

    async def _apply(self, fault: Fault) -> None:
        self._applied[fault.kind] += 1
        if fault.kind == "quiet":
            await self._quiet_point()
        elif fault.kind == "freeze":
            self._windows.append(Window("freeze", self._now()))
            with frozen(family(self._lives[-1].process)):
                await asyncio.sleep(fault.seconds)
            self._close_window("freeze")
        else:
            await self._end(fault.kind)
            await self._start()

    async def _quiet_point(self) -> None:
        """Let all calls end; then nothing may be left of them in the worker."""
        began = self._now()
        self._running.clear()
        self._clients.hurry.set()
        while self._clients.open and self._now() < began + QUIET_SECONDS:
            await asyncio.sleep(0.05)
        if self._clients.open:
            self.open.violations.append(f"{self._clients.open} at {began:.0f} s")
        deadline = self._now() + IDLE_SECONDS
        while (left := await self._left()) and self._now() < deadline:
            await asyncio.sleep(0.2)
        if left:
            self.idle.violations.append(f"{began:.0f} s: {left}")
            print(json.dumps({"at": round(began), "left": left}), flush=True)
        self.idle.is_judged = True
        await asyncio.to_thread(self._sampler.quiet_point)
        self._clients.hurry.clear()
        self._paused += self._now() - began
        self._running.set()
        print(json.dumps({"at": round(began), "exchanges": len(self._clients.results)}), flush=True)

    async def _left(self) -> dict[str, Any]:
        """Return what is left of calls; the engine counts its requests when it steps."""
        one = {"prompt": "Hi", "max_tokens": 1}
        async with (
            self._clients.session(force_close=True) as session,
            session.post("/v1/completions", json=one) as response,
        ):
            await response.read()
        text = (await self._metrics())[1]
        gauges = {name: value(text, f"llm_worker_{name}", missing=-1) for name in GAUGES}
        left = {name: number for name, number in gauges.items() if number}
        if connections := self._connections_of_worker():
            left["connections"] = connections
        return left

    def _connections_of_worker(self) -> list[str]:
        open_states = (psutil.CONN_ESTABLISHED, psutil.CONN_CLOSE_WAIT)
        return [
            f"{connection.status} of {described(each)}"
            for each in family(self._lives[-1].process)
            for connection in each.net_connections("tcp")
            if connection.laddr.port == self._port and connection.status in open_states
        ]

    # ---- the report ----

    def figures(self) -> dict[str, Any]:
        """Return the figures and the invariants."""
        calls: dict[str, Counter[str]] = defaultdict(Counter)
        answers = Invariant(
            "calls without exactly one complete answer, or a fault that explains it",
            is_judged=bool(self._clients.results),
        )
        for result in self._clients.results:
            outcome, problem = verdict(result, self._windows)
            calls[result.kind][outcome] += 1
            if problem:
                answers.violations.append(problem)
        exits = Invariant("workers that ended with another exit code")
        exits.violations = [
            f"{end.worker}: {end.code} instead of {end.expected}, {end.why}"
            for end in self._ends
            if end.code not in end.expected
        ]
        logs = sorted(self._folder.glob("worker-*.log"))
        secrets = judge_logs(logs)
        secrets.violations += list(_lines_with(logs, ANSWER_MARK))
        checks = (
            *(answers, self.open, self._judged_polls("ping", self._pings)),
            *(self._judged_polls("metrics", self._scrapes), self.idle, exits, self.orphans),
            *(*self._sampler.invariants(), secrets),
        )
        return {
            "exchanges": len(self._clients.results),
            "most_open": self._clients.most_open,
            "jobs": calls,
            "faults": self._applied,
            "restarts": [asdict(end) for end in self._ends],
            "lives": self._sampler.figures(),
            "ping": self._latencies(self._pings),
            "metrics": self._latencies(self._scrapes),
            "tracebacks": list(_lines_with(logs, "Traceback")),
            "log_lines": {
                log.name: len(log.read_text("utf-8", "replace").splitlines()) for log in logs
            },
            "invariants": [each.figures() for each in checks],
        }

    def _in_peace(self, began: float, seconds: float) -> bool:
        return not any(window.overlaps(began, began + seconds) for window in self._windows)

    def _judged_polls(self, name: str, polls: list[tuple[float, int, float]]) -> Invariant:
        invariant = Invariant(f"/{name} that was not 200 without a fault", is_judged=bool(polls))
        invariant.violations = [
            f"{began:.1f} s: {status} after {seconds:.1f} s"
            for began, status, seconds in polls
            if status != 200 and self._in_peace(began, seconds)
        ]
        return invariant

    def _latencies(self, polls: list[tuple[float, int, float]]) -> dict[str, float]:
        """Return milliseconds of those in peace; clients and worker share the cores."""
        taken = sorted(
            seconds * 1000 for began, _, seconds in polls if self._in_peace(began, seconds)
        )
        if not taken:
            return {"number": 0}
        figures = {"p50_ms": statistics.median(taken), "p99_ms": taken[len(taken) * 99 // 100]}
        return {"number": len(taken)} | {
            name: round(each, 1) for name, each in (figures | {"max_ms": taken[-1]}).items()
        }


def _lines_with(logs: list[Path], text: str) -> Iterator[str]:
    for log in logs:
        for number, line in enumerate(log.read_text("utf-8", "replace").splitlines(), 1):
            if text in line:
                yield f"{log.name}:{number}: {line[:200]}"
