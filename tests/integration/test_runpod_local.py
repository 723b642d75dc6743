"""`runpod_local` with the SDK as its worker and real clients as its users, without an engine."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest
import requests

from runpod_local import (
    Job,
    JobState,
    Ping,
    Platform,
    Worker,
    running_platform,
    running_worker,
)
from runpod_local.faults import Kind

HANDLER = """
import asyncio, collections, json, runpod

stopped = collections.defaultdict(asyncio.Event)
tried = set()

async def handler(job):
    job_input = job["input"]
    route = job_input.get("openai_route")
    items = answer(route, job_input["openai_input"]) if route else work(job["id"], job_input)
    try:
        async for item in items:
            yield item
    finally:
        stopped[job["id"]].set()

async def work(job_id, job_input):
    if job_input["do"] == "yield":
        for value in job_input["values"]:
            yield value
    elif job_input["do"] == "hold":
        yield "started"
        await asyncio.Event().wait()
    elif job_input["do"] == "report when stopped":
        await stopped[job_input["id"]].wait()
        yield "stopped"
    elif job_input["do"] == "fail once":
        if job_id not in tried:
            tried.add(job_id)
            yield {"error": "not this time"}
        yield "this time"

async def answer(route, body):
    if route == "/v1/models":
        yield {"object": "list", "data": [{"id": "canned", "object": "model"}]}
    elif route == "/v1/messages":
        yield {"id": "m", "type": "message", "role": "assistant", "model": "canned",
               "content": [{"type": "text", "text": "Paris"}], "stop_reason": "end_turn",
               "stop_sequence": None, "usage": {"input_tokens": 1, "output_tokens": 1}}
    elif route == "/v1/echo":
        yield {"route": route, "body": body}
    elif route == "/v1/text":
        yield "plain text"
    elif route == "/v1/error":
        yield {"error": body["error"]}
    elif body.get("stream"):
        for word in ("Par", "is"):
            yield "data: " + json.dumps(chunk({"delta": {"content": word}})) + "\\n\\n"
        if body["model"] == "hold":
            await asyncio.Event().wait()
        if body["model"] == "breaks":
            yield {"error": "broken"}
        yield chunk({"delta": {}, "finish_reason": "stop"})
        yield "data: [DONE]\\n\\n"
    else:
        yield chunk({"message": {"role": "assistant", "content": "Paris"}})

def chunk(choice):
    return {"id": "c", "object": "chat.completion", "created": 1, "model": "canned",
            "choices": [{"index": 0, **choice}]}

runpod.serverless.start({
    "handler": handler, "return_aggregate_stream": True, "concurrency_modifier": lambda now: 4,
})
"""
USER = """
import json, os, runpod
endpoint = runpod.Endpoint("demo", api_key=os.environ["RUNPOD_API_KEY"])
job = endpoint.run({"input": {"do": "yield", "values": ["a", {"b": 1}]}})
print(json.dumps([list(job.stream()), job.output(), endpoint.purge_queue(timeout=60)]))
"""
HELLO: list[Any] = [{"role": "user", "content": "What is the capital of France?"}]


@pytest.fixture(scope="module")
def platform(handler: Path) -> Iterator[Platform]:
    """A platform with one worker that runs up to four jobs at once."""
    command = [sys.executable, str(handler)]
    environment = clean_environment(handler.parent)
    with (
        running_platform(ping_interval_seconds=1) as platform,
        running_worker(platform, command, environment),
    ):
        yield platform


@pytest.fixture
def empty() -> Iterator[Platform]:
    """A platform without a worker, on which a test can play one."""
    with running_platform(poll_seconds=0.05, stream_wait_seconds=0.05) as platform:
        yield platform


@pytest.fixture(scope="module")
def handler(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The worker's program, alone in a folder that is also its home."""
    path = tmp_path_factory.mktemp("worker") / "worker.py"
    path.write_text(HANDLER)
    return path


@pytest.fixture
def client(platform: Platform) -> Iterator[openai.OpenAI]:
    """OpenAI's own client, which must not hide an error by trying again."""
    with openai.OpenAI(
        base_url=platform.openai_base_url, api_key=platform.api_key, max_retries=0, timeout=60
    ) as client:
        yield client


def clean_environment(home: Path) -> dict[str, str]:
    """Return an environment without the caller's own RUNPOD_ variables and keys."""
    return {
        "PATH": os.defpath,
        "HOME": str(home),
        "RUNPOD_LOG_LEVEL": "WARN",
        "RUNPOD_SKIP_AUTO_SYSTEM_CHECKS": "true",
        "RUNPOD_SKIP_GPU_CHECK": "true",
    }


def send(platform: Platform, method: str, path: str, **options: Any) -> tuple[int, Any]:
    """Send a user's request; returns the status and the JSON answer."""
    headers = {"Authorization": f"Bearer {platform.api_key}"}
    response = requests.request(
        method, platform.base_url + path, headers=headers, timeout=60, **options
    )
    return response.status_code, response.json()


def post(platform: Platform, kind: str, job_id: str, body: Any) -> int:
    """Send a POST as the SDK's worker does; returns the status."""
    environment = platform.worker_environment()
    name = {"stream": "RUNPOD_WEBHOOK_POST_STREAM", "done": "RUNPOD_WEBHOOK_POST_OUTPUT"}[kind]
    url = environment[name].replace("$RUNPOD_POD_ID", "worker-1").replace("$ID", job_id)
    headers = {
        "Authorization": environment["RUNPOD_AI_API_KEY"],
        "Content-Type": "application/x-www-form-urlencoded",
    }
    data = json.dumps(body).encode()
    return requests.post(url + "&isStream=false", data, headers=headers, timeout=60).status_code


def take(platform: Platform, key: str | None = None) -> requests.Response:
    """Ask for a job as the SDK's worker does."""
    environment = platform.worker_environment()
    url = environment["RUNPOD_WEBHOOK_GET_JOB"].replace("$ID", "worker-1")
    headers = {"Authorization": key or environment["RUNPOD_AI_API_KEY"]}
    return requests.get(url + "&job_in_progress=0", headers=headers, timeout=60)


def finished_job(platform: Platform, *values: Any) -> Job:
    """Run a job that yields these values, and wait for its end."""
    return platform.wait(platform.submit({"do": "yield", "values": list(values)}), 20)


def held_job(platform: Platform, **options: Any) -> Job:
    """Start a job that yields once and then never ends."""
    job_id = platform.submit({"do": "hold"}, **options)
    return platform.wait_until(job_id, lambda job: job.chunks)


def stop_report(platform: Platform, job: Job) -> list[str]:
    """Return the worker's report after the job's handler has ended."""
    return list(platform.wait(platform.submit({"do": "report when stopped", "id": job.id})).output)


# a worker's jobs


def test_a_job_is_queued_and_its_yields_are_its_output(platform: Platform) -> None:
    status, answer = send(
        platform, "POST", "/run", json={"input": {"do": "yield", "values": [1, "zwei ü"]}}
    )
    assert (status, answer["status"]) == (200, "IN_QUEUE")
    platform.wait(answer["id"])
    status, answer = send(platform, "GET", f"/status/{answer['id']}")
    times = {answer.pop("delayTime"), answer.pop("executionTime")}
    assert {type(time) for time in times} == {int}
    job_id = answer.pop("id")
    assert answer == {"status": "COMPLETED", "workerId": "worker-1", "output": [1, "zwei ü"]}
    assert [chunk.output for chunk in platform.job(job_id).chunks] == [1, "zwei ü"]
    assert platform.job(job_id).chunks[1].body_bytes == len('{"output": "zwei ü"}'.encode())


def test_runsync_answers_with_the_result(platform: Platform) -> None:
    body = {"input": {"do": "yield", "values": ["a"]}}
    status, answer = send(platform, "POST", "/runsync?wait=5000", json=body)
    assert (status, answer["status"], answer["output"]) == (200, "COMPLETED", ["a"])
    assert answer["id"].startswith("sync-")


def test_each_stream_call_returns_the_chunks_since_the_last(platform: Platform) -> None:
    job = held_job(platform)
    path = f"/stream/{job.id}"
    assert send(platform, "GET", path) == (
        200,
        {"status": "IN_PROGRESS", "stream": [{"output": "started"}]},
    )
    platform.cancel(job.id)
    assert send(platform, "GET", path) == (200, {"status": "CANCELLED", "stream": []})
    job = finished_job(platform, 1, 2)
    assert send(platform, "GET", f"/stream/{job.id}") == (
        200,
        {"status": "COMPLETED", "stream": [{"output": 1}, {"output": 2}]},
    )
    assert send(platform, "GET", f"/stream/{job.id}") == (
        200,
        {"status": "COMPLETED", "stream": []},
    )


