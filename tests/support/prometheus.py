"""A real Prometheus and a real Pushgateway, of Debian's packages, with our configuration."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.support.environment import ROOT, clean_environment
from tests.support.http_worker import free_port

MONITORING = ROOT / "monitoring"
PANELS = json.loads((MONITORING / "dashboard.json").read_text())["panels"]
RULES = [
    rule
    for group in yaml.safe_load((MONITORING / "rules.yml").read_text())["groups"]
    for rule in group["rules"]
]
PACKAGES = ("prometheus", "prometheus-pushgateway")  # their programs have the same names
LOCK_SECONDS = 600.0  # that apt may be busy
START_SECONDS = 20.0
STOP_SECONDS = 10.0


@dataclass(frozen=True)
class Prometheus:
    """The HTTP API of a Prometheus."""

    url: str

    def get(self, path: str, **parameters: str) -> Any:
        """Return the data of any call."""
        body = httpx.get(f"{self.url}/api/v1/{path}", params=parameters).json()
        assert body["status"] == "success", f"{parameters.get('query', path)}: {body['error']}"
        return body["data"]

    def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """Return the labels and the value of each series now."""
        result = self.get("query", query=expression)["result"]
        return [(series["metric"], float(series["value"][1])) for series in result]


def fill_variables(expression: str, **labels: str) -> str:
    """Fill in Grafana's variables; those that are not given stand for all."""
    for name in ("job", "endpoint", "worker"):
        expression = expression.replace(f"${name}", labels.get(name, ".*"))
    return expression.replace("$__rate_interval", "1m")


def install() -> None:
    """Install the packages that are missing; fail where that is not possible.

    Several suites run at once, and apt refuses a second one; those of the image use it too.
    """
    with (Path(tempfile.gettempdir()) / "install-prometheus.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        missing = [name for name in PACKAGES if shutil.which(name) is None]
        if missing:
            _install(missing)


def _install(missing: list[str]) -> None:
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        pytest.fail(f"These tests need Debian's packages: apt-get install {' '.join(missing)}")
    environment = clean_environment(DEBIAN_FRONTEND="noninteractive")
    install = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing]
    for command in (["apt-get", "update", "-qq"], install):
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        deadline = time.monotonic() + LOCK_SECONDS
        while "Could not get lock" in done.stderr and time.monotonic() < deadline:
            time.sleep(2)
            done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode:
            pytest.fail(f"{' '.join(command)}: {done.stdout[-1000:]}{done.stderr[-1000:]}")


def configuration(folder: Path, worker: int, pushgateway: int, key: str) -> Path:
    """Return our prometheus.yml with other addresses, and a second where it says fifteen."""
    (folder / "api_key").write_text(key + "\n")
    (folder / "rules.yml").write_text((MONITORING / "rules.yml").read_text())
    text = (MONITORING / "prometheus.yml").read_text()
    for ours, theirs in (
        ("worker:8000", f"127.0.0.1:{worker}"),
        ("pushgateway:9091", f"127.0.0.1:{pushgateway}"),
        ("_interval: 15s", "_interval: 1s"),
    ):
        assert ours in text
        text = text.replace(ours, theirs)
    made = folder / "prometheus.yml"
    made.write_text(text)
    return made


def promtool(*arguments: str | Path) -> tuple[int, str]:
    """Return promtool's exit code and what it printed."""
    command = ["promtool", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=clean_environment())
    return done.returncode, done.stdout + done.stderr


@contextmanager
def running_prometheus(config: Path) -> Iterator[Prometheus]:
    """Run a Prometheus that keeps its data beside its configuration."""
    url = f"http://127.0.0.1:{free_port()}"
    command = [
        "prometheus",
        f"--config.file={config}",
        f"--storage.tsdb.path={config.parent / 'data'}",
        f"--web.listen-address={url.removeprefix('http://')}",
    ]
    with _running(command, url, config.parent / "prometheus.log"):
        yield Prometheus(url)


@contextmanager
def running_pushgateway(port: int, folder: Path) -> Iterator[str]:
    """Run a Pushgateway and yield its URL."""
    url = f"http://127.0.0.1:{port}"
    command = ["prometheus-pushgateway", f"--web.listen-address=127.0.0.1:{port}"]
    with _running(command, url, folder / "pushgateway.log"):
        yield url


@contextmanager
def _running(command: list[str], url: str, log: Path) -> Iterator[None]:
    with log.open("wb") as file:
        server = subprocess.Popen(
            command,
            env=clean_environment(GOMAXPROCS="1"),
            stdout=file,
            stderr=subprocess.STDOUT,
            cwd=log.parent,
        )
    try:
        deadline = time.monotonic() + START_SECONDS
        while not _is_ready(url):
            if server.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"{command[0]} did not start: {log.read_text()[-2000:]}")
            time.sleep(0.1)
        yield
    finally:
        server.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(STOP_SECONDS)
        server.kill()
        server.wait()


def _is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/-/ready").is_success
    except httpx.HTTPError:
        return False
