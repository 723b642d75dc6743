"""A batch through the worker: formats, limits, ends, resumption.

A real engine answers a batch in tests/engine/test_queue.py. The servers are real and on this
machine, so 127.0.0.1 counts as public here.
"""

import asyncio
import errno
import json
import resource

import pytest
from aiohttp import web

from handler.errors import RequestError
from handler.logs import job_id
from handler.request import safe_fetch
from handler.request.safe_fetch import is_public
from handler.serve.batch import input, jsonl, output, run, spool
from handler.serve.batch.output import RESCUE_TIMEOUT_SECONDS
from handler.serve.batch.request import parse_batch_request
from handler.serve.batch.spool import Spool
from handler.serve.worker import LAST_OUTPUT_GRACE_SECONDS, NoFrontEnd
from tests.support.stand_in_engine import USAGE, worker_on


class ProgressLog(NoFrontEnd):
    """A front end that keeps the progress reports of batches."""

    def __init__(self):
        self.reports = []
        self.failure = None

    @property
    def done(self):
        """How many lines are done, by the last report."""
        _, counts = self.reports[-1] if self.reports else ("", {"completed": 0, "failed": 0})
        return counts["completed"] + counts["failed"]

    async def report_progress(self, job, counts):
        self.reports.append((job["id"], counts))
        if self.failure is not None:
            raise self.failure


@pytest.fixture
def progress():
    return ProgressLog()


@pytest.fixture
def worker(runtime, progress):
    return worker_on(runtime, front_end=progress)


@pytest.fixture(autouse=True)
def local_servers_and_fast_progress(monkeypatch):
    monkeypatch.setattr(run, "PROGRESS_INTERVAL_SECONDS", 0.01)
    monkeypatch.setattr(
        safe_fetch, "is_public", lambda text: text == "127.0.0.1" or is_public(text)
    )


def line(custom_id, prompt="Hi", **more):
    whole = {"custom_id": custom_id, "method": "POST", "url": "/v1/completions"}
    return whole | {"body": {"prompt": prompt}} | more


def outputs(worker, batch):
    async def collected():
        return [output async for output in worker.handle({"id": "j", "input": {"batch": batch}})]

    return asyncio.run(collected())


def results(worker, *requests, **batch):
    """Run a batch whose results are its one output."""
    [output] = outputs(worker, {"requests": list(requests), **batch})
    return output["results"]


def text(result):
    return result["response"]["body"]["choices"][0]["text"]


def error(output):
    return json.loads(output["error"])["error"]


class Store:
    """A server that keeps what is put, and gives it back; a file's name may say how."""

    def __init__(self):
        self.files, self.puts, self.refusals = {}, [], []

    async def __aenter__(self):
        app = web.Application(client_max_size=10_000_000)
        app.router.add_put("/{name}", self._put)
        app.router.add_get("/{name}", self._get)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_):
        await self._runner.cleanup()

    async def _put(self, request):
        if self.refusals:
            return web.Response(status=self.refusals.pop(0), headers={"location": "/other"})
        assert request.headers["content-length"] == str(len(await request.read()))
        assert "content-type" not in request.headers
        self.files[request.match_info["name"]] = await request.read()
        self.puts.append(self.lines(request.match_info["name"]))
        return web.Response()

    async def _get(self, request):
        if (content := self.files.get(request.match_info["name"])) is None:
            raise web.HTTPNotFound
        return web.Response(body=content)

    def lines(self, name):
        return [json.loads(each) for each in self.files[name].splitlines()]


def stored(worker, files, more=None, refusals=(), **batch):
    """Run a batch whose addresses are in a store; return its outputs and the store."""

    async def collected():
        async with Store() as store:
            store.files |= {name: as_file(content) for name, content in files.items()}
            store.refusals += refusals
            named = {
                name: f"{store.url}/{value}" if name.endswith("url") else value
                for name, value in batch.items()
            }
            job = {"id": "j", "input": {"batch": named}}
            if more is not None:
                await more(job, store)
                return [], store
            return [output async for output in worker.handle(job)], store

    return asyncio.run(collected())


