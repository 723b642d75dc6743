"""An HTTP worker on the stand-in engine that is frozen and woken, as FlashBoot does."""

import re
import sys

import psutil
import pytest

from tests.support.conditions import wait_until
from tests.support.environment import clean_environment
from tests.support.http_worker import running_http_worker
from tests.support.running_queue_worker import freeze

FREEZE_SECONDS = 15
# Shorter ones are a busy machine's.
FROZEN = re.compile(r"the process was frozen for (?:1[4-9]|[2-9]\d) s$", re.M)
COMMAND = [sys.executable, "-m", "tests.support.http_stand_in"]


@pytest.fixture
def log(tmp_path):
    return tmp_path / "log"


@pytest.fixture
def worker(log, tmp_path):
    environment = clean_environment(HOME=str(tmp_path), REQUEST_TIMEOUT="12", SERVE_MODE="http")
    with (
        log.open("wb") as file,
        running_http_worker(COMMAND, environment, ready_within_seconds=60, log=file) as worker,
    ):
        yield worker


def test_no_deadline_fires_for_the_frozen_time(worker, log):
    """REQUEST_TIMEOUT is shorter than the freeze. One line of the log says how long it was."""
    job = worker.call("POST", "/run", json={"input": {"prompt": "long"}}).json()

    def state():
        return worker.call("GET", f"/status/{job['id']}").json()["status"]

    wait_until(lambda: state() == "IN_PROGRESS")
    freeze(psutil.Process(worker.process.pid), FREEZE_SECONDS)
    wait_until(lambda: state() not in ("IN_QUEUE", "IN_PROGRESS"))
    assert state() == "COMPLETED"
    answer = worker.call("POST", "/v1/completions", json={"prompt": "Hi"})
    assert answer.status_code == 200
    wait_until(lambda: FROZEN.search(log.read_text()))
    assert len(FROZEN.findall(log.read_text())) == 1
