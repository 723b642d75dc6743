"""The worker of a soak, and the next one when it has ended, as the platform has it."""

import contextlib
import json
import mmap
import os
import signal
import struct
import subprocess
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil

from runpod_local import JobState, Platform
from simulated_gpu.gpu import GPUS, LIBRARIES, build_libraries, host_environment
from tests.soak.resources import Life, Sampler, marker_environment, new_marker
from tests.support.environment import MODELS, NAME, ROOT, START_SECONDS, VARIANT, clean_environment
from tests.support.expositions import value
from tests.support.http_worker import free_port

SITE = Path(__file__).parent / "site"
SECRETS = {"HF_TOKEN": "hf_SOAKSECRETtoken", "API_KEY": "SOAKSECRET-api-key"}
WORKER_KEY = "SOAKSECRET-worker-key"
PYTHON = {
    "cpu": {"vllm": ".venv", "sglang": ".venv-sglang"},
    "simulated": {"vllm": ".venv-cuda", "sglang": ".venv-sglang-cuda"},
}
STOP_SECONDS = 120.0
DRAIN_SECONDS = 5
MAX_CONCURRENCY = 16


def worker_command(engine: str, device: str) -> list[str]:
    return [str(ROOT / PYTHON[device][engine] / "bin/python"), "-m", "handler"]


def engine_environment(engine: str, device: str, tokens: str) -> dict[str, str]:
    """Return the environment of a worker with the demo model on a device."""
    variant = "awq" if device == "simulated" else VARIANT[engine]
    own = {
        "ENGINE": engine,
        "MODEL_NAME": str(MODELS / f"{NAME}-{variant}"),
        "OMP_NUM_THREADS": "1",
        "VLLM_LOGGING_LEVEL": "WARNING",
        "SGLANG_LOGGING_LEVEL": "WARNING",
        "TOOL_CALL_PARSER": "hermes",
        "ENABLE_AUTO_TOOL_CHOICE": "true",
        **SECRETS,
    }
    if device == "simulated":
        build_libraries(LIBRARIES.expanduser())
        host = host_environment(LIBRARIES.expanduser(), GPUS["h100"], engine=engine)
        own |= {**host, "SIMULATED_TOKENS": tokens, "SIMULATED_KV_CACHE_GIB": "1"}
    path = [str(SITE), *filter(None, [own.get("PYTHONPATH")]), str(ROOT)]
    return clean_environment(**own | {"PYTHONPATH": os.pathsep.join(path)})


def tokens(text: str) -> str:
    """Return the demo model's token ids of a text, as JSON."""
    from tokenizers import Tokenizer

    path = MODELS / f"{NAME}-awq/tokenizer.json"
    return json.dumps(Tokenizer.from_file(str(path)).encode(text).ids)


@dataclass
class End:
    """How a worker ended."""

    worker: str
    code: int
    expected: tuple[int, ...]
    why: str
    seconds: float
    lost: list[str] = field(default_factory=list)
    orphans: list[str] = field(default_factory=list)


class Clock:
    """The offset of the workers' wall clock."""

    def __init__(self, path: Path) -> None:
        path.write_bytes(bytes(8))
        self.path = path
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), 8)

    def set(self, seconds: float) -> None:
        self._map[:8] = struct.pack("d", seconds)