async def until(condition):
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.01)


def as_file(content):
    if isinstance(content, bytes):
        return content
    return b"".join(json.dumps(each).encode() + b"\n" for each in content)


# ---- lines


def test_each_line_has_its_result_in_the_order_of_the_lines(worker, engine):
    """However long each takes; the form is that of OpenAI's output file."""
    prompts = ["slow", "b", "c", "slow", "e"]
    [output] = outputs(
        worker, {"requests": [line(f"id-{p}-{n}", p) for n, p in enumerate(prompts)]}
    )
    assert output["batch"] == {"total": 5, "completed": 5, "failed": 0}
    assert [text(each) for each in output["results"]] == prompts
    assert output["results"][1] == {
        "id": "batch_req_j-2",
        "custom_id": "id-b-1",
        "response": {
            "status_code": 200,
            "request_id": "j-2",
            "body": {"choices": [{"text": "b"}], "usage": USAGE},
        },
        "error": None,
    }


BROKEN = [
    (1, "invalid_line", "Line 2 is not a JSON object."),
    ([], "invalid_line", "Line 2 is not a JSON object."),
    (
        line("x") | {"custom_id": None},
        *("missing_custom_id", "Line 2 needs a custom_id, which must be a string."),
    ),
    (line(7), "missing_custom_id", "Line 2 needs a custom_id, which must be a string."),
    (
        line("\ud800"),
        *("missing_custom_id", "Line 2 has a lone surrogate in its custom_id."),
    ),
    (line("first"), "duplicate_custom_id", "Line 2 has the custom_id of line 1."),
    (
        line("x", method="GET"),
        *("invalid_method", "Line 2 has the method 'GET'; it must be 'POST'."),
    ),
    (
        line("x", url="/v1/load_lora_adapter"),
        "invalid_url",
        "Line 2 has an invalid url: /v1/load_lora_adapter is not for callers: it changes the",
    ),
    (
        line("x", url="/v1/images"),
        "invalid_url",
        "Line 2 has an invalid url: There is no route '/v1/images'. Routes: chat/completions, ",
    ),
    (
        line("x", url="/v1/models"),
        *("invalid_url", "Line 2 has the url '/v1/models', which is a GET route."),
    ),
    (line("x", url=1), "invalid_url", "Line 2 has the url 1; it must be a string."),
    (line("x", body=None), "invalid_body", "Line 2 needs a body, which must be a JSON object."),
    (
        line("x", body={"prompt": "a", "stream": True}),
        "invalid_body",
        "Line 2 has stream in its body; a batch line cannot be streamed.",
    ),
]


@pytest.mark.parametrize(("broken", "code", "message"), BROKEN)
def test_a_broken_line_costs_only_itself(worker, engine, broken, code, message):
    """It has an error instead of a response, with its number; the engine never sees it."""
    [output] = outputs(worker, {"requests": [line("first", "a"), broken, line("last", "b")]})
    first, result, last = output["results"]
    assert (text(first), text(last)) == ("a", "b")
    assert result["response"] is None
    assert (result["error"]["code"], result["error"]["message"][: len(message)]) == (code, message)
    assert output["batch"] == {"total": 3, "completed": 2, "failed": 1}
    assert sorted(engine.prompts) == ["a", "b"]


@pytest.mark.parametrize(
    ("failing", "status", "message"),
    [
        (line("x", "refuse"), 400, "no"),
        (
            line("x", body={"prompt": "a", "model": "gpt"}),
            *(404, "The model `gpt` does not exist. Models: stand-in."),
        ),
    ],
    ids=["engine", "model"],
)
def test_a_line_that_is_refused_has_the_error_that_a_job_would_have(
    worker, failing, status, message
):
    """As the body of its response, with the status."""
    result, last = results(worker, failing, line("last"))
    assert (result["response"]["status_code"], result["error"]) == (status, None)
    found = result["response"]["body"]["error"]
    assert (found["code"], found["message"]) == (status, message)
    assert set(found) == {"message", "type", "param", "code"}
    assert text(last) == "Hi"


def test_a_line_that_takes_too_long_fails_and_the_batch_goes_on(runtime):
    """REQUEST_TIMEOUT is for each line, not for all of them."""
    worker = worker_on(runtime, request_timeout_seconds=10.0)
    first, second = results(worker, line("x", "wait"), line("y", "Hi"), concurrency=1)
    assert first["response"]["status_code"] == 408
    assert text(second) == "Hi"


# ---- lines at once


@pytest.mark.parametrize(("requested", "lines"), [(None, 4), (1, 1)], ids=["usual", "as asked"])
def test_no_more_lines_are_sent_at_once(worker, engine, requested, lines):
    """So that other jobs get their turn."""

    async def run_some():
        batch = {"requests": [line(n, "wait") for n in "abcdefgh"], "concurrency": requested}
        running = asyncio.create_task(anext(worker.handle({"id": "j", "input": {"batch": batch}})))
        await until(lambda: engine.running_requests == lines)
        [_] = [output async for output in worker.handle({"id": "k", "input": {"prompt": "Hi"}})]
        running.cancel()
        await asyncio.wait([running])

    asyncio.run(run_some())
    assert engine.max_running_requests == lines + 1


# ---- what a batch asks for


@pytest.mark.parametrize(
    ("batch", "message", "param"),
    [
        ([], 'batch must be a JSON object such as {"requests": […]}.', "batch"),
        ({}, "batch needs requests or url.", "batch"),
        (
            {"requests": [1], "url": "http://a"},
            "batch needs requests or url, not both.",
            "batch",
        ),
        ({"requests": []}, "requests must be a list of at least one line.", "requests"),
        ({"requests": {}}, "requests must be a list of at least one line.", "requests"),
        (
            {"requests": [1] * 50_001},
            "requests has 50001 lines; the limit is 50000.",
            "requests",
        ),
        ({"url": 1}, "url must be an http or https URL.", "url"),
        (
            {"requests": [1], "concurrency": 0},
            "concurrency must be an integer of at least 1, got 0.",
            "concurrency",
        ),
        (
            {"requests": [1], "output": "http://a"},
            "batch has no field 'output'; its fields are requests, url, output_url, resume_url, "
            "concurrency.",
            "output",
        ),
        (
            {"url": "http://10.0.0.1/x"},
            "The batch at 'http://10.0.0.1/x': 10.0.0.1 is not a public address.",
            "url",
        ),
        (
            {"url": "file:///etc/passwd"},
            "'file:///etc/passwd' must be an http or https URL.",
            "url",
        ),
        (
            {"requests": [1], "output_url": "http://[::1]/x?signature=secret"},
            "The output at 'http://[::1]/x': ::1 is not a public address.",
            "output_url",
        ),
        (
            {"requests": [1], "resume_url": "http://169.254.169.254/x"},
            "The earlier output at 'http://169.254.169.254/x': ",
            "resume_url",
        ),
    ],
)
def test_a_batch_that_means_nothing_fails_before_its_first_line(
    worker, engine, batch, message, param
):
    """With what would be right, and without what may be a signature."""
    [failed] = outputs(worker, batch)
    found = error(failed)
    assert (found["message"][: len(message)], found["param"]) == (message, param)
    assert engine.prompts == []


def test_nothing_goes_beside_a_batch(worker):
    """A misplaced field would be ignored otherwise."""

    async def answer():
        job = {"id": "j", "input": {"batch": {"requests": [1]}, "output_url": "http://a"}}
        return [output async for output in worker.handle(job)]

    [failed] = asyncio.run(answer())
    assert error(failed)["message"] == "'output_url' is not allowed beside batch."


def test_a_key_that_is_null_is_absent():
    """Beside a batch, and where the batch itself is null."""
    assert parse_batch_request({"batch": None, "prompt": "Hi"}) is None
    request = parse_batch_request({"batch": {"requests": [1]}, "prompt": None})
    assert request.requests == [1]


# ---- files


