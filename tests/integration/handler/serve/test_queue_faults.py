"""A queue worker on the stand-in engine, whose platform answers with what is no job."""

import contextlib
import json
import signal
import time

import psutil
import pytest

from handler.serve.queue.ping import pinged_jobs
from runpod_local import JobState
from tests.support.conditions import wait_until
from tests.support.processes import running
from tests.support.running_queue_worker import PROMPT, queue_worker

HTML = b"<html>502 Bad Gateway</html>"


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    with queue_worker(tmp_path_factory.mktemp("worker"), MAX_CONCURRENCY="4") as worker:
        yield worker


@pytest.fixture
def worker(shared):
    shared.lines()
    return shared


@pytest.mark.parametrize(
    ("answer", "reasons"),
    [
        (b'[{"input": {"prompt": "a"}}]', ["it has no id"]),
        (b'{"input": {"prompt": "a"}}', ["it has no id"]),
        (b"[null]", ["it must be an object, got null"]),
        (b"[1, [2]]", ["it must be an object, got a number", "it must be an object, got a list"]),
        (b"{}", ["it has no id"]),
        (b'[{"id": "../a", "input": {}}]', ["its id must be 1 to 256 letters, digits"]),
        (b'[{"id": ["a"], "input": {}}]', ["its id must be a string, got a list"]),
        (b'[{"id": true, "input": {}}]', ["its id must be a string, got a boolean"]),
        (b'"x"', ["the answer is a string, not a job or a list of jobs"]),
        (b"null", ["the answer is null, not a job or a list of jobs"]),
        (b'[{"id": "a", "inp', ["the answer is not JSON"]),
        (b'[{"id": "a", "input": "\xff"}]', ["the answer is not JSON"]),
        (HTML, ["the answer is not JSON"]),
        (b'[{"id": "a", "input": "' + b"x" * (130 << 20) + b'"}]', ["more than 134217728 bytes"]),
    ],
    ids=lambda value: value[:30].decode("latin-1") if isinstance(value, bytes) else "",
)
def test_what_is_no_job_is_refused_with_one_line_and_the_next_is_taken(worker, answer, reasons):
    content_type = "text/html" if answer is HTML else "application/json"
    worker.platform.faults.answer("take", answer, content_type=content_type)
    worker.poll()
    job = worker.run()
    assert job.output == [{"choices": [{"text": "hello"}], **usage(job)}]
    (line,) = worker.lines("refused a job", "no job could be taken")
    assert "; ".join(reasons) in line
    assert worker.process.poll() is None


def usage(job):
    return {"usage": job.output[0]["usage"]}


@pytest.mark.parametrize(
    ("item", "name", "reason"),
    [
        ({"id": "only-an-id"}, "only-an-id", "The job has no input."),
        ({"id": 5, "input": PROMPT}, "5", "The job's id must be a string, got a number."),
        (
            {"id": "text", "input": "x"},
            "text",
            "input must be a JSON object, got a string.",
        ),
    ],
    ids=["no input", "id is a number", "input is a string"],
)
def test_a_broken_job_with_an_id_fails_with_a_reason(worker, item, name, reason):
    """Beside a good one of the same poll."""
    platform = worker.platform
    job = platform.state.submit_taken(name)
    good = platform.state.submit_taken("good-" + name)
    answer = [item, {"id": good.id, "input": PROMPT}]
    platform.faults.answer("take", json.dumps(answer).encode())
    worker.poll()
    platform.wait(good.id, 60)
    platform.wait(name, 60)
    assert good.state is JobState.COMPLETED
    assert job.state is JobState.FAILED
    assert json.loads(job.error)["error"]["message"] == reason


def test_fields_that_a_job_cannot_have_do_no_harm(worker):
    """The SDK makes each one an attribute of its job."""
    job = worker.platform.state.submit_taken("odd-fields")
    item = {"id": job.id, "input": PROMPT, "self": 1, "__class__": 2, "refused": "x"}
    worker.platform.faults.answer("take", json.dumps(item).encode())
    worker.poll()
    assert worker.platform.wait(job.id, 60).state is JobState.COMPLETED


def test_a_job_that_runs_is_not_started_twice(worker):
    """Neither for its double in the same poll, nor for that of a later one; a retry is."""
    platform = worker.platform
    job = platform.state.submit_taken("double")
    item = {"id": job.id, "input": {"prompt": "endless", "stream": True}}
    platform.faults.answer("take", json.dumps([item, item]).encode())
    platform.faults.answer("take", json.dumps(item).encode())
    worker.poll()
    platform.wait_until(job.id, lambda job: job.chunks, 60)
    assert worker.run().state is JobState.COMPLETED
    assert len(worker.lines("double is running already")) == 2
    platform.cancel(job.id)
    while not worker.lines(r"\[double\] .*cancelled"):
        worker.run()
    platform.faults.answer("take", json.dumps(item | {"input": PROMPT}).encode())
    worker.poll()
    while not worker.lines(r"\[double\] .* 200 ok"):
        worker.run()