class Volume:
    """The network volume: a folder that can be gone, or full where tmpfs can be mounted."""

    def __init__(self, path: Path) -> None:
        self.path, self.state = path, "there"
        path.mkdir()

    def become(self, state: str) -> str:
        """Return the state that it has now: "full" needs the right to mount."""
        self.close()
        if state == "gone":
            self.path.rename(self.path.with_suffix(".away"))
        elif state == "full":
            mount = ["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(self.path)]
            if subprocess.run(mount, capture_output=True).returncode:
                return "there (no right to mount a full one)"
            with contextlib.suppress(OSError):
                Path(self.path, "fill").write_bytes(bytes(1 << 20))
        self.state = state
        return state

    def close(self) -> None:
        if self.state == "gone":
            with contextlib.suppress(OSError):  # a worker may have made the folder anew
                self.path.rename(self.path.with_suffix(f".made-{time.monotonic_ns()}"))
            self.path.with_suffix(".away").rename(self.path)
        elif self.state == "full":
            # Lazily: a worker that runs may have a file of it open.
            subprocess.run(["umount", "--lazy", str(self.path)], check=True)
        self.state = "there"


class Workers:
    """Runs one worker after the other until `stop`; use as a context manager.

    Attributes:
        ends: of all workers that have ended.
        expected: exit codes that the running worker may end with, and why; by default none.
    """

    def __init__(
        self, platform: Platform, command: list[str], environment: dict[str, str], folder: Path
    ) -> None:
        self.platform, self.folder = platform, folder
        self._command, self._environment = command, environment
        self.sampler = Sampler(pooled_connections=MAX_CONCURRENCY)
        self.clock, self.volume = Clock(folder / "clock"), Volume(folder / "volume")
        self.ends: list[End] = []
        self.expected: tuple[tuple[int, ...], str] = ((), "by itself")
        self.started = threading.Event()  # a process runs, ready or not
        self._stopping = False
        self._count = 0
        self._cpu_seconds: dict[tuple[int, float], float] = {}
        self.port = free_port()
        self._thread = threading.Thread(target=self._run, name="workers", daemon=True)

    @property
    def id(self) -> str:
        return f"worker-{self._count}"

    def __enter__(self) -> "Workers":
        self.sampler.__enter__()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping = True
        self.expect((0, 143), "end of the soak")
        self.platform.settings.poll_seconds = 0.1
        self.process.send_signal(signal.SIGTERM)
        self.platform.release_polls()
        self._thread.join(STOP_SECONDS)
        if self._thread.is_alive():
            os.killpg(self.process.pid, signal.SIGKILL)
            self._thread.join()
        self.sampler.__exit__()
        self.volume.close()

    def expect(self, codes: tuple[int, ...], why: str) -> None:
        """Say what the running worker will end with: its series ends here."""
        self.expected = (codes, why)
        self.sampler.end_series()

    def wait_until_ready(self, timeout_seconds: float = START_SECONDS) -> None:
        """Wait for the running worker's first poll, or that of one after it."""
        deadline = time.monotonic() + timeout_seconds
        while time.monotonic() < deadline:
            seen = self.platform.workers.get(self.id)
            if self.started.is_set() and seen and seen.ready:
                return
            time.sleep(0.1)
        raise TimeoutError(f"{self.id} did not poll in {timeout_seconds} s")

    def family(self) -> list[psutil.Process]:
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(self.process.pid)
            return [process, *process.children(recursive=True)]
        return []

    def count_cpu(self) -> None:
        """Note the CPU time of the worker's processes; that of a killed one is nobody's later."""
        for each in self.family():
            with contextlib.suppress(psutil.Error):
                times = each.cpu_times()
                self._cpu_seconds[each.pid, each.create_time()] = times.user + times.system

    @property
    def cpu_seconds(self) -> float:
        return sum(self._cpu_seconds.values())

    def running_requests(self) -> float:
        """Return how many requests the engine has, from its metrics."""
        text = httpx.get(f"http://127.0.0.1:{self.port}/metrics", timeout=120).text
        return value(text, "llm_worker_engine_running_requests")

    def logs(self) -> list[Path]:
        return sorted(self.folder.glob("worker-*.log"))

    def _run(self) -> None:
        while not self._stopping:
            self._count += 1
            self.expected = ((), "by itself")
            marker = new_marker()
            environment = {
                **self._environment,
                **marker_environment(marker),
                **self.platform.worker_environment(self.id),
                "CLOCK_OFFSET": str(self.clock.path),
                "BASE_PATH": str(self.volume.path),
                "CACHE_ROOT": str(self.folder / f"cache-{self.id}"),
                "METRICS_PORT": str(self.port),
                "DRAIN_TIMEOUT": str(DRAIN_SECONDS),
                "MAX_CONCURRENCY": str(MAX_CONCURRENCY),
            }
            began = time.monotonic()
            with (self.folder / f"{self.id}.log").open("wb") as log:
                self.process = subprocess.Popen(
                    self._command,
                    env=environment,
                    cwd=ROOT,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            life = self.sampler.follow(self.process.pid, marker, self.id)
            self.started.set()
            self._begin_series_when_ready(life)
            code = self.process.wait()
            self.started.clear()
            end = End(self.id, code, *self.expected, time.monotonic() - began)
            end.orphans = life.orphans()
            end.lost = self._lost_jobs()
            self.ends.append(end)
            print(json.dumps({"ended": self.id, "code": code, "why": end.why}), flush=True)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)

    def _begin_series_when_ready(self, life: Life) -> None:
        """Leave the start out of the series of memory."""
        while self.process.poll() is None:
            seen = self.platform.workers.get(self.id)
            if seen and seen.ready:
                life.begin_series()
                return
            time.sleep(0.2)

    def _lost_jobs(self) -> list[str]:
        """End the jobs that the worker took with it; return their ids."""
        lost = [
            job.id
            for job in list(self.platform.state.jobs.values())
            if job.state is JobState.IN_PROGRESS and job.worker_id == self.id
        ]
        for job_id in lost:
            self.platform.cancel(job_id)
        return lost
