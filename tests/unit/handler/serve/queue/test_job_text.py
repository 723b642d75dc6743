"""Answers with jobs are decoded, and a large one holds no event loop."""

import asyncio
import contextlib
import gc
import json
import threading
from types import SimpleNamespace

import orjson
import pytest

from handler.request import json_text
from handler.request.body_limits import SUBMISSION_FACTOR, BodyLimits
from handler.serve.queue.job_take import LARGE, REFUSED, checked_job
from handler.serve.queue.job_text import OFF_LOOP_BYTES, JobDecoder, LargeJob
from handler.serve.queue.jobs import QueueJobs

LIMIT = 1_000
DECODER = JobDecoder(BodyLimits(max_values=LIMIT, max_items=LIMIT))
TEXT = "x" * OFF_LOOP_BYTES
SMALL = {"id": "small", "input": {"prompt": 'a "quoted" ]} brackets \\'}}
LARGE_TEXT = {"id": "large", "input": {"prompt": TEXT}}
VALUES = {"id": "values", "input": {"messages": [["[", 1]] * LIMIT * SUBMISSION_FACTOR}}
VALUES["input"]["messages"].append(TEXT)
MESSAGE = (
    f"The body has more than {LIMIT * SUBMISSION_FACTOR} JSON values, the limit that "
    f"MAX_JSON_VALUES sets ({LIMIT}, and as many as the context has tokens)."
)


def decode(answer):
    text = answer if isinstance(answer, bytes) else orjson.dumps(answer)
    return asyncio.run(DECODER.decode(text))


@pytest.mark.parametrize("answer", [[SMALL], SMALL, [], [[]], None, [SMALL, 1]], ids=str)
def test_a_small_answer_is_decoded_whole(answer):
    assert decode(answer) == answer


@pytest.mark.parametrize("answer", [[SMALL, LARGE_TEXT, 1], LARGE_TEXT], ids=["list", "one job"])
def test_jobs_of_a_large_answer_are_marked(answer):
    """Each is the same, and is parsed on a thread later."""
    found, size = decode(answer), len(orjson.dumps(answer))
    assert found == answer
    jobs = [each for each in (found if isinstance(found, list) else [found]) if each != 1]
    assert [(type(job), job.error) for job in jobs] == [(LargeJob, None)] * len(jobs)
    assert [checked_job(job) for job in jobs] == [{**job, LARGE: size} for job in jobs]


@pytest.mark.parametrize("place", [0, 1], ids=["first", "last"])
def test_a_job_with_too_many_values_fails_alone(place):
    """Its id is found, its input is not decoded; the other one is whole."""
    answer = [SMALL]
    answer.insert(place, VALUES)
    found = decode(answer)
    assert found[1 - place] == SMALL
    refused = checked_job(found[place])
    assert str(refused.pop(REFUSED)) == MESSAGE
    assert refused == {"id": "values", "input": None, LARGE: len(orjson.dumps(answer))}


def test_one_job_without_a_list_fails_too():
    [job] = decode(VALUES)
    assert (job["id"], str(job.error)) == ("values", MESSAGE)


@pytest.mark.parametrize("keep", [1, 20, 2 * OFF_LOOP_BYTES], ids=["begin", "job", "middle"])
def test_half_an_answer_is_not_json(keep):
    text = orjson.dumps([VALUES, VALUES, LARGE_TEXT])
    text = text[:-keep]
    assert len(text) > OFF_LOOP_BYTES
    with pytest.raises(ValueError, match="has no end"):
        decode(text)


def test_a_large_answer_is_decoded_on_a_thread_without_the_garbage_collector(monkeypatch):
    """The collector would take most of the time, and with the interpreter's lock."""
    seen = []
    loads = json.loads

    def seen_loads(text):
        seen.append((threading.current_thread() is threading.main_thread(), gc.isenabled()))
        return loads(text)

    monkeypatch.setattr(json_text.json, "loads", seen_loads)
    assert decode([LARGE_TEXT]) == [LARGE_TEXT]
    assert seen == [(False, False)]
    assert gc.isenabled()


def test_the_memory_of_a_large_job_is_released_at_its_end():
    """Also of one that fails before the engine sees it."""
    sizes = []
    record = SimpleNamespace(failed=lambda error: None)
    worker = SimpleNamespace(
        released=sizes.append, recorded=lambda name: contextlib.nullcontext(record)
    )

    async def run(item):
        return [output async for output in QueueJobs(worker).handle(checked_job(item))]

    [job] = decode(VALUES)
    [output] = asyncio.run(run(job))
    assert json.loads(output["error"])["error"]["message"] == MESSAGE
    assert sizes == [len(orjson.dumps(VALUES))]