def test_a_batch_comes_from_an_address(worker, engine):
    """Its lines are bytes: some of them are no JSON, and an empty one is none."""
    content = as_file([line("a", "1")]) + b"\n{broken\r\n" + as_file([line("b", "2")]).strip()
    [output], _ = stored(worker, {"in": content}, url="in")
    assert output["batch"] == {"total": 3, "completed": 2, "failed": 1}
    first, broken, last = output["results"]
    assert (text(first), text(last)) == ("1", "2")
    assert broken["error"]["code"] == "invalid_json"
    assert broken["error"]["message"].startswith("Line 3 is not JSON: ")


def test_a_batch_may_begin_with_a_byte_order_mark(worker):
    """As editors on Windows write it."""
    content = b"\xef\xbb\xbf" + as_file([line("a", "1")])
    [output], _ = stored(worker, {"in": content}, url="in")
    assert text(output["results"][0]) == "1"


def test_a_line_that_is_too_long_is_broken(worker, monkeypatch):
    """However many pieces it comes in; the next ones are read."""
    monkeypatch.setattr(jsonl, "MAX_LINE_BYTES", 500)
    monkeypatch.setattr(input, "MAX_LINE_BYTES", 500)
    requests = [line("a"), line("b", "x" * 200_000), line("c")]
    [output], _ = stored(worker, {"in": requests}, url="in")
    first, long, last = output["results"]
    assert (text(first), text(last)) == ("Hi", "Hi")
    assert long["error"] == {
        "code": "line_too_long",
        "message": "Line 2 has more than 500 bytes.",
    }


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\n \n", "The batch has no lines."),
        ([1, 2, 3], "The batch has more than 2 lines."),
        (None, "cannot be fetched: the server answered 404."),
    ],
    ids=["empty", "too many", "gone"],
)
def test_a_file_that_is_no_batch(worker, monkeypatch, content, message):
    """The job fails, with the reason."""
    monkeypatch.setattr(input, "MAX_LINES", 2)
    [failed], _ = stored(worker, {"in": content} if content is not None else {}, url="in")
    assert error(failed)["message"].endswith(message)


def test_an_earlier_output_of_more_lines_than_a_batch_has_is_refused(worker, monkeypatch):
    """It would be kept in memory."""
    monkeypatch.setattr(input, "MAX_LINES", 2)
    [failed], _ = stored(
        worker, {"out": [1, 2, 3]}, requests=[line("a")], output_url="o", resume_url="out"
    )
    assert error(failed)["message"] == ("The earlier output has more than 2 lines.")


def test_a_line_is_kept_whole_or_not_at_all():
    """The disk may take a part of it; here a limit does."""
    with Spool() as kept:
        kept.add(1, b"a" * 50)
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
        try:
            with pytest.raises(RequestError, match=r"^The worker's disk is full: File too"):
                kept.add(2, b"b" * 80)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        kept.add(3, b"c")
        assert list(kept) == [(1, b"a" * 50), (3, b"c")]
        assert kept.bytes == 53


def test_a_disk_that_is_full_ends_the_batch_and_what_is_done_is_saved(
    worker, engine, monkeypatch, progress
):
    """With the reason."""

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    async def more(job, store):
        running = asyncio.create_task(anext(worker.handle(job)))
        await until(lambda: progress.done == 1)
        monkeypatch.setattr(spool.os, "pwrite", full)
        engine.may_answer.set()
        failed = error(await running)
        assert (failed["code"], failed["message"]) == (
            *(500, "The worker's disk is full: No space left on device."),
        )
        assert [each["custom_id"] for each in store.lines("out")] == ["b"]

    requests = [line("a", "wait"), line("b", "2")]
    stored(worker, {}, more, requests=requests, output_url="out")


def test_results_go_to_an_address(worker):
    """As lines in the order of the requests; the job's output is the counts."""
    requests = [line("a", "slow"), 7, line("b", "2")]
    [output], store = stored(worker, {"in": requests}, url="in", output_url="out")
    assert output == {"batch": {"total": 3, "completed": 2, "failed": 1}}
    assert [each["custom_id"] for each in store.lines("out")] == ["a", None, "b"]
    assert store.puts == [[], store.lines("out")]