def test_the_sdks_own_endpoint_client_understands_the_responses(
    platform: Platform, tmp_path: Path
) -> None:
    environment = clean_environment(tmp_path) | {
        "RUNPOD_ENDPOINT_BASE_URL": platform.base_url.removesuffix("/demo"),
        "RUNPOD_API_KEY": platform.api_key,
    }
    command = [sys.executable, "-c", USER]
    printed = subprocess.run(command, env=environment, capture_output=True, check=True, timeout=60)
    values = ["a", {"b": 1}]
    assert json.loads(printed.stdout) == [values, values, {"removed": 0, "status": "completed"}]


def test_a_cancelled_job_ends_its_handler_and_posts_nothing(platform: Platform) -> None:
    """Cancelling a job in progress ends its handler, through job-stop, and nothing is posted."""
    job = held_job(platform)
    status, answer = send(platform, "POST", f"/cancel/{job.id}")
    assert (status, answer) == (200, {"id": job.id, "status": "CANCELLED"})
    assert stop_report(platform, job) == ["stopped"]
    assert (job.state, job.late_posts, job.done_bytes) == (JobState.CANCELLED, [], 0)


def test_a_job_cancelled_during_a_post_ends_its_handler(platform: Platform) -> None:
    platform.post_delay_seconds = 30
    try:
        job = held_job(platform)
        platform.cancel(job.id)
    finally:
        platform.post_delay_seconds = 0
    assert stop_report(platform, job) == ["stopped"]


def test_a_job_over_its_execution_timeout_is_timed_out_and_can_be_retried(
    platform: Platform,
) -> None:
    """A job over its time is TIMED_OUT, its handler is ended, and it can be retried."""
    job = held_job(platform, execution_timeout_seconds=6)
    assert platform.wait(job.id).state is JobState.TIMED_OUT
    assert stop_report(platform, job) == ["stopped"]
    assert send(platform, "POST", f"/retry/{job.id}")[0] == 200
    assert platform.wait(job.id).attempts == 2


def test_only_a_failed_job_can_be_retried(platform: Platform) -> None:
    """A failed job runs again under its id; one that completed cannot."""
    job = platform.wait(platform.submit({"do": "fail once"}))
    assert (job.state, job.error, job.output) == (JobState.FAILED, "not this time", None)
    assert send(platform, "POST", f"/retry/{job.id}") == (
        200,
        {"id": job.id, "status": "IN_QUEUE"},
    )
    assert platform.wait(job.id).output == ["this time"]
    assert send(platform, "POST", f"/retry/{job.id}") == (
        400,
        {"error": "a job that is COMPLETED cannot be retried"},
    )


def test_jobs_are_taken_in_batches_and_one_by_one(platform: Platform) -> None:
    """The SDK asks for a batch while it has several free slots, for one job with the last."""
    before = platform.requests.copy()
    jobs = [held_job(platform) for _ in range(3)]
    assert platform.requests["job-take-batch"] > before["job-take-batch"]
    assert finished_job(platform, "last slot").output == ["last slot"]
    assert platform.requests["job-take"] > before["job-take"]
    for job in jobs:
        platform.cancel(job.id)
    assert [stop_report(platform, job) for job in jobs] == [["stopped"]] * 3


def test_a_ping_names_the_jobs_in_progress(platform: Platform) -> None:
    """A heartbeat brings the SDK's version and the ids of the jobs in progress."""
    job = held_job(platform)
    named: list[Ping] = []

    def names_the_job(worker: Worker) -> bool:
        named[:] = [ping for ping in worker.pings if ping.job_ids == (job.id,)]
        return bool(named)

    platform.wait_for_worker(60, names_the_job)
    platform.cancel(job.id)
    assert (named[0].runpod_version, named[0].status) == ("1.12.0", None)
    assert stop_report(platform, job) == ["stopped"]


# what goes wrong between a worker and the platform


def test_a_chunk_over_the_limit_is_refused(platform: Platform) -> None:
    """A body of 1,000,000 bytes passes, one byte more is a 400, which the SDK does not repeat."""
    fits = "x" * (1_000_000 - len('{"output": ""}'))
    job = finished_job(platform, fits, fits + "x", "end")
    assert [chunk.output for chunk in job.chunks] == [fits, "end"]
    assert job.rejected_chunk_bytes == [1_000_001]
    assert job.output == [fits, fits + "x", "end"]


