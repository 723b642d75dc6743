"""A real Prometheus and a real Pushgateway, of Debian's packages, with our configuration."""

from __future__ import annotations

import contextlib
import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.support import debian
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
START_SECONDS = 120.0
STOP_SECONDS = 10.0


@dataclass(frozen=True)
class Prometheus:
    """The HTTP API of a Prometheus."""

    url: str

    def get(self, path: str, **parameters: str) -> Any:
        """Return the data of any call."""
        body = httpx.get(f"{self.url}/api/v1/{path}", params=parameters, timeout=60).json()
        assert body["status"] == "success", f"{parameters.get('query', path)}: {body['error']}"
        return body["data"]

    def query(self, expression: str, at: float | None = None) -> list[tuple[dict[str, str], float]]:
        """Return the labels and the value of each series, now or at a time."""
        time_of_query = {} if at is None else {"time": str(at)}
        result = self.get("query", query=expression, **time_of_query)["result"]
        return [(series["metric"], float(series["value"][1])) for series in result]


def fill_variables(expression: str, **labels: str) -> str:
    """Fill in Grafana's variables; those that are not given stand for all."""
    for name in ("job", "endpoint", "worker"):
        expression = expression.replace(f"${name}", labels.get(name, ".*"))
    return expression.replace("$__rate_interval", "1m")


def install() -> None:
    """Install both; fail where that is not possible."""
    debian.install({name: name for name in PACKAGES})


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
        return httpx.get(f"{url}/-/ready", timeout=60).is_success
    except httpx.HTTPError:
        return False