def test_results_that_a_post_does_not_hold_come_in_several_outputs(worker, monkeypatch):
    """Together they are all results, in order; the counts are in the last one."""
    monkeypatch.setattr(output, "MAX_CHUNK_BYTES", 1_500)
    found = outputs(worker, {"requests": [line(str(n), "x" * 100) for n in range(6)]})
    assert len(found) > 1
    assert [each.get("batch") for each in found] == [
        *[None] * (len(found) - 1),
        {"total": 6, "completed": 6, "failed": 0},
    ]
    names = [result["custom_id"] for output in found for result in output["results"]]
    assert names == [str(n) for n in range(6)]


def test_results_that_a_job_cannot_bring_need_an_address(worker, monkeypatch):
    """The batch ends early: what comes after would be lost as well."""
    monkeypatch.setattr(output.InlineOutput, "max_bytes", 500)
    [failed] = outputs(worker, {"requests": [line(str(n)) for n in range(6)]})
    assert (error(failed)["code"], error(failed)["param"]) == (413, "output_url")
    assert error(failed)["message"].endswith(": set output_url.")


def test_an_address_that_takes_nothing_ends_the_batch_before_its_first_line(worker, engine):
    """A redirect is not followed."""
    [failed], _ = stored(
        worker, {}, refusals=[307], requests=[line("a")], output_url="out?signature=secret"
    )
    assert error(failed)["message"].endswith("/out' cannot be written: the server answered 307.")
    assert engine.prompts == []


def test_the_last_save_is_tried_again(worker, monkeypatch, caplog):
    """A store that is busy for a moment costs no results."""
    monkeypatch.setattr(output, "RETRY_PAUSES_SECONDS", (0.0, 0.0))

    async def more(job, store):
        async for _ in worker.handle(job):
            assert store.lines("out")[0]["custom_id"] == "a"

    async def begin(self):
        """The refusals are for the end."""

    monkeypatch.setattr(output.UploadedOutput, "begin", begin)
    stored(worker, {}, more, [503, 503], requests=[line("a")], output_url="out?signature=secret")
    assert caplog.text.count("cannot be written: the server answered 503. Trying again in 0 s") == 2
    assert "secret" not in caplog.text


# ---- ends before the last line


def test_what_is_done_is_saved_now_and_then(worker, monkeypatch):
    """Even where an earlier line is still to come."""
    monkeypatch.setattr(output, "MIN_SAVE_INTERVAL_SECONDS", 0.02)
    monkeypatch.setattr(output, "MAX_SAVE_SHARE", 1.0)

    async def more(job, store):
        running = asyncio.create_task(anext(worker.handle(job)))
        await until(lambda: any(len(put) == 2 for put in store.puts))
        running.cancel()
        await asyncio.wait([running])

    requests = [line("a", "wait"), line("b", "2"), line("c", "3")]
    _, store = stored(worker, {}, more, requests=requests, output_url="out")
    assert [each["custom_id"] for each in store.lines("out")] == ["b", "c"]


def test_a_batch_that_is_cancelled_saves_what_is_done_and_is_resumed(worker, engine, progress):
    """All of its lines leave the engine; a later batch asks only for what is missing."""

    async def more(job, store):
        running = asyncio.create_task(anext(worker.handle(job)))
        await until(lambda: progress.done == 2 and engine.running_requests == 1)
        running.cancel()
        await asyncio.wait([running])
        await until(lambda: not engine.running_requests)
        assert [each["custom_id"] for each in store.lines("out")] == ["b", "c"]
        kept = store.lines("out")[0]
        engine.prompts.clear()
        job["input"]["batch"]["requests"][0] = line("a", "1")
        job["input"]["batch"]["resume_url"] = f"{store.url}/out"
        [output] = [output async for output in worker.handle(job | {"id": "k"})]
        assert output == {"batch": {"total": 3, "completed": 2, "failed": 1, "resumed": 1}}
        assert [each["id"] for each in store.lines("out")] == [
            *("batch_req_k-1", "batch_req_j-2", "batch_req_k-3"),
        ]
        assert store.lines("out")[1] == kept

    requests = [line("a", "wait"), line("b", "2"), line("c", "refuse")]
    stored(worker, {}, more, requests=requests, output_url="out")
    assert sorted(engine.prompts) == ["1", "refuse"]


