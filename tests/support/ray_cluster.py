"""A Ray cluster of one machine."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.support.http_worker import free_port

PLUGIN = Path(__file__).parent / "ray_cpu"  # see there
START_SECONDS = 600  # on a new machine Ray compiles all its modules
STOP_SECONDS = 20


@dataclass
class RayCluster:
    """A running cluster: the value for RAY_ADDRESS, and the process of `ray start`."""

    address: str
    head: psutil.Process

    def ranks(self) -> list[psutil.Process]:
        """Return the processes of vLLM's ranks: they are children of Ray, not of the worker."""
        return [
            process
            for process in self.head.children(recursive=True)
            if process.name().startswith(("ray::RayWorkerProc", "VLLM::Worker"))
        ]


@contextmanager
def running_ray(environment: dict[str, str], ranks: int) -> Iterator[RayCluster]:
    """Run a cluster with one GPU, in Ray's terms, for each rank.

    Raises RuntimeError if it does not start.
    """
    port = free_port()
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # its sockets need a short path
    ray = Path(sys.executable).with_name("ray")
    command = [str(ray), "start", "--head", "--block", f"--port={port}", f"--num-gpus={ranks}"]
    command += ["--num-cpus=1", "--object-store-memory=80000000", "--include-dashboard=false"]
    head = subprocess.Popen(
        [*command, f"--temp-dir={folder}"],
        env=environment | {"PYTHONPATH": str(PLUGIN), "RAY_USAGE_STATS_ENABLED": "0"},
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        _wait_until_up(head, port)
        yield RayCluster(f"127.0.0.1:{port}", psutil.Process(head.pid))
    finally:
        family = _family(head)
        head.terminate()
        with suppress(subprocess.TimeoutExpired):
            head.wait(STOP_SECONDS)
        for process in family:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        head.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _wait_until_up(head: subprocess.Popen[bytes], port: int) -> None:
    """Wait until `ray status` reports a live node."""
    ray = Path(sys.executable).with_name("ray")
    deadline = time.monotonic() + START_SECONDS
    command = [str(ray), "status", f"--address=127.0.0.1:{port}"]
    while time.monotonic() < deadline and head.poll() is None:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            if b" GPU" in subprocess.run(command, capture_output=True, env=os.environ).stdout:
                return
        time.sleep(0.2)
    raise RuntimeError("Ray did not come up")


def _family(head: subprocess.Popen[bytes]) -> list[psutil.Process]:
    try:
        process = psutil.Process(head.pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []
