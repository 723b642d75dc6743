"""Jobs over HTTP: /run, /runsync and what belongs to them, and batches."""

import json

import pytest

from handler.serve.batch import run
from handler.serve.http import jobs
from tests.support.conditions import wait_until
from tests.support.expositions import value
from tests.support.http_front_end import PROMPT, STREAM, RunningFrontEnd, message
from tests.support.stand_in_engine import USAGE


def finished(http, name):
    def status():
        return http.call("GET", f"/status/{name}").json()

    wait_until(lambda: status()["status"] not in ("IN_QUEUE", "IN_PROGRESS"), 60)
    return status()


def test_a_job_is_run_and_its_result_is_kept(http):
    """As on a queue endpoint, from its id to its times."""
    submitted = http.call("POST", "/v2/any/run", json={"input": PROMPT}).json()
    assert submitted == {"id": submitted["id"], "status": "IN_QUEUE"}
    status = finished(http, submitted["id"])
    assert status["output"] == [{"choices": [{"text": "Hi"}], "usage": USAGE}]
    assert (status["status"], type(status["delayTime"]), type(status["executionTime"])) == (
        *("COMPLETED", int, int),
    )
    jobs = http.call("GET", "/health").json()["jobs"]
    assert jobs == {"inQueue": 0, "inProgress": 0, "completed": 1, "failed": 0, "retried": 0}


def test_a_jobs_stream_is_read_in_pieces(http):
    """Each call brings what is new; together it is all."""
    name = http.call("POST", "/run", json={"input": STREAM}).json()["id"]
    pieces, state = [], ""
    while state != "COMPLETED":
        answer = http.call("GET", f"/stream/{name}").json()
        pieces += [piece["output"] for piece in answer["stream"]]
        state = answer["status"]
    text = "".join(choice["text"] for piece in pieces for choice in piece["choices"])
    assert text == "one two"
    assert http.call("GET", f"/stream/{name}").json() == {"status": "COMPLETED", "stream": []}


def test_runsync_waits_no_longer_than_its_wait(http):
    """A job that is not over by then has its result at /status."""
    done = http.call("POST", "/runsync", json={"input": {"route": "completions", "body": PROMPT}})
    assert done.json()["output"] == [{"choices": [{"text": "Hi"}], "usage": USAGE}]
    body = {"input": {"prompt": "wait"}}
    early = http.call("POST", "/runsync?wait=50", json=body).json()
    assert early["status"] == "IN_PROGRESS"
    http.engine.may_answer.set()
    assert finished(http, early["id"])["status"] == "COMPLETED"


def test_a_job_that_fails_says_why(http):
    """Its error is the text that a queue's job has."""
    failed = http.call("POST", "/runsync", json={"input": {"nothing": 1}}).json()
    assert failed["status"] == "FAILED"
    assert json.loads(failed["error"])["error"]["code"] == 400


def test_a_job_is_cancelled_and_a_job_times_out(http):
    """Both are gone from the engine."""
    body = {"input": {"prompt": "endless", "stream": True}}
    name = http.call("POST", "/run", json=body).json()["id"]
    wait_until(lambda: http.engine.running_requests == 1)
    assert http.call("POST", f"/cancel/{name}").json() == {"id": name, "status": "CANCELLED"}
    wait_until(lambda: http.engine.running_requests == 0)
    assert http.call("GET", f"/status/{name}").json()["status"] == "CANCELLED"
    timed = http.call("POST", "/runsync", json=body | {"policy": {"executionTimeout": 100}}).json()
    assert (timed["status"], timed["error"]) == (*("TIMED_OUT", timed["error"]),)
    error = json.loads(timed["error"])["error"]
    assert (error["code"], error["message"]) == (
        *(408, "The request took longer than policy.executionTimeout=0.1 seconds."),
    )
    text = http.call("GET", "/metrics").text
    ended = 'llm_worker_requests_total{outcome="%s",route="/v1/completions"}'
    assert [value(text, ended % outcome) for outcome in ("cancelled", "timeout")] == [1, 1]
    wait_until(lambda: http.engine.running_requests == 0)
    assert http.admission.running == 0


def test_a_job_belongs_to_the_key_that_submitted_it(http):
    """For another key it does not exist, whatever it asks, and it runs on."""
    body = {"input": {"prompt": "endless", "stream": True}}
    name = http.call("POST", "/run", json=body).json()["id"]
    wait_until(lambda: http.engine.running_requests == 1)
    calls = [("GET", "status"), ("POST", "status"), ("GET", "stream"), ("POST", "cancel")]
    paths = [(method, f"/{route}/{name}") for method, route in calls]
    refused = [http.call(*each, key="two") for each in paths]
    unknown = f"There is no job {name!r}, or its result has expired."
    assert [(each.status_code, message(each)) for each in refused] == [(404, unknown)] * 4
    assert http.engine.running_requests == 1
    headers = {"x-api-key": "one"}
    assert http.call("GET", f"/status/{name}", key=None, headers=headers).status_code == 200
    assert http.call("POST", f"/cancel/{name}").json() == {"id": name, "status": "CANCELLED"}
    submitted = http.call("POST", "/run", key="two", json={"input": PROMPT}).json()["id"]
    assert http.call("GET", f"/status/{submitted}").status_code == 404
    assert http.call("GET", f"/status/{submitted}", key="two").status_code == 200


def test_the_oldest_results_make_room(http, monkeypatch):
    """Where all of them together are too large."""
    monkeypatch.setattr(jobs, "MAX_KEPT_BYTES", 300)
    names = [http.call("POST", "/runsync", json={"input": PROMPT}).json()["id"] for _ in "abc"]
    statuses = [http.call("GET", f"/status/{name}").status_code for name in names]
    assert statuses == [404, 200, 200]


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ([], 'The body must be a JSON object with an "input".'),
        ({}, 'The body must be a JSON object with an "input".'),
        ({"input": {}, "webhook": "http://x"}, "webhook is not supported: get the result from"),
        ({"input": {}, "policy": []}, None),
        ({"input": {}, "policy": "x"}, "policy must be a JSON object."),
        (
            {"input": {}, "policy": {"executionTimeout": "1"}},
            "policy.executionTimeout must be a positive number of milliseconds, got '1'.",
        ),
    ],
)
def test_an_invalid_job_is_refused(shared_http, body, error):
    """400, and what would be right."""
    answer = shared_http.call("POST", "/run", json=body)
    if error is None:  # as good as none
        assert answer.status_code == 200
    else:
        assert (answer.status_code, message(answer)[: len(error)]) == (400, error)


def batch_of(*prompts, **more):
    return {
        "requests": [
            {"custom_id": p, "method": "POST", "url": "/v1/completions", "body": {"prompt": p}}
            for p in prompts
        ],
        **more,
    }


def test_a_batch_is_one_job_whose_lines_are_requests(http, monkeypatch):
    """Its progress stands where its output will be."""
    monkeypatch.setattr(run, "PROGRESS_INTERVAL_SECONDS", 0.02)
    job = {"input": {"batch": batch_of("a", "b", "c", "wait", concurrency=2)}}
    name = http.call("POST", "/run", json=job).json()["id"]
    done = {"total": 4, "completed": 3, "failed": 0}
    wait_until(lambda: http.call("GET", f"/status/{name}").json().get("output") == done)
    assert http.admission.running == 1
    assert http.complete().status_code == 200
    http.engine.may_answer.set()
    status = finished(http, name)
    [output] = status["output"]
    assert output["batch"] == done | {"completed": 4}
    assert [each["custom_id"] for each in output["results"]] == ["a", "b", "c", "wait"]
    metrics = http.call("GET", "/metrics").text
    ended = 'llm_worker_requests_total{outcome="ok",route="%s"}'
    assert value(metrics, ended % "/v1/completions") == 5
    assert value(metrics, ended % "batch") == 1


def test_no_more_batches_than_some_and_a_job_keeps_its_room(http, monkeypatch):
    """Each may be large: its body counts until it is over."""
    monkeypatch.setattr(jobs, "MAX_BATCHES", 1)
    job = {"input": {"batch": batch_of("wait", concurrency=1)}}
    name = http.call("POST", "/run", json=job).json()["id"]
    refused = http.call("POST", "/run", json=job)
    assert (refused.status_code, message(refused)) == (
        *(429, "The limit of 1 concurrent batches is reached: try again later."),
    )
    room = http.front_end._app._memory
    assert room.taken_bytes == len(json.dumps(job, separators=(",", ":")))
    assert http.complete().status_code == 200
    http.engine.may_answer.set()
    finished(http, name)
    wait_until(lambda: room.taken_bytes == 0)
    assert http.call("POST", "/runsync", json=job).json()["status"] == "COMPLETED"


def test_the_lines_of_a_batch_take_slots_like_requests():
    """With one slot one line is sent at a time, and a drain waits for all of them."""
    with RunningFrontEnd(max_jobs=1) as http:
        http.open()
        job = {"input": {"batch": batch_of("wait", "b", "c", concurrency=3)}}
        name = http.call("POST", "/run", json=job).json()["id"]
        admission = http.admission
        wait_until(lambda: http.engine.running_requests == 1)
        assert (admission.running, admission.waiting) == (1, 0)
        http.terminate()
        wait_until(lambda: http.ping() == 503)
        http.engine.may_answer.set()
        [output] = finished(http, name)["output"]
        assert output["batch"] == {"total": 3, "completed": 3, "failed": 0}
        assert (admission.running, http.engine.running_requests) == (0, 0)


def test_a_batch_is_cancelled_or_times_out_with_all_its_lines(http):
    """executionTimeout is for the whole of it."""
    job = {"input": {"batch": batch_of("a", "wait", "b", concurrency=2)}}
    name = http.call("POST", "/run", json=job).json()["id"]
    wait_until(lambda: http.engine.running_requests == 1)
    assert http.call("POST", f"/cancel/{name}").json()["status"] == "CANCELLED"
    wait_until(lambda: http.engine.running_requests == 0)
    timed = http.call("POST", "/runsync", json=job | {"policy": {"executionTimeout": 200}}).json()
    assert timed["status"] == "TIMED_OUT"
    wait_until(lambda: http.engine.running_requests == 0)
    assert http.admission.running == 0
