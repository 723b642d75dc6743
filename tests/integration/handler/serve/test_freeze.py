"""A queue worker on the stand-in engine that is frozen and woken, as FlashBoot does."""

import psutil
import pytest

from runpod_local import JobState
from tests.support.running_queue_worker import Proxy, freeze, queue_worker

TIMEOUT_SECONDS = 12
FREEZE_SECONDS = 15
FROZEN = r"the process was frozen for (1[4-9]|[2-9]\d) s$"  # shorter ones are a busy machine's


@pytest.fixture(scope="module")
def proxy():
    return Proxy()


@pytest.fixture(scope="module")
def shared(tmp_path_factory, proxy):
    folder = tmp_path_factory.mktemp("worker")
    with queue_worker(folder, proxy, REQUEST_TIMEOUT=str(TIMEOUT_SECONDS)) as worker:
        worker.platform.settings.poll_seconds = 600.0
        yield worker


@pytest.fixture
def worker(shared):
    shared.lines()
    return shared


def test_an_idle_worker_whose_connections_died_takes_the_next_job(worker, proxy):
    """The open polls and the idle connections are half-open: new ones are made."""
    assert worker.run().state is JobState.COMPLETED
    proxy_connections = proxy.leave_half_open()
    freeze(psutil.Process(worker.process.pid), FREEZE_SECONDS)
    assert worker.run().state is JobState.COMPLETED
    assert len(worker.wait_for_lines(FROZEN)) == 1
    assert len(proxy_connections) >= 3  # the poll for jobs, for stop signals, a POST


def test_no_deadline_fires_for_the_frozen_time(worker):
    """REQUEST_TIMEOUT is shorter than the freeze; the request ends after it."""
    job_id = worker.platform.submit({"prompt": "long"})
    worker.platform.wait_until(job_id, lambda job: job.state is JobState.IN_PROGRESS)
    freeze(psutil.Process(worker.process.pid), FREEZE_SECONDS)
    job = worker.platform.wait(job_id)
    assert (job.state, job.error) == (JobState.COMPLETED, None)
    assert len(worker.wait_for_lines(FROZEN)) == 1


def test_a_stream_goes_on_and_its_deadline_counts_the_time_awake(worker):
    job_id = worker.platform.submit({"prompt": "endless", "stream": True})
    worker.platform.wait_until(job_id, lambda job: job.chunks)
    freeze(psutil.Process(worker.process.pid), FREEZE_SECONDS)
    chunks = len(worker.platform.job(job_id).chunks)
    worker.platform.wait_until(job_id, lambda job: len(job.chunks) > chunks + 1)
    job = worker.platform.wait(job_id)
    assert job.state is JobState.FAILED
    assert f"REQUEST_TIMEOUT={TIMEOUT_SECONDS} seconds" in job.error
    assert job.finished_at - job.taken_at > FREEZE_SECONDS + TIMEOUT_SECONDS - 1
    assert len(worker.wait_for_lines(FROZEN)) == 1


def test_a_worker_with_jobs_whose_connections_died_delivers_them(worker, proxy):
    """The POST of a chunk that was under way is sent again."""
    worker.platform.post_delay_seconds = 0.5
    job_id = worker.platform.submit({"prompt": "hello", "stream": True})
    worker.platform.wait_until(job_id, lambda job: job.chunks)
    proxy.leave_half_open()
    worker.platform.post_delay_seconds = 0
    freeze(psutil.Process(worker.process.pid), FREEZE_SECONDS)
    job = worker.platform.wait(job_id)
    assert job.state is JobState.COMPLETED
    texts = [choice["text"] for chunk in job.output for choice in chunk["choices"]]
    assert "".join(texts) == "one two"
