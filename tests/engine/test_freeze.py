"""A worker with a real engine that is frozen and woken with all its processes, as FlashBoot does.

REQUEST_TIMEOUT is as long as a freeze, so a deadline that counted it would fire.
"""

import psutil
import pytest

from runpod_local import JobState, running_platform, running_worker
from tests.support.environment import (
    PYTHON,
    START_SECONDS,
    worker_command,
    worker_environment,
)
from tests.support.running_queue_worker import Proxy, QueueWorker, freeze, proxied

FREEZE_SECONDS = 20
FROZEN = r"the process was frozen for (1[89]|[2-9]\d) s$"  # shorter ones are a busy machine's
MAX_TRIES = 5
QUESTION = {"prompt": "The capital of France is", "max_tokens": 4, "temperature": 0}
# Both take seconds on a CPU, but not REQUEST_TIMEOUT, also where others use the cores.
STREAM_TOKENS = 16
STREAM = {**QUESTION, "max_tokens": STREAM_TOKENS, "ignore_eos": True, "stream": True}
LONG = {**QUESTION, "prompt": "Once upon a time, there was a king. " * 40, "stream": True}
# In float32, which processors without instructions for bfloat16 compute several times faster.
VARIABLES = {"REQUEST_TIMEOUT": str(FREEZE_SECONDS), "DTYPE": "float32"}


@pytest.fixture(scope="module", params=PYTHON)
def worker(request, tmp_path_factory):
    """With its process and its proxy."""
    log = tmp_path_factory.mktemp("worker") / "log"
    environment = worker_environment("bf16", request.param, **VARIABLES)
    proxy = Proxy()
    with (
        log.open("wb") as file,
        running_platform(ping_interval_seconds=1) as platform,
        proxied(platform, proxy),
        running_worker(
            platform,
            worker_command(request.param),
            environment,
            ready_within_seconds=START_SECONDS,
            log=file,
        ) as process,
    ):
        platform.settings.poll_seconds = 600.0
        made = QueueWorker(platform, process, log)
        made.family = psutil.Process(process.pid)
        made.proxy = proxy
        yield made


def text(job):
    return "".join(choice["text"] for chunk in job.output for choice in chunk["choices"])


def woken(worker):
    """Check that the worker is as before: one line of its log, and the next job is answered."""
    assert len(worker.wait_for_lines(FROZEN)) == 1
    job = worker.run(QUESTION)
    assert (job.state, job.error) == (JobState.COMPLETED, None)
    assert "Paris" in text(job)
    assert worker.lines("died", "SIGQUIT", "timeout", FROZEN) == []


def test_idle_with_dead_connections(worker):
    """Polls and pings go over new ones."""
    worker.run(QUESTION)
    dead = worker.proxy.leave_half_open()
    assert len(dead) >= 3  # the polls for jobs and for stop signals, a POST
    freeze(worker.family, FREEZE_SECONDS)
    [seen] = worker.platform.workers.values()
    pings = len(seen.pings)
    woken(worker)
    worker.platform.wait_for_worker(60, lambda each: len(each.pings) > pings)


def test_in_a_prefill(worker):
    """No chunk has come at the freeze; all come after it. A prefill may be over before it."""
    for number in range(MAX_TRIES):
        prompt = f"{number} {LONG['prompt']}"  # no prefix of an earlier one
        job_id = worker.platform.submit(LONG | {"prompt": prompt})
        job = worker.platform.wait_until(job_id, lambda job: job.state is JobState.IN_PROGRESS)
        chunks_before = freeze(worker.family, FREEZE_SECONDS, lambda job=job: list(job.chunks))
        job = worker.platform.wait(job_id, 300)
        assert (job.state, job.error) == (JobState.COMPLETED, None)
        assert job.output[-1]["usage"]["completion_tokens"] == 4
        woken(worker)
        if chunks_before == []:
            return
    pytest.fail(f"{MAX_TRIES} prefills were over before the freeze")


def test_in_a_stream(worker):
    """What it says is what it says without a freeze."""
    expected = text(worker.run(STREAM))
    job_id = worker.platform.submit(STREAM)
    worker.platform.wait_until(job_id, lambda job: job.chunks)
    freeze(worker.family, FREEZE_SECONDS)
    job = worker.platform.wait(job_id, 300)
    assert (job.state, job.error) == (JobState.COMPLETED, None)
    assert job.output[-1]["usage"]["completion_tokens"] == STREAM_TOKENS
    assert text(job) == expected
    woken(worker)