def test_nothing_to_resume_from_is_a_first_run(worker):
    """So the same job serves for the first run and for each one after it."""
    [output], _ = stored(
        worker, {}, requests=[line("a")], output_url="out", resume_url="out?signature=secret"
    )
    assert output == {"batch": {"total": 1, "completed": 1, "failed": 0, "resumed": 0}}


def test_an_engine_that_dies_fails_the_job_and_what_is_done_is_saved(worker, engine, progress):
    """No further line is sent."""

    async def more(job, store):
        running = asyncio.create_task(anext(worker.handle(job)))
        await until(lambda: progress.done == 1)
        engine.alive = False
        assert error(await running)["code"] == 503
        assert [each["custom_id"] for each in store.lines("out")] == ["b"]

    requests = [line("a", "wait"), line("b", "2"), *(line(str(n), "wait") for n in range(8))]
    stored(worker, {}, more, requests=requests, output_url="out")
    assert len(engine.prompts) <= 6


def test_while_there_is_a_batch_the_last_save_has_its_time(worker, engine):
    """A front end waits so long for jobs that have failed."""

    async def run():
        batch = {"requests": [line("a", "wait")]}
        running = asyncio.create_task(anext(worker.handle({"id": "j", "input": {"batch": batch}})))
        await until(lambda: engine.running_requests)
        during = worker.last_output_grace_seconds
        running.cancel()
        await asyncio.wait([running])
        return during, worker.last_output_grace_seconds

    assert asyncio.run(run()) == (RESCUE_TIMEOUT_SECONDS, LAST_OUTPUT_GRACE_SECONDS)


def test_a_worker_that_is_stopped_fails_the_job(worker, runtime, engine):
    """As a job of its own would; lines that wait are not sent."""

    async def answer():
        job = {"id": "j", "input": {"batch": {"requests": [line(n, "wait") for n in "abcdef"]}}}
        running = asyncio.create_task(anext(worker.handle(job)))
        await until(lambda: engine.running_requests == 4)
        runtime.fail_requests("The worker was stopped before the response was complete.")
        return await running

    failed = asyncio.run(answer())
    assert error(failed)["message"] == "The worker was stopped before the response was complete."
    assert len(engine.prompts) == 4


# ---- what is seen of it


def test_progress_is_reported_and_at_the_end_all_of_it(worker, progress):
    """With the job, for whoever posts it."""
    results(worker, line("a"), 7, *(line(str(n), "slow") for n in range(8)))
    assert {name for name, _ in progress.reports} == {"j"}
    counts = [each["completed"] + each["failed"] for _, each in progress.reports]
    assert counts == sorted(set(counts))
    assert len(counts) > 2
    assert progress.reports[0][1]["total"] == 10
    assert progress.reports[-1][1] == {"total": 10, "completed": 9, "failed": 1}


def test_progress_that_cannot_be_reported_costs_nothing(worker, progress):
    """The results matter."""
    progress.failure = OSError("nobody listens")
    assert text(results(worker, line("a"))[0]) == "Hi"


def test_the_log_has_a_line_for_each_line_and_one_for_the_batch(worker, caplog, monkeypatch):
    """With the job and the custom_id, of which no more is shown than is harmless."""
    caplog.set_level("INFO", "handler.metrics.request_log")
    names = []
    monkeypatch.setattr(caplog.handler, "filters", [lambda _: names.append(job_id.get()) or True])
    results(worker, line("a\nb" + "c" * 99, "secret"), 7, line("refused", "refuse"), concurrency=1)
    assert [(each.fields["route"], each.fields["status"]) for each in caplog.records] == [
        ("/v1/completions", 200),
        ("?", 400),
        ("/v1/completions", 400),
        ("batch", 200),
    ]
    assert names == ["j/ab" + "c" * 62, "j/2", "j/refused", "j"]
    assert "secret" not in caplog.text