@pytest.mark.parametrize("status", [500, 429, 400, 403])
def test_a_platform_that_refuses_every_poll_is_asked_with_pauses(worker, status):
    """At most five times a second, and in few lines; a job is taken as soon as it may be."""
    platform = worker.platform
    asked, began = platform.requests["job-take-batch"], time.monotonic()
    platform.faults.fail("take", status=status, times=1000)
    worker.poll()
    platform.wait_until_requests("job-take-batch", asked + 4)
    left = platform.faults.remaining("take")
    platform.faults.clear("take")
    assert 0 < 1000 - left <= 2 + 5 * (time.monotonic() - began)
    assert worker.run().state is JobState.COMPLETED
    lines = worker.lines("no job could be taken", "Failed", "rror")
    lines = [line for line in lines if "Ping Request Error" not in line]
    assert len(lines) <= 3
    assert all(f"the platform answered {status}" in line for line in lines)


def test_a_reset_in_the_middle_and_a_slow_answer(worker):
    platform = worker.platform
    platform.faults.cut("take", json.dumps([{"id": "lost", "input": PROMPT}]).encode())
    platform.faults.drop("take", times=2)  # the client itself tries once more
    platform.faults.delay("take", 0.5)
    platform.faults.drop("done")
    platform.faults.delay("done", 0.5)
    worker.poll()
    assert worker.run().state is JobState.COMPLETED
    assert platform.faults.remaining("take") == platform.faults.remaining("done") == 0
    lines = worker.lines("no job could be taken")
    assert [line.partition("taken: ")[2].partition(":")[0].partition(";")[0] for line in lines] == [
        "ClientPayloadError",
        "ServerDisconnectedError",
    ]


def test_the_last_result_is_sent_again_after_each_refusal(tmp_path):
    """Two answers 429 to the POST of a job that the second SIGTERM fails."""
    with queue_worker(tmp_path, FAULT="short pauses", DRAIN_TIMEOUT="60") as worker:
        name = worker.platform.submit({"prompt": "wait"})
        worker.platform.wait_until(name, lambda job: job.state is JobState.IN_PROGRESS, 60)
        worker.platform.wait_for_worker(
            20, lambda seen: seen.pings and name in seen.pings[-1].job_ids
        )
        worker.platform.faults.fail("done", status=429, times=2)
        worker.process.send_signal(signal.SIGTERM)
        worker.wait_for_lines("SIGTERM: waiting for 1 job")
        worker.process.send_signal(signal.SIGTERM)
        assert worker.process.wait(60) == 0
        job = worker.platform.wait(name)
        assert json.loads(job.error)["error"]["code"] == 503
        assert len(worker.lines("the POST of a result failed .429")) == 2


def test_a_loop_that_ends_by_an_exception_ends_the_worker(tmp_path):
    """With its own code; what runs fails with a reason first."""
    with queue_worker(tmp_path, FAULT="stop signals") as worker:
        platform = worker.platform
        running, stopped = (platform.submit({"prompt": "wait"}) for _ in range(2))
        for name in (running, stopped):
            platform.wait_until(name, lambda job: job.state is JobState.IN_PROGRESS, 60)
        platform.cancel(stopped)
        assert worker.process.wait(60) == 6
        job = platform.wait(running)
        assert job.state is JobState.FAILED
        error = json.loads(job.error)["error"]
        reason = "The worker failed; it is being replaced."
        assert (error["code"], error["message"]) == (503, reason)
        lines = worker.lines("loop that takes stop signals ended by", "Session is closed")
        assert len(lines) == 3  # the head of the traceback, the reason, the last line
        assert not any("Session is closed" in line for line in lines)


def test_a_job_on_which_the_sdk_fails_ends(tmp_path):
    """It fails, the worker lives on, and the job's slot is free again."""
    with queue_worker(tmp_path, FAULT="a job", MAX_CONCURRENCY="1") as worker:
        job = worker.run()
        assert job.state is JobState.FAILED
        assert json.loads(job.error)["error"]["code"] == 500
        assert worker.run().state is JobState.COMPLETED


def test_a_thread_that_ends_by_an_exception_ends_the_worker(tmp_path):
    """Like a loop: with its code, after what runs has failed."""
    with queue_worker(tmp_path) as worker:
        running = worker.platform.submit({"prompt": "wait"})
        worker.platform.wait_until(running, lambda job: job.state is JobState.IN_PROGRESS, 60)
        worker.process.send_signal(signal.SIGUSR1)
        assert worker.process.wait(60) == 6
        job = worker.platform.wait(running)
        assert job.state is JobState.FAILED
        assert json.loads(job.error)["error"]["code"] == 503
        [*_, last] = worker.lines("monitor ended by RuntimeError")
        reason = (
            "The worker's monitor ended by RuntimeError. The platform must replace this worker."
        )
        assert last == reason