def test_the_sdk_loses_a_chunk_with_the_connection(platform: Platform) -> None:
    """A connection that breaks during a POST is not tried again: the chunk is gone."""
    platform.faults.drop("stream")
    assert [chunk.output for chunk in finished_job(platform, "a", "b").chunks] == ["b"]


def test_a_chunk_whose_answer_is_lost_was_taken(platform: Platform) -> None:
    """The connection breaks after the platform has recorded it."""
    platform.faults.lose("stream")
    assert [chunk.output for chunk in finished_job(platform, "a", "b").chunks] == ["a", "b"]
    assert platform.faults.remaining("stream") == 0


@pytest.mark.parametrize("route", ["stream", "done"])
def test_what_is_posted_is_taken_before_its_answer_is_cut(platform: Platform, route: Kind) -> None:
    platform.faults.cut(route, b'{"status": "accepted"}', is_answered=True)
    job = finished_job(platform, "a", "b")
    assert list(dict.fromkeys(chunk.output for chunk in job.chunks)) == ["a", "b"]
    assert (job.output, platform.faults.remaining(route)) == (["a", "b"], 0)


def test_a_500_on_job_stream_and_a_429_on_job_take_only_delay(platform: Platform) -> None:
    """Two 500s cost two more tries and no chunk, a 429 a pause: both five seconds, at once here."""
    posts = platform.requests["job-stream"]
    platform.faults.fail("stream", status=500, times=2)
    repeated = platform.submit({"do": "yield", "values": ["a", "b"]})
    platform.wait_until(repeated, lambda job: job.state is JobState.IN_PROGRESS)
    platform.faults.fail("take", status=429)
    platform.release_polls()
    late = finished_job(platform, "c")
    assert [chunk.output for chunk in platform.wait(repeated).chunks] == ["a", "b"]
    assert (late.output, platform.faults.remaining("take")) == (["c"], 0)
    assert platform.requests["job-stream"] - posts == 2 + 2 + 1


# the OpenAI routes


def test_openais_client_gets_a_plain_response(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="canned", messages=HELLO)
    assert answer.choices[0].message.content == "Paris"


def test_openais_client_gets_a_stream(client: openai.OpenAI) -> None:
    """OpenAI's client gets a stream: strings as they are, a dict as an event."""
    stream = client.chat.completions.create(model="canned", messages=HELLO, stream=True)
    choices = [chunk.choices[0] for chunk in stream]
    assert [choice.delta.content for choice in choices] == ["Par", "is", None]
    assert choices[-1].finish_reason == "stop"


def test_anthropics_client_gets_a_response(platform: Platform) -> None:
    """Anthropic's client gets an answer at the same place, with its own key header."""
    with anthropic.Anthropic(
        base_url=platform.anthropic_base_url, api_key=platform.api_key, max_retries=0
    ) as client:
        answer = client.messages.create(model="canned", max_tokens=9, messages=HELLO)
    assert answer.content[0].model_dump()["text"] == "Paris"


@pytest.mark.parametrize(
    ("method", "options", "body"),
    [
        pytest.param("GET", {}, {}, id="no-body"),
        pytest.param("POST", {"json": {"a": 1}}, {"a": 1}, id="object"),
        pytest.param("POST", {"json": [1]}, [1], id="list"),
    ],
)
def test_the_route_and_the_body_are_the_job_input(
    platform: Platform, method: str, options: dict[str, Any], body: Any
) -> None:
    assert send(platform, method, "/openai/v1/echo", **options) == (
        200,
        {"route": "/v1/echo", "body": body},
    )


def test_a_single_string_is_a_text_response(platform: Platform) -> None:
    headers = {"Authorization": f"Bearer {platform.api_key}"}
    response = requests.get(platform.openai_base_url + "/text", headers=headers, timeout=60)
    content_type = response.headers["Content-Type"]
    assert (content_type, response.text) == ("text/plain; charset=utf-8", "plain text")


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        pytest.param('{"error": {"message": "no", "code": 404}}', 404, "no", id="code"),
        pytest.param('{"error": {"message": "no", "code": 200}}', 500, "no", id="wrong-code"),
        pytest.param('{"error": {"message": "no", "code": "x"}}', 500, "no", id="text-code"),
        pytest.param("a traceback", 500, "a traceback", id="no-json"),
    ],
)
def test_a_job_that_fails_before_a_chunk_has_its_errors_status(
    platform: Platform, error: str, status: int, message: str, stream: bool
) -> None:
    answer = send(platform, "POST", "/openai/v1/error", json={"error": error, "stream": stream})
    assert (answer[0], answer[1]["error"]["message"]) == (status, message)