def ping_process(worker, ended=()):
    """Return the SDK's process, once there is one beside `ended`; another child is the engine's."""
    found = []

    def look():
        found.clear()
        for child in psutil.Process(worker.process.pid).children():
            with contextlib.suppress(psutil.NoSuchProcess):
                if child.name() != "sleep" and child.pid not in ended:
                    found.append(child)
        return found

    wait_until(look, 60)
    return found[0]


def test_the_process_of_pings_is_started_again(worker):
    """The pings go on, and name the running jobs."""
    platform = worker.platform
    running = platform.submit({"prompt": "endless", "stream": True})
    platform.wait_until(running, lambda job: job.chunks, 60)
    killed = ping_process(worker)
    killed.kill()
    assert len(worker.wait_for_lines("process of pings ended with -9 and is started again")) == 1
    [seen] = platform.workers.values()
    before = len(seen.pings)
    wait_until(lambda: any(running in ping.job_ids for ping in seen.pings[before:]), 60)
    ping_process(worker, ended=[killed.pid])
    platform.cancel(running)
    assert worker.run().state is JobState.COMPLETED


def test_a_process_of_pings_that_ends_again_and_again_ends_the_worker(tmp_path):
    with queue_worker(tmp_path) as worker:
        worker.run()
        killed = set()
        for _ in range(5):
            process = ping_process(worker, ended=killed)
            killed.add(process.pid)
            process.kill()
        assert worker.process.wait(60) == 6
        assert worker.lines("process of pings ended by ChildProcessError")


def test_the_process_of_pings_ends_with_a_worker_that_is_killed(tmp_path):
    with queue_worker(tmp_path) as worker:
        worker.run()
        pings = ping_process(worker)
        worker.process.kill()
        wait_until(lambda: running([pings]) == [])


def test_pings_that_name_too_many_jobs_are_refused_until_some_have_ended(tmp_path):
    """As the warning of such a MAX_CONCURRENCY says; as many as fit are named."""
    with queue_worker(tmp_path, MAX_CONCURRENCY="999", RUNPOD_LOG_LEVEL="DEBUG") as worker:
        platform = worker.platform
        fitting = pinged_jobs(platform.worker_environment())
        [warning] = worker.wait_for_lines("MAX_CONCURRENCY=999")
        assert f"with more than {fitting} jobs running" in warning

        async def submit():
            return platform.state.submit({"prompt": "wait"}, sync=True)

        def pinged(count):
            [seen] = platform.workers.values()
            wait_until(lambda: seen.pings and len(seen.pings[-1].job_ids) == count, 30)

        jobs = [platform.run_in_loop(submit()) for _ in range(fitting)]
        pinged(fitting)
        jobs += [platform.run_in_loop(submit()) for _ in range(5)]
        worker.wait_for_lines(r"Heartbeat Sent .* Status: 400")
        for job in jobs[:6]:
            platform.cancel(job.id)
        pinged(fitting - 1)
        assert worker.run().state is JobState.COMPLETED


def test_a_large_job_is_answered_or_fails_alone_beside_a_stream(worker):
    """A job of 18 MB whose values are too many; a text as large; a small job of the same poll."""
    platform = worker.platform
    stream = platform.submit({"prompt": "endless", "stream": True})
    platform.wait_until(stream, lambda job: job.chunks, 60)
    values, text, small = (
        platform.state.submit_taken(name) for name in ("values", "text", "small")
    )
    nested = b",".join([b'["a"]'] * 3_000_000)
    inputs = {
        values.id: b'{"messages":[{"role":"user","content":[' + nested + b"]}]}",
        text.id: json.dumps(PROMPT | {"user": "x" * 18_000_000}).encode(),
        small.id: json.dumps(PROMPT).encode(),
    }
    items = [b'{"id":"%b","input":%b}' % (name.encode(), data) for name, data in inputs.items()]
    platform.faults.answer("take", b"[" + b",".join(items) + b"]")
    worker.poll()
    for job in (values, text, small):
        platform.wait(job.id, 60)
    assert (text.state, small.state) == (JobState.COMPLETED, JobState.COMPLETED)
    error = json.loads(values.error)["error"]
    assert (error["code"], error["type"]) == (413, "RequestTooLargeError")
    assert "the limit that MAX_JSON_VALUES sets" in error["message"]
    chunks = len(platform.job(stream).chunks)
    platform.wait_until(stream, lambda job: len(job.chunks) > chunks, 60)
    platform.cancel(stream)