def test_a_job_that_fails_in_its_stream_ends_the_stream(
    platform: Platform, client: openai.OpenAI
) -> None:
    stream = client.chat.completions.create(model="breaks", messages=HELLO, stream=True)
    assert [chunk.choices[0].delta.content for chunk in stream] == ["Par", "is"]
    assert platform.job(stream.response.headers["X-Job-Id"]).state is JobState.FAILED


def test_a_user_who_disconnects_cancels_the_job(platform: Platform, client: openai.OpenAI) -> None:
    """Closing the stream cancels the job, down to its handler."""
    stream = client.chat.completions.create(model="hold", messages=HELLO, stream=True)
    assert next(stream).choices[0].delta.content == "Par"
    stream.close()
    job = platform.wait(stream.response.headers["X-Job-Id"])
    assert (job.state, stop_report(platform, job)) == (JobState.CANCELLED, ["stopped"])


# without a worker


def test_queued_jobs_are_counted_cancelled_and_purged(empty: Platform) -> None:
    first, *_ = [empty.submit({}) for _ in range(3)]
    assert send(empty, "POST", f"/cancel/{first}") == (200, {"id": first, "status": "CANCELLED"})
    none = {"idle": 0, "initializing": 0, "running": 0, "unhealthy": 0}
    jobs = {"completed": 0, "failed": 0, "inProgress": 0, "inQueue": 2, "retried": 0}
    assert send(empty, "GET", "/health") == (200, {"jobs": jobs, "workers": none})
    assert send(empty, "POST", "/purge-queue") == (200, {"removed": 2, "status": "completed"})
    assert take(empty).status_code == 204
    jobs["inQueue"] = 0
    assert send(empty, "GET", "/health") == (200, {"jobs": jobs, "workers": none | {"idle": 1}})


def test_runsync_answers_with_the_status_after_its_wait(empty: Platform) -> None:
    empty.settings.runsync_wait_seconds = 0.05
    status, answer = send(empty, "POST", "/runsync", json={"input": 1})
    assert (status, answer) == (200, {"id": answer["id"], "status": "IN_QUEUE"})


def test_progress_ends_no_job_and_late_posts_are_ignored(empty: Platform) -> None:
    job = empty.job(empty.submit({"a": 1}))
    assert take(empty).json() == {"id": job.id, "input": {"a": 1}}
    assert post(empty, "done", job.id, {"status": "IN_PROGRESS", "output": "half"}) == 200
    assert (job.state, job.output) == (JobState.IN_PROGRESS, "half")
    empty.cancel(job.id)
    assert post(empty, "stream", job.id, {"output": 1}) == 200
    assert post(empty, "done", job.id, {"output": [1]}) == 200
    assert (job.state, job.chunks) == (JobState.CANCELLED, [])
    assert job.late_posts == ["stream", "done"]
    assert post(empty, "stream", "unknown", {"output": 1}) == 404


def test_each_side_needs_its_own_key(empty: Platform) -> None:
    assert take(empty, key=empty.api_key).status_code == 401
    for key in ("", "Bearer wrong", empty.settings.worker_key):
        for path in ("/health", "/status/x", "/openai/v1/models"):
            headers = {"Authorization": key}
            answer = requests.get(empty.base_url + path, headers=headers, timeout=60)
            assert answer.status_code == 401
    answer = requests.get(f"{empty.base_url}/health", timeout=60)
    assert answer.json() == {
        "error": "The API key is missing or wrong; this endpoint's is demo-user-key."
    }


@pytest.mark.parametrize("path", ["status", "stream", "cancel", "retry"])
def test_an_unknown_job_is_a_404(empty: Platform, path: str) -> None:
    method = "GET" if path in ("status", "stream") else "POST"
    assert send(empty, method, f"/{path}/nothing") == (404, {"error": "job not found"})


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        pytest.param("/run", b"{", 400, id="no-json"),
        pytest.param("/run", b"[]", 400, id="no-object"),
        pytest.param("/run", b'{"prompt": 1}', 400, id="no-input"),
        pytest.param("/run", b'{"input": 1, "policy": {"executionTimeout": "5"}}', 400, id="time"),
        pytest.param("/run", b'{"input": 1}'.ljust(10_000_000), 200, id="10-mb"),
        pytest.param("/run", b'{"input": 1}'.ljust(10_000_001), 413, id="over-10-mb"),
        pytest.param("/runsync", b'{"input": 1}'.ljust(20_000_001), 413, id="over-20-mb"),
        pytest.param("/openai/v1/completions", b"{", 400, id="openai-no-json"),
    ],
)
def test_a_bad_or_too_large_body_is_refused(
    empty: Platform, path: str, body: bytes, status: int
) -> None:
    assert send(empty, "POST", path, data=body)[0] == status
    assert send(empty, "GET", "/health")[1]["jobs"]["inQueue"] == (status == 200)


def test_a_request_may_have_its_own_execution_timeout(empty: Platform) -> None:
    """The request's own execution timeout counts, in milliseconds."""
    body = {"input": 1, "policy": {"executionTimeout": 5001}}
    job_id = send(empty, "POST", "/run", json=body)[1]["id"]
    assert empty.job(job_id).execution_timeout_seconds == 5.001


# python -m runpod_local


@contextmanager
def running_program(home: Path, *command: str) -> Iterator[subprocess.Popen[str]]:
    """Run the program, and end it."""
    environment = clean_environment(home) | {"PYTHONPATH": str(Path(__file__).parents[2])}
    program = subprocess.Popen(
        [sys.executable, "-m", "runpod_local", "--", *command],
        env=environment,
        cwd=home,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield program
    finally:
        program.terminate()
        program.communicate(timeout=40)


def test_the_program_prints_python_that_works_and_ends_on_sigterm(
    handler: Path, tmp_path: Path
) -> None:
    """It prints Python that works, and SIGTERM ends it and its worker with exit code 0."""
    with running_program(tmp_path, sys.executable, str(handler)) as program:
        assert program.stdout is not None
        lines = []
        for line in program.stdout:
            lines.append(line)
            if line.startswith("print("):
                break
        example = subprocess.run(
            [sys.executable, "-c", "".join(lines[-3:])],
            env=clean_environment(tmp_path),
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert (example.stdout, example.stderr) == ("Paris\n", "")
        assert re.search(r'model="canned"', lines[-1])
        program.send_signal(signal.SIGTERM)
        assert program.wait(60) == 0


def test_a_second_signal_kills_a_worker_that_ignores_sigterm(tmp_path: Path) -> None:
    """The first one is handed on as SIGTERM, and the worker has a minute to exit."""
    worker = (
        "import os, signal\n"
        "signal.signal(signal.SIGTERM, lambda *_: os.write(1, b'ignored\\n'))\n"
        "os.write(1, b'started\\n')\n"
        "while True: signal.pause()"
    )
    with running_program(tmp_path, sys.executable, "-c", worker) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == "started\n"
        program.send_signal(signal.SIGINT)
        assert program.stdout.readline() == "ignored\n"
        program.send_signal(signal.SIGINT)
        rest = program.communicate(timeout=60)[0]
    killed = "platform: the worker's remaining processes are killed\n"
    assert (rest, program.returncode) == (killed, 0)


@pytest.mark.parametrize(
    ("command", "code", "line"),
    [
        pytest.param(
            [sys.executable, "-c", "raise SystemExit(3)"],
            3,
            "platform: the worker ended by itself, exit code 3\n",
            id="exit",
        ),
        pytest.param(
            [sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"],
            137,
            "platform: the worker ended by itself, exit code -9\n",
            id="killed",
        ),
        pytest.param(
            ["no-such-program"],
            127,
            "platform: the worker cannot be started: "
            "[Errno 2] No such file or directory: 'no-such-program'\n",
            id="not-there",
        ),
    ],
)
def test_the_program_exits_with_the_code_of_a_worker_that_ends(
    tmp_path: Path, command: list[str], code: int, line: str
) -> None:
    with running_program(tmp_path, *command) as program:
        assert (program.communicate(timeout=60)[0], program.returncode) == (line, code)
